//! A machine of QEMU's with our driver, domains and SD cards on it.
#![allow(dead_code)] // Each test binary uses its own part.

use std::{io::Write, sync::Arc};

use dmabench::qemu::Tee;
use dmabench_dma::{Device, Direction, Domain, DomainConfig, Mapping, Mode, Segment};
use dmabench_flushq::CountingBackend;
use dmabench_pgtable::{S1K4, TableConfig};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, ThreadSlots};
use dmabench_smmu::{
    SmmuHost,
    driver::{AtsUse, Smmu, SmmuConfig, SmmuContext, StreamTarget},
    format::{Event, EventKind},
    qemu::{
        AdmaList, AdmaTable, AdmaWidth, BLOCK_BYTES, GuestRam, Qemu, QemuConfig, QemuError,
        QemuSmmu, SdHost, TraceCounts,
    },
};

pub(crate) const PAGE: u64 = 4096;

pub(crate) type Driver<H = QemuSmmu> = Smmu<H, GuestRam>;
pub(crate) type QemuDomain<H = QemuSmmu> = Domain<Tee<Driver<H>>, ThreadSlots, S1K4, GuestRam>;

/// QEMU, or nothing where it is not installed: then the test says by name that
/// it was skipped. Where `CI` is set that is a failure.
pub(crate) fn start(test: &str, config: QemuConfig) -> Option<Qemu> {
    start_in(test, config, std::env::var_os("CI").is_some())
}

pub(crate) fn start_in(test: &str, config: QemuConfig, ci: bool) -> Option<Qemu> {
    match Qemu::start(config) {
        Ok(qemu) => Some(qemu),
        Err(error @ QemuError::NotFound { .. }) => {
            assert!(!ci, "{test} must not be skipped in CI: {error}");
            // Straight to the stream: a passing test's prints are swallowed.
            let _shown = writeln!(std::io::stderr(), "skipped: {test} ({error})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A card, its stream's address space, and a mapped descriptor table.
pub(crate) struct Port<H: SmmuHost = QemuSmmu> {
    pub(crate) host: SdHost,
    pub(crate) domain: Option<QemuDomain<H>>,
    pub(crate) context: SmmuContext,
    pub(crate) table: AdmaTable,
    table_mapping: Option<Mapping>,
    pub(crate) counting: Arc<CountingBackend>,
    pub(crate) device: Device,
}

pub(crate) const TABLE_BYTES: u64 = 8192;

pub(crate) struct Machine<H: SmmuHost = QemuSmmu> {
    pub(crate) ports: Vec<Port<H>>,
    pub(crate) driver: Arc<Driver<H>>,
    pub(crate) qemu: Qemu,
}

impl Machine {
    /// One port for each card.
    pub(crate) fn new(qemu: Qemu, config: impl Fn() -> DomainConfig, width: AdmaWidth) -> Self {
        let host = qemu.smmu();
        Self::with_host(qemu, host, SmmuConfig::default(), config, width)
    }
}

impl<H: SmmuHost> Machine<H> {
    /// As `new`, with registers that are meddled with.
    pub(crate) fn with_host(
        qemu: Qemu,
        host: H,
        smmu: SmmuConfig,
        config: impl Fn() -> DomainConfig,
        width: AdmaWidth,
    ) -> Self {
        let driver = Smmu::new(host, qemu.ram().clone(), smmu).unwrap();
        let driver = Arc::new(driver);
        let ports = (0..qemu.sd_hosts())
            .map(|index| Port::new(&qemu, &driver, index, config(), width))
            .collect();
        Machine {
            ports,
            driver,
            qemu,
        }
    }

    pub(crate) fn ram(&self) -> &GuestRam {
        self.qemu.ram()
    }

    /// The events since the last call.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let batch = self
                .driver
                .poll_events(1000, |event| events.push(*event))
                .unwrap();
            assert!(!batch.lost, "events were lost");
            if !batch.more {
                return events;
            }
        }
    }

    /// Of the trace since the last call, without what was before.
    pub(crate) fn traced(&self) -> TraceCounts {
        self.qemu.traced()
    }
}

impl<H: SmmuHost> Drop for Machine<H> {
    fn drop(&mut self) {
        for port in &mut self.ports {
            let broken = port.close(&self.driver).is_err();
            assert!(!broken || std::thread::panicking() || self.qemu.qtest().broken().is_some());
        }
    }
}

pub(crate) fn config(mode: Mode) -> DomainConfig {
    DomainConfig::new(mode)
        .tables(TableConfig::new(48, 44))
        .low32_first(true)
        .reclaim(None)
}

impl<H: SmmuHost> Port<H> {
    fn new(
        qemu: &Qemu,
        driver: &Arc<Driver<H>>,
        index: usize,
        config: DomainConfig,
        width: AdmaWidth,
    ) -> Self {
        let host = qemu.sd_host(index).unwrap();
        let slots = Arc::new(Slots::new(4, Fences::detect()).unwrap());
        let counting = Arc::new(CountingBackend::new(&slots));
        let backend = Tee {
            driver: driver.clone(),
            counting: counting.clone(),
        };
        let mut context = None;
        let domain = QemuDomain::with_context(
            config,
            slots,
            ThreadSlots,
            qemu.ram().clone(),
            backend,
            |backend, registers| {
                let made = backend.driver.create_context(registers);
                made.inspect(|made| context = Some(*made))
            },
        )
        .unwrap();
        let context = context.unwrap();
        let target = match domain.config().mode {
            Mode::Passthrough => StreamTarget::Bypass,
            _ => StreamTarget::Context(context),
        };
        driver
            .attach(host.stream_id(), target, AtsUse::Off)
            .unwrap();
        let device = Device::new().max_segments(128).unwrap();
        let device = match width {
            AdmaWidth::Bits32 => device.mask_bits(32).unwrap(),
            AdmaWidth::Bits64 => device,
        };
        let phys = qemu.ram().alloc(TABLE_BYTES, PAGE).unwrap();
        let buffer = Segment {
            phys,
            len_bytes: TABLE_BYTES,
        };
        let mapping = domain.map(&device, buffer, Direction::ToDevice).unwrap();
        let table = AdmaTable::new(qemu.ram(), phys, TABLE_BYTES, mapping.addr(), width);
        Port {
            host,
            domain: Some(domain),
            context,
            table,
            table_mapping: Some(mapping),
            counting,
            device,
        }
    }

    pub(crate) fn domain(&self) -> &QemuDomain<H> {
        self.domain.as_ref().unwrap()
    }

    pub(crate) fn list(&self, pieces: &[(Iova, u64)]) -> AdmaList {
        self.table.fill(pieces.iter().copied()).unwrap()
    }

    /// A mapped buffer of its own RAM, whole pages.
    pub(crate) fn buffer(
        &self,
        ram: &GuestRam,
        bytes: u64,
        direction: Direction,
    ) -> (PhysAddr, Mapping) {
        let phys = ram.alloc(bytes, PAGE).unwrap();
        let segment = Segment {
            phys,
            len_bytes: bytes,
        };
        let mapping = self.domain().map(&self.device, segment, direction).unwrap();
        (phys, mapping)
    }

    /// Unmaps the table, detaches the stream, then takes the domain down.
    fn close(&mut self, driver: &Driver<H>) -> Result<(), ()> {
        let domain = self.domain.take().ok_or(())?;
        if let Some(mapping) = self.table_mapping.take() {
            domain.unmap(mapping).map_err(|_| ())?;
        }
        driver.detach(self.host.stream_id()).map_err(|_| ())?;
        domain.close().map_err(|_| ())?;
        driver.destroy_context(self.context).map_err(|_| ())
    }
}

/// Xorshift: the same on every machine.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// Bytes that differ from block to block and from seed to seed.
pub(crate) fn pattern(seed: u64, first_block: u64, bytes: u64) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes as usize);
    for block in 0..bytes / BLOCK_BYTES {
        let mut random = Random::new(seed ^ (first_block + block) << 20);
        for _ in 0..BLOCK_BYTES / 8 {
            all.extend(random.next().to_le_bytes());
        }
    }
    all
}

/// What tests compare of an event: kind, stream, page, and whether it was a read.
pub(crate) fn short(event: &Event) -> (EventKind, u32, u64, bool) {
    (
        event.kind,
        event.sid,
        event.address.0 & !(PAGE - 1),
        event.read,
    )
}
