//! The register bank: enables, queue indices, global errors (Arm IHI 0070,
//! chapter 6 and 7).

use dmabench_platform::PhysAddr;

use super::{memory::SimMemory, streams::StreamTable};
use crate::format::IdRegisters;

// Offsets (6.2), written down again: this is the other side of the bus.
const CR0: u32 = 0x20;
const CR0ACK: u32 = 0x24;
const CR1: u32 = 0x28;
const CR2: u32 = 0x2c;
const GBPA: u32 = 0x44;
const IRQ_CTRL: u32 = 0x50;
const IRQ_CTRLACK: u32 = 0x54;
const GERROR: u32 = 0x60;
const GERRORN: u32 = 0x64;
const STRTAB_BASE: u32 = 0x80;
const STRTAB_BASE_CFG: u32 = 0x88;
const CMDQ_BASE: u32 = 0x90;
const CMDQ_PROD: u32 = 0x98;
const CMDQ_CONS: u32 = 0x9c;
const EVENTQ_BASE: u32 = 0xa0;
const EVENTQ_PROD: u32 = 0x1_00a8;
const EVENTQ_CONS: u32 = 0x1_00ac;

const SMMUEN: u32 = 1 << 0;
const EVENTQEN: u32 = 1 << 2;
const CMDQEN: u32 = 1 << 3;
/// Bits of CR0 that exist here: SMMUEN, PRIQEN, EVENTQEN, CMDQEN, ATSCHK, VMW.
const CR0_BITS: u32 = 0x1df;

/// GERROR.CMDQ_ERR.
const GERROR_CMDQ: u32 = 1 << 0;
/// GERROR.EVENTQ_ABT_ERR.
const GERROR_EVENTQ_ABT: u32 = 1 << 2;
/// GERROR.MSI_CMDQ_ABT_ERR.
const GERROR_MSI_CMDQ: u32 = 1 << 4;
const GBPA_UPDATE: u32 = 1 << 31;
const GBPA_ABORT: u32 = 1 << 20;
/// OVFLG and OVACKFLG of the event queue (7.4).
const OVERFLOW: u32 = 1 << 31;

/// A queue's memory: base address and power of two of its entries.
#[derive(Clone, Copy)]
struct Queue {
    base: u64,
    lg2: u32,
}

impl Queue {
    const COMMAND_BYTES: u64 = 16;
    const EVENT_BYTES: u64 = 32;

    /// From a `*_BASE` register; the size is at most `most`, and the base is
    /// aligned down to the queue's size, as hardware does.
    fn new(register: u64, most: u32, entry_bytes: u64) -> Self {
        let lg2 = (register as u32 & 31).min(most);
        let align = (entry_bytes << lg2).max(32);
        Queue {
            base: register & 0x000f_ffff_ffff_ffe0 & !(align - 1),
            lg2,
        }
    }

    /// Index and wrap bit.
    fn index(&self, register: u32) -> u32 {
        register & ((2 << self.lg2) - 1)
    }

    /// Entries between the two; `None` if that is more than the queue has.
    fn used(&self, prod: u32, cons: u32) -> Option<u32> {
        let used = self.index(self.index(prod).wrapping_sub(self.index(cons)));
        (used <= 1 << self.lg2).then_some(used)
    }

    fn entry(&self, register: u32, bytes: u64) -> PhysAddr {
        let slot = register & ((1 << self.lg2) - 1);
        PhysAddr(self.base + u64::from(slot) * bytes)
    }
}

/// See the module.
pub(super) struct Bank {
    ids: IdRegisters,
    cr0: u32,
    cr0_ack: u32,
    cr1: u32,
    cr2: u32,
    gbpa: u32,
    irq_ctrl: u32,
    gerror: u32,
    gerrorn: u32,
    strtab_base: u64,
    strtab_cfg: u32,
    cmdq_base: u64,
    cmdq_prod: u32,
    cmdq_cons: u32,
    eventq_base: u64,
    eventq_prod: u32,
    eventq_cons: u32,
    /// A command fetch fails with this code, after so many that do not.
    pub(super) inject: Option<(u8, u32)>,
    pub(super) misuses: u64,
}

impl Bank {
    pub(super) fn new(ids: IdRegisters) -> Self {
        Bank {
            ids,
            cr0: 0,
            cr0_ack: 0,
            cr1: 0,
            cr2: 0,
            gbpa: 0,
            irq_ctrl: 0,
            gerror: 0,
            gerrorn: 0,
            strtab_base: 0,
            strtab_cfg: 0,
            cmdq_base: 0,
            cmdq_prod: 0,
            cmdq_cons: 0,
            eventq_base: 0,
            eventq_prod: 0,
            eventq_cons: 0,
            inject: None,
            misuses: 0,
        }
    }

    /// SMMUEN has taken effect.
    pub(super) fn translates(&self) -> bool {
        self.cr0_ack & SMMUEN != 0
    }

    /// Traffic is aborted while the SMMU is off.
    pub(super) fn aborts(&self) -> bool {
        self.gbpa & GBPA_ABORT != 0
    }

    pub(super) fn stream_table(&self) -> StreamTable {
        let cfg = self.strtab_cfg;
        let two_levels = cfg >> 16 & 3 == 1;
        let split = match cfg >> 6 & 31 {
            8 => 8,
            10 => 10,
            _ => 6,
        };
        StreamTable {
            base: self.strtab_base & 0x000f_ffff_ffff_ffc0,
            lg2_size: cfg & 63,
            split: two_levels.then_some(split),
        }
    }

    /// Enables take effect.
    pub(super) fn acknowledge(&mut self) {
        self.cr0_ack = self.cr0;
    }

    fn command_queue(&self) -> Queue {
        let most = self.ids.idr1 >> 21 & 31;
        Queue::new(self.cmdq_base, most, Queue::COMMAND_BYTES)
    }

    fn event_queue(&self) -> Queue {
        let most = self.ids.idr1 >> 16 & 31;
        Queue::new(self.eventq_base, most, Queue::EVENT_BYTES)
    }

    /// Address of the command to execute next, if the queue runs and has one.
    pub(super) fn next_command(&mut self) -> Option<PhysAddr> {
        let runs = self.cr0_ack & CMDQEN != 0;
        if !runs || (self.gerror ^ self.gerrorn) & GERROR_CMDQ != 0 {
            return None;
        }
        let queue = self.command_queue();
        match queue.used(self.cmdq_prod, self.cmdq_cons) {
            Some(0) => None,
            Some(_) => Some(queue.entry(self.cmdq_cons, Queue::COMMAND_BYTES)),
            // Inconsistent indices (3.5.1): hardware may consume anything.
            None => {
                self.misuses += 1;
                None
            }
        }
    }

    pub(super) fn command_done(&mut self) {
        let queue = self.command_queue();
        let error = self.cmdq_cons & 0x7f00_0000;
        self.cmdq_cons = queue.index(queue.index(self.cmdq_cons) + 1) | error;
    }

    /// Stops the queue at the current command (7.1). The code is visible before
    /// the error is: both change under one lock.
    pub(super) fn command_error(&mut self, code: u8) {
        let index = self.command_queue().index(self.cmdq_cons);
        self.cmdq_cons = index | u32::from(code) << 24;
        self.gerror ^= GERROR_CMDQ;
    }

    /// The message of a sync could not be written.
    pub(super) fn msi_error(&mut self) {
        self.raise(GERROR_MSI_CMDQ);
    }

    /// Errors of a kind that is already active are not told again (7.5).
    fn raise(&mut self, kind: u32) {
        if (self.gerror ^ self.gerrorn) & kind == 0 {
            self.gerror ^= kind;
        }
    }

    /// Writes a record, or tells that one was lost (7.4).
    pub(super) fn push_event(&mut self, memory: &SimMemory, record: &[u64; 4]) {
        let lost = (self.gerror ^ self.gerrorn) & GERROR_EVENTQ_ABT != 0;
        if self.cr0_ack & EVENTQEN == 0 || lost {
            return;
        }
        let queue = self.event_queue();
        match queue.used(self.eventq_prod, self.eventq_cons) {
            Some(used) if used < 1 << queue.lg2 => {
                let at = queue.entry(self.eventq_prod, Queue::EVENT_BYTES);
                for (i, word) in record.iter().enumerate() {
                    let word_at = PhysAddr(at.0 + 8 * i as u64);
                    if memory.write_u64(word_at, *word).is_err() {
                        self.raise(GERROR_EVENTQ_ABT);
                        return;
                    }
                }
                let flag = self.eventq_prod & OVERFLOW;
                self.eventq_prod = queue.index(queue.index(self.eventq_prod) + 1) | flag;
            }
            Some(_) => {
                // Once, until software has acknowledged.
                if (self.eventq_prod ^ self.eventq_cons) & OVERFLOW == 0 {
                    self.eventq_prod ^= OVERFLOW;
                }
            }
            None => self.misuses += 1,
        }
    }

    pub(super) fn read32(&self, offset: u32) -> u32 {
        match offset {
            0x00 => self.ids.idr0,
            0x04 => self.ids.idr1,
            0x0c => self.ids.idr3,
            0x14 => self.ids.idr5,
            // AIDR: SMMUv3.3.
            0x1c => 3,
            CR0 => self.cr0,
            CR0ACK => self.cr0_ack,
            CR1 => self.cr1,
            CR2 => self.cr2,
            GBPA => self.gbpa,
            IRQ_CTRL | IRQ_CTRLACK => self.irq_ctrl,
            GERROR => self.gerror,
            GERRORN => self.gerrorn,
            STRTAB_BASE_CFG => self.strtab_cfg,
            CMDQ_PROD => self.cmdq_prod,
            CMDQ_CONS => self.cmdq_cons,
            EVENTQ_PROD => self.eventq_prod,
            EVENTQ_CONS => self.eventq_cons,
            // The rest is reserved or of features this SMMU has not: RES0.
            _ => 0,
        }
    }

    /// Whether a register may be written now; counts it if not.
    fn unguarded(&mut self, enable: u32) -> bool {
        let free = (self.cr0 | self.cr0_ack) & enable == 0;
        self.misuses += u64::from(!free);
        free
    }

    pub(super) fn write32(&mut self, offset: u32, value: u32) {
        match offset {
            CR0 => self.cr0 = value & CR0_BITS,
            CR1 => self.cr1 = value,
            CR2 if self.unguarded(SMMUEN) => self.cr2 = value,
            // The update is done at once (6.3.14).
            GBPA if value & GBPA_UPDATE != 0 => self.gbpa = value & !GBPA_UPDATE,
            IRQ_CTRL => self.irq_ctrl = value & 7,
            GERRORN => self.gerrorn = value,
            STRTAB_BASE_CFG if self.unguarded(SMMUEN) => self.strtab_cfg = value,
            CMDQ_PROD => self.cmdq_prod = value & 0xf_ffff,
            CMDQ_CONS if self.unguarded(CMDQEN) => self.cmdq_cons = value & 0xf_ffff,
            EVENTQ_PROD if self.unguarded(EVENTQEN) => {
                self.eventq_prod = value & (OVERFLOW | 0xf_ffff);
            }
            EVENTQ_CONS => self.eventq_cons = value & (OVERFLOW | 0xf_ffff),
            _ => {}
        }
    }

    pub(super) fn write64(&mut self, offset: u32, value: u64) {
        match offset {
            STRTAB_BASE if self.unguarded(SMMUEN) => self.strtab_base = value,
            CMDQ_BASE if self.unguarded(CMDQEN) => self.cmdq_base = value,
            EVENTQ_BASE if self.unguarded(EVENTQEN) => self.eventq_base = value,
            _ => {}
        }
    }
}
