//! Threads that map, let devices work, and unmap at random, on any street of
//! SMMU and driver.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test program includes it and uses a part"
)]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use dmabench_dma::{Device, Direction, Domain, Mapping, Mode, Segment};
use dmabench_flushq::{QueueConfig, TlbBackend};
use dmabench_pgtable::format::S1K4;
use dmabench_platform::{Clock, Iova, PhysAddr, ThreadSlots, TimeNs, VirtualClock};
use dmabench_smmu::soft::{Access, FaultKind, Outcome, SimDevice, SimMemory, SoftSmmu};

pub const THREADS: u64 = 4;
const PAGE: u64 = 4096;
pub const FLUSH_NS: u64 = 10_000_000;
const STEP_NS: u64 = 1_000;
const LIVE_MAX: usize = 12;
const GONE_MAX: usize = 48;
/// Physical pages of one thread. More than it can have live or gone at once, so
/// that each page belongs to one mapping at a time.
const PHYS_PAGES: u64 = 16_384;

pub type StreetDomain<B> = Domain<B, ThreadSlots, S1K4, Arc<SimMemory>>;

/// A domain, the SMMU it talks to, and a device for each thread.
pub trait Street: Sync {
    type Backend: TlbBackend;

    fn domain(&self) -> &StreetDomain<Self::Backend>;
    fn smmu(&self) -> &SoftSmmu;
    fn memory(&self) -> &SimMemory;
    fn clock(&self) -> &VirtualClock;
    fn device(&self, id: u64) -> SimDevice;
    /// Takes the thread's device away from the domain and brings it back.
    fn rewire(&self, id: u64, choice: u64);
    /// Called by every thread once in a while.
    fn serve(&self) {}
    /// How far others may move the clock between a deadline and the end of its
    /// flush.
    fn slack_ns(&self) -> u64 {
        100_000
    }
}

pub struct World<S> {
    pub street: S,
    strict: bool,
    stale: AtomicU64,
    oldest_ns: AtomicU64,
}

impl<S: Street> World<S> {
    pub fn new(street: S) -> Self {
        World {
            strict: street.domain().config().mode == Mode::Strict,
            street,
            stale: AtomicU64::new(0),
            oldest_ns: AtomicU64::new(0),
        }
    }

    /// Time passes, but not beyond a deadline before somebody has served it.
    fn tick(&self) {
        loop {
            let now = self.street.clock().now();
            match self.street.domain().next_deadline() {
                Some(due) if due <= now.saturating_add_ns(STEP_NS) => {
                    self.street.clock().advance_to(due);
                    self.street.domain().poll(due.max(now)).unwrap();
                    if self
                        .street
                        .domain()
                        .next_deadline()
                        .is_some_and(|d| d <= due)
                    {
                        // Another thread is at it.
                        std::thread::yield_now();
                    }
                }
                _ => {
                    self.street.clock().advance_ns(STEP_NS);
                    return;
                }
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

struct Live {
    mapping: Mapping,
    segment: Segment,
    direction: Direction,
}

struct Gone {
    iova: Iova,
    len_bytes: u64,
    phys: PhysAddr,
    at: TimeNs,
}

pub struct Worker<'w, S> {
    world: &'w World<S>,
    id: u64,
    random: Random,
    device: SimDevice,
    /// First page of the thread's own physical memory, and the next one to use.
    phys_base: u64,
    phys_next: u64,
    live: Vec<Live>,
    gone: VecDeque<Gone>,
}

impl<'w, S: Street> Worker<'w, S> {
    pub fn new(world: &'w World<S>, id: u64, seed: u64) -> Self {
        Worker {
            world,
            id,
            random: Random((seed ^ (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1),
            device: world.street.device(id),
            phys_base: (id + 1) << 36,
            phys_next: 0,
            live: Vec::new(),
            gone: VecDeque::new(),
        }
    }

    pub fn step(&mut self) {
        self.world.tick();
        match self.random.below(16) {
            0..=4 if self.live.len() < LIVE_MAX => self.map(),
            0..=9 if !self.live.is_empty() => self.unmap(),
            10..=11 if !self.live.is_empty() => self.transfer(),
            12..=13 if !self.live.is_empty() => self.touch(),
            14 => self.rewire(),
            _ => self.probe_gone(),
        }
    }

    fn rewire(&mut self) {
        let choice = self.random.next();
        if choice & 0xff < 16 {
            self.world.street.rewire(self.id, choice >> 8);
            self.device = self.world.street.device(self.id);
        }
        self.world.street.serve();
    }

    fn map(&mut self) {
        let pages = match self.random.below(8) {
            0..=3 => 1,
            4..=5 => 1 + self.random.below(16),
            6 => 32,
            _ => 1 + self.random.below(128),
        };
        if self.phys_next + pages + 1 > PHYS_PAGES {
            self.phys_next = 0;
        }
        let offset = self.random.below(2) * self.random.below(PAGE);
        let segment = Segment {
            phys: PhysAddr(self.phys_base + self.phys_next * PAGE + offset),
            len_bytes: pages * PAGE - self.random.below(PAGE - offset),
        };
        self.phys_next += pages + 1;
        let direction = match self.random.below(4) {
            0 => Direction::ToDevice,
            1 => Direction::FromDevice,
            _ => Direction::Bidirectional,
        };
        let mapped = self
            .world
            .street
            .domain()
            .map(&Device::new(), segment, direction);
        self.live.push(Live {
            mapping: mapped.unwrap(),
            segment,
            direction,
        });
    }

    fn unmap(&mut self) {
        let which = self.random.below(self.live.len() as u64) as usize;
        // Often the device has just used it.
        if self.random.below(2) == 0 {
            self.touch_one(which);
        }
        let live = self.live.swap_remove(which);
        let (iova, len_bytes) = live.mapping.mapped_range().unwrap();
        self.world.street.domain().unmap(live.mapping).unwrap();
        let gone = Gone {
            iova,
            len_bytes,
            phys: PhysAddr(live.segment.phys.0 & !(PAGE - 1)),
            at: self.world.street.clock().now(),
        };
        self.probe(&gone);
        self.gone.push_back(gone);
        if self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
    }

    fn touch(&mut self) {
        let which = self.random.below(self.live.len() as u64) as usize;
        self.touch_one(which);
    }

    /// Every page of a live mapping is reached, where it should be.
    fn touch_one(&mut self, which: usize) {
        let live = &self.live[which];
        let (iova, len) = live.mapping.mapped_range().unwrap();
        let touched = self.device.touch(iova, len, Access::Read);
        assert_eq!(touched.fresh, len / PAGE, "{touched:?}");
        let end = Iova(iova.0 + len - 1);
        let outcome = self.device.probe(end, Access::Write);
        if live.direction == Direction::ToDevice {
            let fault = outcome.fault().unwrap();
            assert_eq!(fault.kind, FaultKind::Permission, "A8: read-only");
        } else {
            let base = live.segment.phys.0 & !(PAGE - 1);
            assert_eq!(outcome.phys(), Some(PhysAddr(base + len - 1)));
            assert!(outcome.is_fresh());
        }
    }

    /// Data arrives in the buffer and nowhere else.
    fn transfer(&mut self) {
        let which = self.random.below(self.live.len() as u64) as usize;
        let mark = self.random.next().to_le_bytes();
        let live = &self.live[which];
        let len = (live.segment.len_bytes).min(8) as usize;
        let memory = self.world.street.memory();
        let mut seen = [0; 8];
        if live.direction == Direction::ToDevice {
            memory.write(live.segment.phys, &mark[..len]).unwrap();
            let moved = self.device.read(live.mapping.addr(), &mut seen[..len]);
            assert_eq!((moved.done_bytes, moved.stale_pages), (len as u64, 0));
        } else {
            let moved = self.device.write(live.mapping.addr(), &mark[..len]);
            assert_eq!(moved.unwrap().done_bytes, len as u64);
            memory.read(live.segment.phys, &mut seen[..len]);
        }
        assert_eq!(seen[..len], mark[..len]);
    }

    fn probe_gone(&mut self) {
        if !self.gone.is_empty() {
            let which = self.random.below(self.gone.len() as u64) as usize;
            self.probe(&self.gone[which]);
        }
    }

    /// The device goes on with old addresses. By now they may be another
    /// thread's; what it must not reach is the old buffer.
    fn probe(&self, gone: &Gone) {
        let last = gone.len_bytes / PAGE - 1;
        for page in [0, last / 2, last] {
            let before = self.world.street.clock().now();
            let at = Iova(gone.iova.0 + page * PAGE);
            let outcome = self.device.probe(at, Access::Read);
            let Outcome::Reached { phys, .. } = outcome else {
                continue;
            };
            if phys.0.wrapping_sub(gone.phys.0) < gone.len_bytes {
                let age = before.since(gone.at);
                assert!(!self.world.strict, "S1: {at} still reaches {phys}");
                assert!(
                    age <= FLUSH_NS + self.world.street.slack_ns(),
                    "L1: {at} after {age} ns"
                );
                self.world.stale.fetch_add(1, Ordering::Relaxed);
                self.world.oldest_ns.fetch_max(age, Ordering::Relaxed);
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed of this run, printed by [`run`].
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    number("HOSTILE_SEED").unwrap_or(now.as_nanos() as u64)
}

/// Runs the threads and returns how many stale accesses there were.
pub fn run<S: Street>(name: &str, street: S, seed: u64, steps: u64) -> u64 {
    let steps = number("HOSTILE_STEPS").unwrap_or(steps);
    println!("{name}: seed {seed}, {steps} steps on {THREADS} threads");
    let world = World::new(street);
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let world = &world;
            scope.spawn(move || {
                let mut worker = Worker::new(world, id, seed);
                for _ in 0..steps / THREADS {
                    worker.step();
                }
                for live in worker.live.drain(..) {
                    world.street.domain().unmap(live.mapping).unwrap();
                }
            });
        }
    });
    world.street.domain().drain().unwrap();
    let stats = world.street.smmu().stats();
    let stale = world.stale.load(Ordering::Relaxed);
    let oldest_ns = world.oldest_ns.load(Ordering::Relaxed);
    println!("{name}: {stale} stale accesses, the oldest {oldest_ns} ns; {stats:?}");
    assert_eq!(world.street.smmu().violations(), [], "seed {seed}");
    assert_eq!(stats.violations, 0);
    let now = world.street.domain().stats();
    assert_eq!(now.iova_pages_held, 0, "A10");
    stale
}

pub fn lazy() -> Mode {
    Mode::Lazy(QueueConfig {
        entries_per_slot: 256,
        timeout_ns: FLUSH_NS,
    })
}
