//! Finding the SD host controllers on the PCI bus and turning them on.

use alloc::vec::Vec;

use super::{Batch, QemuError, Qtest};

/// The configuration space of bus 0, with the PCI window below 4 GiB.
const ECAM: u64 = 0x3f00_0000;
/// Where base address registers may point: each controller takes one step.
const WINDOW: u64 = 0x1000_0000;
const WINDOW_STEP: u64 = 0x1000;
const SLOTS: u32 = 32;

/// Vendor and device of QEMU's `sdhci-pci`.
const SDHCI: u32 = 0x0007_1b36;

const BAR0: u64 = 0x10;
const COMMAND: u64 = 0x04;
/// Memory space and bus master: without the second there is no DMA.
const COMMAND_ON: u16 = 1 << 1 | 1 << 2;

/// A controller on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its registers.
    pub(super) base: u64,
    /// What the SMMU calls it: the requester ID, bus 0.
    pub(super) stream_id: u32,
}

/// All SD host controllers, in the order of their slots, with registers assigned
/// and bus mastering on.
pub(super) fn bring_up(qtest: &Qtest) -> Result<Vec<Function>, QemuError> {
    let config = |slot: u32| ECAM + u64::from(slot << 15);
    let mut ids = Batch::new();
    for slot in 0..SLOTS {
        ids.read32(config(slot));
    }
    let ids = qtest.run(&ids)?;
    let mut functions = Vec::new();
    let mut on = Batch::new();
    for (slot, _) in (0..SLOTS).zip(ids).filter(|(_, id)| *id as u32 == SDHCI) {
        let base = WINDOW + functions.len() as u64 * WINDOW_STEP;
        on.write32(config(slot) + BAR0, base as u32);
        on.write16(config(slot) + COMMAND, COMMAND_ON);
        functions.push(Function {
            base,
            stream_id: slot << 3,
        });
    }
    qtest.run(&on)?;
    Ok(functions)
}
