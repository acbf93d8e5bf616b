//! What both whole-path benches measure: map and unmap through the public
//! `dma` API on the counting backend, and the lower bound.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "several bench programs include it, for a part each"
)]
#![allow(clippy::result_large_err, reason = "the error of the API under test")]

use std::{hint::black_box, sync::Arc};

use dmabench_dma::{
    Device, Direction, DmaSegment, Domain, DomainConfig, MapError, Mapping, Mode, Segment,
    UnmapError,
};
use dmabench_flushq::{BackendCounts, CountingBackend};
use dmabench_platform::{Fences, PhysAddr, Slots};

pub const PAGE: u64 = 4096;
/// Pairs in one measured call: four full rings in lazy mode.
pub const PAIRS: u64 = 1024;
/// The longest scatter list: 512 KiB, page by page.
pub const SEGMENTS: usize = 128;

/// A domain in use, and what is mapped in it over and over.
pub struct Bench {
    pub domain: Domain,
    pub device: Device,
    pub buffer: Segment,
    pub list: Vec<Segment>,
    pub out: Vec<DmaSegment>,
    before: BackendCounts,
}

// Through functions of their own, as a driver in another crate would call them.

#[inline(never)]
pub fn map(domain: &Domain, device: &Device, buffer: Segment) -> Result<Mapping, MapError> {
    domain.map(device, buffer, Direction::FromDevice)
}

#[inline(never)]
pub fn map_sg(
    domain: &Domain,
    device: &Device,
    list: &[Segment],
    out: &mut [DmaSegment],
) -> Result<Mapping, MapError> {
    domain.map_sg(device, list, out, Direction::FromDevice)
}

#[inline(never)]
pub fn unmap(domain: &Domain, mapping: Mapping) -> Result<(), UnmapError> {
    domain.unmap(mapping)
}

impl Bench {
    /// A warm domain: caches filled, tables there, rings full in lazy mode. For a
    /// buffer of so many pages, and a list of as many segments (at most 128).
    pub fn new(mode: Mode, pages: u64) -> Self {
        let segments = pages.min(SEGMENTS as u64);
        let slots = Arc::new(Slots::new(4, Fences::detect()).unwrap());
        let backend = CountingBackend::new(&slots);
        let domain = Domain::new(DomainConfig::new(mode), slots, backend, ()).unwrap();
        let mut bench = Bench {
            domain,
            device: Device::new().mask_bits(48).unwrap(),
            buffer: Segment {
                phys: PhysAddr(0x1_2345_1000),
                len_bytes: pages * PAGE,
            },
            // No two neighbours: each is a piece of its own.
            list: (0..segments)
                .map(|i| Segment {
                    phys: PhysAddr(0x1_0000_0000 + 3 * PAGE * i),
                    len_bytes: PAGE,
                })
                .collect(),
            out: vec![DmaSegment::EMPTY; SEGMENTS],
            before: BackendCounts::default(),
        };
        let mapping = map(&bench.domain, &bench.device, bench.buffer).unwrap();
        for page in 0..pages {
            let at = dmabench_platform::Iova(mapping.addr().0 + page * PAGE);
            let reached = bench.domain.translate(at).unwrap().paddr;
            assert_eq!(reached.0, bench.buffer.phys.0 + page * PAGE);
        }
        unmap(&bench.domain, mapping).unwrap();
        let mapping = map_sg(&bench.domain, &bench.device, &bench.list, &mut bench.out).unwrap();
        for (segment, out) in bench.list.iter().zip(&bench.out) {
            let reached = bench.domain.translate(out.addr).unwrap().paddr;
            assert_eq!(reached, segment.phys);
        }
        unmap(&bench.domain, mapping).unwrap();
        if mode.queue().is_some() {
            bench.domain.drain().unwrap();
        }
        for _ in 0..3 {
            bench.pairs();
            bench.sg_pairs();
        }
        bench.before = bench.domain.backend().counts();
        bench
    }

    /// `PAIRS` times map and unmap of the buffer.
    #[inline(never)]
    pub fn pairs(&mut self) {
        for _ in 0..PAIRS {
            match map(&self.domain, &self.device, self.buffer) {
                Ok(mapping) => unmap(&self.domain, mapping).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// 4096 times map and unmap of the buffer.
    pub fn long(&mut self) {
        for _ in 0..4096 / PAIRS {
            self.pairs();
        }
    }

    /// Flushes since the bench was made.
    pub fn flushes(&self) -> u64 {
        (self.domain.backend().counts() - self.before).flush_alls
    }

    /// `PAIRS` times map and unmap of the list.
    #[inline(never)]
    pub fn sg_pairs(&mut self) {
        for _ in 0..PAIRS {
            match map_sg(&self.domain, &self.device, &self.list, &mut self.out) {
                Ok(mapping) => unmap(&self.domain, mapping).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether `pairs` pairs were done as the mode says.
    pub fn check(&self, pairs: u64) {
        let done = self.domain.backend().counts() - self.before;
        match self.domain.config().mode {
            Mode::Strict => {
                assert_eq!(
                    (done.ranges, done.syncs, done.flush_alls),
                    (pairs, pairs, 0)
                );
            }
            _ => {
                let flushes = pairs / 256;
                assert_eq!(
                    (done.ranges, done.syncs, done.flush_alls),
                    (0, flushes, flushes)
                );
            }
        }
        assert_eq!(self.domain.stats().live_mappings, 0);
        assert_eq!(self.domain.stats().leaked_mappings, 0);
    }
}

/// The lower bound: the stores that no map and unmap of `pages` pages can do
/// without, into a table that is there, as wide as the compiler makes them.
pub struct Stores {
    table: Vec<u64>,
    pages: usize,
}

impl Stores {
    pub fn new(pages: u64) -> Self {
        Stores {
            table: vec![0; 512],
            pages: pages as usize,
        }
    }

    #[inline(never)]
    pub fn map(&mut self, phys: u64) {
        for (index, entry) in self.table[..self.pages].iter_mut().enumerate() {
            *entry = (phys + index as u64 * PAGE) | 3;
        }
        black_box(&mut self.table);
    }

    #[inline(never)]
    pub fn unmap(&mut self) {
        for entry in &mut self.table[..self.pages] {
            *entry = 0;
        }
        black_box(&mut self.table);
    }

    /// `PAIRS` times map and unmap.
    #[inline(never)]
    pub fn pairs(&mut self) {
        for round in 0..PAIRS {
            self.map(round << 32);
            self.unmap();
        }
    }

    pub fn check(&mut self) {
        self.map(0x7000);
        let last = self.table[self.pages - 1];
        assert_eq!(last, (0x7000 + (self.pages as u64 - 1) * PAGE) | 3);
        self.unmap();
        assert!(self.table.iter().all(|entry| *entry == 0));
    }
}
