//! Random sequences of requests with random failures of the hardware, against
//! a model that knows what the device may reach.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_flushq::QueueConfig;
use dmabench_platform::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Map { pages: u64, offset: u64 },
    MapList { pages: Vec<u64> },
    Unmap { which: usize },
    Finish,
    Poll { advance_ns: u64 },
    Drain,
    Inject(Fault),
}

fn op() -> impl Strategy<Value = Op> {
    let pages = prop_oneof![4 => 1_u64..9, 1 => 512_u64..1100];
    prop_oneof![
        4 => (pages, 0_u64..PAGE).prop_map(|(pages, offset)| Op::Map { pages, offset }),
        1 => prop::collection::vec(1_u64..4, 1..6).prop_map(|pages| Op::MapList { pages }),
        5 => any::<usize>().prop_map(|which| Op::Unmap { which }),
        1 => Just(Op::Finish),
        2 => (0_u64..3000).prop_map(|advance_ns| Op::Poll { advance_ns }),
        1 => Just(Op::Drain),
        1 => prop_oneof![Just(Fault::Refuse), Just(Fault::RefuseSync), Just(Fault::Late)]
            .prop_map(Op::Inject),
    ]
}

/// A live mapping, and the physical page behind each of its pages.
struct Live {
    mapping: Mapping,
    phys: Vec<u64>,
}

struct World {
    domain: TestDomain,
    live: Vec<Live>,
    /// Late unmaps, and their pages.
    unfinished: Vec<(Unfinished, Vec<Iova>)>,
    /// Lazily unmapped pages, and when.
    waiting: Vec<(Iova, u64)>,
    now: u64,
    next_phys: u64,
    /// Whether a flush may have failed since the last one that worked.
    failing: bool,
}

const TIMEOUT_NS: u64 = 5000;

impl World {
    fn new(mode: Mode) -> Self {
        World {
            domain: domain_with(DomainConfig::new(mode).aperture(Iova(0x1000), Iova(0x7ff_ffff))),
            live: Vec::new(),
            unfinished: Vec::new(),
            waiting: Vec::new(),
            now: 0,
            next_phys: 1 << 32,
            failing: false,
        }
    }

    fn fresh(&mut self, pages: u64) -> u64 {
        let phys = self.next_phys;
        self.next_phys += (pages + 1) * PAGE;
        phys
    }

    fn remember(&mut self, mapping: Mapping, phys: Vec<u64>) {
        // A1: new addresses lead to the new buffer, whatever was there.
        for (page, phys) in pages(&mapping).zip(&phys) {
            assert_eq!(self.domain.backend().touch(page), Some(PhysAddr(*phys)));
            assert!(!self.waiting.iter().any(|(at, _)| *at == page));
        }
        self.live.push(Live { mapping, phys });
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Map { pages, offset } => {
                let phys = self.fresh(pages);
                let buffer = Segment {
                    phys: PhysAddr(phys + offset),
                    len_bytes: pages * PAGE - offset,
                };
                if let Ok(mapping) =
                    self.domain
                        .map(&Device::new(), buffer, Direction::Bidirectional)
                {
                    self.remember(mapping, (0..pages).map(|i| phys + i * PAGE).collect());
                }
            }
            Op::MapList { pages } => {
                let mut all = Vec::new();
                let segments: Vec<_> = pages
                    .iter()
                    .map(|&pages| {
                        let phys = self.fresh(pages);
                        all.extend((0..pages).map(|i| phys + i * PAGE));
                        Segment {
                            phys: PhysAddr(phys),
                            len_bytes: pages * PAGE,
                        }
                    })
                    .collect();
                let mut out = vec![DmaSegment::EMPTY; segments.len()];
                if let Ok(mapping) =
                    self.domain
                        .map_sg(&Device::new(), &segments, &mut out, Direction::ToDevice)
                {
                    self.remember(mapping, all);
                }
            }
            Op::Unmap { which } if !self.live.is_empty() => {
                let index = which % self.live.len();
                let live = self.live.swap_remove(index);
                let pages: Vec<_> = pages(&live.mapping).collect();
                match self.domain.unmap(live.mapping) {
                    Ok(()) if self.domain.config().mode == Mode::Strict => {
                        assert_eq!(stale(&self.domain, &pages), 0, "S1");
                    }
                    Ok(()) => {
                        let now = self.now;
                        self.waiting.extend(pages.into_iter().map(|at| (at, now)));
                    }
                    Err(UnmapError::NotInvalidated(unfinished)) => {
                        self.unfinished.push((unfinished, pages));
                    }
                    Err(UnmapError::Flush { mapping, .. }) => {
                        self.failing = true;
                        self.live.push(Live {
                            mapping,
                            phys: live.phys,
                        });
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            Op::Unmap { .. } => {}
            Op::Finish => {
                for (unfinished, pages) in std::mem::take(&mut self.unfinished) {
                    match self.domain.finish(unfinished) {
                        Ok(()) => assert_eq!(stale(&self.domain, &pages), 0, "S1"),
                        Err(UnmapError::NotInvalidated(again)) => {
                            self.unfinished.push((again, pages));
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            Op::Poll { advance_ns } => {
                self.now += advance_ns;
                match self.domain.poll(TimeNs(self.now)) {
                    Ok(_) if !self.failing => {
                        // L1. Each entry is stamped by the first poll after
                        // it: polls are at most 3000 ns apart.
                        let oldest = self.now.saturating_sub(TIMEOUT_NS + 3000);
                        for (at, since) in &self.waiting {
                            if *since < oldest && !self.is_mapped(*at) {
                                assert_eq!(self.domain.backend().touch(*at), None, "L1");
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(_) => self.failing = true,
                }
            }
            Op::Drain => {
                if self.domain.drain().is_ok() {
                    self.failing = false;
                    for (at, _) in std::mem::take(&mut self.waiting) {
                        if !self.is_mapped(at) {
                            assert_eq!(self.domain.backend().touch(at), None, "L2");
                        }
                    }
                }
            }
            Op::Inject(fault) => self.domain.backend().inject(fault),
        }
        // What left the queue may be mapped again.
        let held = self.domain.stats();
        if held.queued == 0 {
            self.waiting.clear();
        }
        self.waiting
            .retain(|(at, _)| self.domain.backend().touch(*at).is_some());
        for live in &self.live {
            let page = pages(&live.mapping).next().unwrap();
            assert_eq!(
                self.domain.translate(page).map(|t| t.paddr),
                Some(PhysAddr(live.phys[0]))
            );
        }
        assert_eq!(
            held.live_mappings,
            (self.live.len() + self.unfinished.len()) as u64
        );
        assert_eq!(self.domain.memory().freed_early(), 0, "A2");
    }

    fn is_mapped(&self, at: Iova) -> bool {
        self.domain.translate(at).is_some()
    }

    /// Everything comes back in the end (A10).
    fn end(mut self) {
        self.domain.backend().clear_faults();
        self.run(Op::Finish);
        assert!(self.unfinished.is_empty());
        while !self.live.is_empty() {
            self.run(Op::Unmap { which: 0 });
        }
        self.run(Op::Drain);
        assert_eq!(self.domain.stats().iova_pages_held, 0);
        assert_eq!(self.domain.stats().queued, 0);
        let memory = self.domain.memory().clone();
        self.domain.close().unwrap();
        assert_eq!(memory.freed_early(), 0);
        assert_eq!(memory.freed(), memory.allocated());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn s1_s3_a1_a2_a11_strict(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(Mode::Strict);
        for op in ops {
            world.run(op);
        }
        world.end();
    }

    #[test]
    fn l1_l2_a1_a2_a11_lazy(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(Mode::Lazy(QueueConfig {
            entries_per_slot: 8,
            timeout_ns: TIMEOUT_NS,
        }));
        for op in ops {
            world.run(op);
        }
        world.end();
    }
}
