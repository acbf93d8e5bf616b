//! Threads that map, let devices work, and unmap at random, against the
//! software SMMU: strict mode with no stale access at all, lazy mode with none
//! beyond its bound, and no broken rule in either.
//!
//! The seed is printed; `HOSTILE_SEED` and `HOSTILE_STEPS` choose another one
//! and the number of steps (10,000,000 is the long run, see CONTRIBUTING.md).

mod hostile;

use std::sync::Arc;

use dmabench_dma::{DomainConfig, Mode};
use dmabench_platform::{Fences, Slots, ThreadSlots, VirtualClock};
use dmabench_smmu::soft::{
    Command, SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, Span,
    Stage1Regs, StreamConfig,
};
use hostile::{Street, StreetDomain, THREADS, Worker, World, lazy, run, seed};

const CONTEXT: SmmuContext = SmmuContext::Stage1 { vmid: 0, asid: 1 };

/// The software SMMU itself is the backend; devices are attached by calls.
struct Direct {
    domain: StreetDomain<Arc<SoftSmmu>>,
    memory: Arc<SimMemory>,
    smmu: Arc<SoftSmmu>,
    clock: Arc<VirtualClock>,
    stream: StreamConfig,
}

impl Direct {
    fn new(mode: Mode, seed: u64) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let soft = SoftConfig::default().with_seed(seed);
        let smmu = SoftSmmu::new(memory.clone(), clock.clone(), soft);
        let slots = Arc::new(Slots::new(THREADS as usize + 2, Fences::detect()).unwrap());
        let domain = StreetDomain::with_parts(
            DomainConfig::new(mode).low32_first(true),
            slots,
            ThreadSlots,
            memory.clone(),
            smmu.clone(),
            CONTEXT,
        )
        .unwrap();
        let registers = Stage1Regs::for_table(&domain.registers());
        Direct {
            domain,
            memory,
            smmu,
            clock,
            stream: StreamConfig::stage1(1, registers),
        }
    }
}

impl Street for Direct {
    type Backend = Arc<SoftSmmu>;

    fn domain(&self) -> &StreetDomain<Arc<SoftSmmu>> {
        &self.domain
    }

    fn smmu(&self) -> &SoftSmmu {
        &self.smmu
    }

    fn memory(&self) -> &SimMemory {
        &self.memory
    }

    fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    fn device(&self, _id: u64) -> SimDevice {
        self.smmu.attach(self.stream).unwrap()
    }

    fn rewire(&self, _id: u64, _choice: u64) {}
}

#[test]
fn s1_strict_leaves_nothing_reachable_on_many_threads() {
    let seed = seed();
    let stale = run("strict", Direct::new(Mode::Strict, seed), seed, 100_000);
    assert_eq!(stale, 0);
}

#[test]
fn l1_lazy_leaves_nothing_reachable_beyond_its_bound_on_many_threads() {
    let seed = seed();
    let stale = run("lazy", Direct::new(lazy(), seed), seed, 100_000);
    assert!(stale > 0, "lazy mode exposes, and the run must see it");
}

/// The run sees a single page that is left out of one invalidation in a
/// thousand.
#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn s1_the_run_sees_a_page_that_is_left_out() {
    let world = World::new(Direct::new(Mode::Strict, 1));
    let mut count = 0;
    world.street.smmu.set_tamper(Some(Box::new(move |command| {
        count += 1;
        match command {
            Command::TlbiNhVa { vmid, asid, span } if count % 1000 == 0 && span.num > 0 => {
                let num = span.num - 1;
                let span = Span { num, ..span };
                Some(Command::TlbiNhVa { vmid, asid, span })
            }
            other => Some(other),
        }
    })));
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let world = &world;
            scope.spawn(move || {
                let mut worker = Worker::new(world, id, 1);
                for _ in 0..50_000 {
                    worker.step();
                }
            });
        }
    });
}
