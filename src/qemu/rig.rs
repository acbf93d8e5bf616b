//! One emulated machine and the driver of its SMMU, for all modes of a workload.

use std::sync::Arc;

use dmabench_smmu::{
    driver::{Smmu, SmmuConfig},
    format::Event,
    qemu::{GuestRam, Qemu, QemuSmmu, QemuVersion, SdHost, TraceCounts},
};

use super::{QemuPlan, QemuRunError, Stop, buffer::Arena};

/// Our driver on QEMU's SMMU.
pub(super) type Driver = Smmu<QemuSmmu, GuestRam>;

/// Bytes of each card: requests are laid out one behind the other, and begin
/// again at its end.
const CARD_BYTES: u64 = 64 << 20;
/// Only what is used takes memory.
const RAM_BYTES: u64 = 1 << 30;
/// Enough for two flush queues of parked buffers of 512 KiB.
const ARENA_BYTES: u64 = 256 << 20;

/// Fields are dropped in this order: the driver turns the SMMU off, then QEMU
/// ends.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) hosts: Vec<SdHost>,
    pub(super) driver: Arc<Driver>,
    /// Where buffers lie.
    pub(super) arena: Arena,
    qemu: Qemu,
}

impl Rig {
    /// With a card for each of `devices`.
    pub(super) fn start(plan: &QemuPlan, devices: usize) -> Result<Self, QemuRunError> {
        let machine = (plan.machine.clone())
            .with_ram_bytes(RAM_BYTES)
            .with_cards(&vec![CARD_BYTES; devices])
            .with_trace();
        let qemu = Qemu::start(machine)?;
        let hosts = (0..devices)
            .map(|index| qemu.sd_host(index))
            .collect::<Result<_, _>>()?;
        let driver = Smmu::new(qemu.smmu(), qemu.ram().clone(), SmmuConfig::default());
        let driver = match (driver, qemu.qtest().broken()) {
            (Ok(driver), _) => Arc::new(driver),
            (Err(_), Some(error)) => return Err(error.into()),
            (Err(error), None) => return Err(QemuRunError::Setup(error)),
        };
        let arena = Arena::new(qemu.ram(), ARENA_BYTES);
        let arena = arena.map_err(|error| QemuRunError::Memory(error.to_string()))?;
        Ok(Rig {
            hosts,
            driver,
            arena,
            qemu,
        })
    }

    pub(super) fn version(&self) -> QemuVersion {
        self.qemu.version()
    }

    pub(super) fn ram(&self) -> &GuestRam {
        self.qemu.ram()
    }

    /// What QEMU's trace says since the last call.
    pub(super) fn traced(&self) -> TraceCounts {
        self.qemu.traced()
    }

    /// The faults since the last call.
    pub(super) fn events(&self) -> Result<Vec<Event>, Stop> {
        let mut events = Vec::new();
        loop {
            let batch = (self.driver)
                .poll_events(u32::MAX, |event| events.push(*event))
                .map_err(Stop::refused)?;
            if batch.lost {
                return Err(Stop::Defect("the SMMU lost events".to_owned()));
            }
            if !batch.more {
                return Ok(events);
            }
        }
    }

    /// What ended QEMU, if anything has; else what the core said.
    pub(super) fn cause(&self, error: impl std::fmt::Display) -> Stop {
        match self.qemu.qtest().broken() {
            Some(gone) => Stop::Qemu(gone),
            None => Stop::refused(error),
        }
    }
}
