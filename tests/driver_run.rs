//! The SMMUv3 driver in front of the software SMMU's registers, under threads
//! that map, let devices work, unmap, attach and detach at random.
//!
//! `HOSTILE_SEED` and `HOSTILE_STEPS` as in `hostile_run.rs`.

mod hostile;

use std::sync::Arc;

use dmabench_dma::{Device, Direction, DomainConfig, Mode, Segment, UnmapError};
use dmabench_pgtable::{PageTable, Prot, S1K4, TableConfig};
use dmabench_platform::{
    Fences, Iova, PhysAddr, SlotSource, Slots, ThreadSlots, Timeout, VirtualClock,
};
use dmabench_smmu::{
    driver::{AtsUse, Smmu, SmmuConfig, SmmuContext, StreamTarget},
    soft::{
        Access, Command, FaultKind, ModelConfig, SimDevice, SimMemory, SimMemoryConfig, SmmuModel,
        SoftSmmu, ViolationKind,
    },
};
use hostile::{Street, StreetDomain, THREADS, lazy, run, seed};

type Driver = Smmu<Arc<SmmuModel>, Arc<SimMemory>>;

struct Driven {
    domain: StreetDomain<Arc<Driver>>,
    driver: Arc<Driver>,
    context: SmmuContext,
    memory: Arc<SimMemory>,
    model: Arc<SmmuModel>,
    clock: Arc<VirtualClock>,
    slots: Arc<Slots>,
}

impl Driven {
    fn new(mode: Mode, seed: Option<u64>) -> Self {
        Self::with_timeout(mode, seed, Timeout::DEFAULT)
    }

    fn with_timeout(mode: Mode, seed: Option<u64>, timeout: Timeout) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        // Threads that wait for one that does not run must not move the clock
        // far.
        let mut config = ModelConfig::default().with_relax_ns(1);
        // 8-bit ASIDs, so that they are soon used again.
        config.ids.idr0 &= !(1 << 12);
        if let Some(seed) = seed {
            config = config.with_seed(seed);
        }
        let model = SmmuModel::new(memory.clone(), clock.clone(), config);
        let driver = Smmu::new(model.clone(), memory.clone(), SmmuConfig::default()).unwrap();
        let driver = Arc::new(driver);
        let mut context = None;
        let slots = Arc::new(Slots::new(THREADS as usize + 2, Fences::detect()).unwrap());
        let domain = StreetDomain::with_context(
            DomainConfig::new(mode)
                .low32_first(true)
                .sync_timeout(timeout),
            slots.clone(),
            ThreadSlots,
            memory.clone(),
            driver.clone(),
            |driver, registers| {
                driver
                    .create_context(registers)
                    .inspect(|made| context = Some(*made))
            },
        )
        .unwrap();
        let context = context.unwrap();
        let driven = Driven {
            domain,
            driver,
            context,
            memory,
            model,
            clock,
            slots,
        };
        for id in 0..THREADS {
            driven.attach(id, StreamTarget::Context(context));
        }
        driven
    }

    fn sid(id: u64) -> u32 {
        // Streams of one second-level table and of another.
        id as u32 * 200 + 3
    }

    fn attach(&self, id: u64, target: StreamTarget) {
        let sid = Self::sid(id);
        self.driver.attach(sid, target, AtsUse::Off).unwrap();
        self.model.declare_configured(sid, None);
    }

    /// Another address space, with one page, that lives as long as the device
    /// uses it.
    fn visit(&self, id: u64, choice: u64, device: &SimDevice) {
        let private: PageTable<S1K4, _> = PageTable::new(
            TableConfig::new(48, 48),
            self.memory.clone(),
            self.slots.clone(),
        )
        .unwrap();
        // Where the domain has addresses too.
        let iova = Iova(0xfff0_0000 + id * 0x1000);
        let phys = PhysAddr(0x77_0000_0000 + (choice & 0xffff) * 0x1000);
        {
            let pin = ThreadSlots.pin();
            let slot = self.slots.enter_pinned(&pin).unwrap();
            private
                .map(&slot, iova, phys, 0x1000, Prot::READ_WRITE)
                .unwrap();
        }
        let context = self.driver.create_context(&private.registers()).unwrap();
        self.attach(id, StreamTarget::Context(context));
        let reached = device.probe(iova, Access::Write);
        assert!(reached.is_fresh(), "{reached:?}");
        assert_eq!(reached.phys(), Some(phys));
        self.attach(id, StreamTarget::Abort);
        self.driver.destroy_context(context).unwrap();
    }
}

impl Street for Driven {
    type Backend = Arc<Driver>;

    fn domain(&self) -> &StreetDomain<Arc<Driver>> {
        &self.domain
    }

    fn smmu(&self) -> &SoftSmmu {
        self.model.smmu()
    }

    fn memory(&self) -> &SimMemory {
        &self.memory
    }

    fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    fn device(&self, id: u64) -> SimDevice {
        self.model.device(Self::sid(id), None)
    }

    fn rewire(&self, id: u64, choice: u64) {
        let device = self.device(id);
        let somewhere = Iova(0xfff0_0000 + (choice >> 8 & 0xff) * 0x1000);
        match choice % 3 {
            0 => {
                self.driver.detach(Self::sid(id)).unwrap();
                self.model.declare_configured(Self::sid(id), None);
                let fault = device.probe(somewhere, Access::Read).fault().unwrap();
                assert_eq!(fault.kind, FaultKind::Aborted);
            }
            1 => {
                self.attach(id, StreamTarget::Bypass);
                let reached = device.probe(somewhere, Access::Read).phys();
                assert_eq!(reached, Some(PhysAddr(somewhere.0)));
            }
            _ => self.visit(id, choice, &device),
        }
        self.attach(id, StreamTarget::Context(self.context));
    }

    fn serve(&self) {
        let events = self.driver.poll_events(64, |_| {});
        assert!(events.is_ok(), "{events:?}");
        let report = self.driver.poll_errors();
        assert_eq!(report.active, 0);
    }

    fn slack_ns(&self) -> u64 {
        2_000_000
    }
}

#[test]
fn s1_strict_with_the_driver_on_many_threads() {
    let seed = seed();
    let street = Driven::new(Mode::Strict, Some(seed));
    assert_eq!(run("driver, strict", street, seed, 40_000), 0);
}

#[test]
fn s1_strict_with_the_driver_and_an_smmu_that_takes_no_time() {
    let seed = seed();
    let street = Driven::new(Mode::Strict, None);
    assert_eq!(run("driver, strict, at once", street, seed, 40_000), 0);
}

#[test]
fn l1_lazy_with_the_driver_on_many_threads() {
    let seed = seed();
    let street = Driven::new(lazy(), Some(seed));
    assert!(run("driver, lazy", street, seed, 40_000) > 0);
}

/// A driver whose configuration invalidations get lost is caught.
#[test]
fn s1_a_missing_cfgi_shows() {
    let street = Driven::new(Mode::Strict, None);
    street
        .smmu()
        .set_tamper(Some(Box::new(|command| match command {
            Command::CfgiSte { .. } | Command::CfgiCd { .. } => None,
            other => Some(other),
        })));
    let device = street.device(0);
    assert!(device.probe(Iova(0x1000), Access::Read).fault().is_some());
    street.attach(0, StreamTarget::Bypass);
    let kinds: Vec<_> = (street.smmu().violations().iter())
        .map(|v| v.kind)
        .collect();
    assert_eq!(kinds, [ViolationKind::StaleConfiguration]);
}

/// An address space whose number is used again before its invalidation is
/// caught.
#[test]
#[should_panic(expected = "Stale")]
fn a1_an_asid_that_is_not_invalidated_shows() {
    let street = Driven::new(Mode::Strict, None);
    street
        .smmu()
        .set_tamper(Some(Box::new(|command| match command {
            Command::TlbiNhAsid { .. } => None,
            other => Some(other),
        })));
    // There are 256 numbers.
    for round in 0..300 {
        street.visit(0, round, &street.device(0));
    }
}

#[test]
fn a1_asids_that_are_invalidated_can_be_used_again() {
    let street = Driven::new(Mode::Strict, None);
    for round in 0..600 {
        street.visit(0, round, &street.device(0));
    }
    assert_eq!(street.smmu().violations(), []);
}

/// Errors at the invalidation, at the sync, and a sync that does not come: what
/// is not known to be invalidated stays taken, and the next try succeeds.
#[test]
fn a11_what_a_failing_queue_did_not_invalidate_is_not_released() {
    for seed in [None, Some(7), Some(8)] {
        let street = Driven::with_timeout(Mode::Strict, seed, Timeout(1_000));
        let device = street.device(0);
        let map = |phys: u64, pages: u64| {
            let segment = Segment {
                phys: PhysAddr(phys),
                len_bytes: pages * 4096,
            };
            let both = Direction::Bidirectional;
            let mapping = street.domain.map(&Device::new(), segment, both).unwrap();
            let range = mapping.mapped_range().unwrap();
            (mapping, range)
        };
        let mut failures = [0; 8];
        for round in 0..400_u64 {
            let kind = round % 8;
            let pages = 1 + round % 40;
            let (mapping, (iova, len)) = map(0x10_0000_0000 + (round << 20), pages);
            assert_eq!(device.touch(iova, len, Access::Write).fresh, pages);
            match kind {
                0..6 => {
                    let (code, after) = (kind % 3 + 1, kind / 3);
                    street.model.inject_command_error(code as u8, after as u32);
                }
                6 => street.model.set_stalled(true),
                _ => {}
            }
            let mut others = Vec::new();
            let mut outcome = street.domain.unmap(mapping);
            while let Err(error) = outcome {
                failures[kind as usize] += 1;
                assert!(others.len() < 4, "it does not recover: {error}");
                let UnmapError::NotInvalidated(unfinished) = error else {
                    panic!("{error}");
                };
                // The addresses are still taken.
                let other = map(0x20_0000_0000, pages);
                let at = other.1.0.0;
                assert!(at >= iova.0 + len || at + len <= iova.0);
                others.push(other.0);
                street.model.set_stalled(false);
                outcome = street.domain.finish(unfinished);
            }
            let after = device.touch(iova, len, Access::Write);
            assert_eq!(after.faulted, pages, "round {round}");
            for other in others {
                street.domain.unmap(other).unwrap();
            }
        }
        assert!(failures[0] > 0 && failures[6] == 50, "{failures:?}");
        assert_eq!(failures[7], 0, "{failures:?}");
        assert_eq!(street.smmu().violations(), []);
        println!("seed {seed:?}: failed tries by kind {failures:?}");
    }
}
