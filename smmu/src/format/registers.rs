//! Registers that the driver uses (6.2, 6.3): offsets from page 0 and fields.

use dmabench_platform::PhysAddr;

use super::bits::{bit, flag, get, put, span};

/// `SMMU_IDR0`.
pub const IDR0: u32 = 0x00;
/// `SMMU_IDR1`.
pub const IDR1: u32 = 0x04;
/// `SMMU_IDR3`.
pub const IDR3: u32 = 0x0c;
/// `SMMU_IDR5`.
pub const IDR5: u32 = 0x14;
/// `SMMU_IIDR`: implementer, product, revision.
pub const IIDR: u32 = 0x18;
/// `SMMU_AIDR`: version of the architecture.
pub const AIDR: u32 = 0x1c;
/// `SMMU_CR0`: enables.
pub const CR0: u32 = 0x20;
/// `SMMU_CR0ACK`: the enables that have taken effect.
pub const CR0ACK: u32 = 0x24;
/// `SMMU_CR1`: attributes of table and queue accesses.
pub const CR1: u32 = 0x28;
/// `SMMU_CR2`.
pub const CR2: u32 = 0x2c;
/// `SMMU_GBPA`: what happens to traffic while the SMMU is off.
pub const GBPA: u32 = 0x44;
/// `SMMU_IRQ_CTRL`.
pub const IRQ_CTRL: u32 = 0x50;
/// `SMMU_IRQ_CTRLACK`.
pub const IRQ_CTRLACK: u32 = 0x54;
/// `SMMU_GERROR`: global errors, one bit toggled for each.
pub const GERROR: u32 = 0x60;
/// `SMMU_GERRORN`: global errors acknowledged.
pub const GERRORN: u32 = 0x64;
/// `SMMU_STRTAB_BASE`, 64 bits.
pub const STRTAB_BASE: u32 = 0x80;
/// `SMMU_STRTAB_BASE_CFG`.
pub const STRTAB_BASE_CFG: u32 = 0x88;
/// `SMMU_CMDQ_BASE`, 64 bits.
pub const CMDQ_BASE: u32 = 0x90;
/// `SMMU_CMDQ_PROD`.
pub const CMDQ_PROD: u32 = 0x98;
/// `SMMU_CMDQ_CONS`.
pub const CMDQ_CONS: u32 = 0x9c;
/// `SMMU_EVENTQ_BASE`, 64 bits.
pub const EVENTQ_BASE: u32 = 0xa0;
/// `SMMU_EVENTQ_PROD`, on page 1.
pub const EVENTQ_PROD: u32 = 0x1_00a8;
/// `SMMU_EVENTQ_CONS`, on page 1.
pub const EVENTQ_CONS: u32 = 0x1_00ac;

/// `CR0.SMMUEN`: translate.
pub const CR0_SMMUEN: u32 = 1 << 0;
/// `CR0.EVENTQEN`.
pub const CR0_EVENTQEN: u32 = 1 << 2;
/// `CR0.CMDQEN`.
pub const CR0_CMDQEN: u32 = 1 << 3;

/// `CR1` for tables and queues in inner shareable write-back memory (6.3.11):
/// `TABLE_SH` = `QUEUE_SH` = 3, the four cacheability fields = 1.
pub const CR1_COHERENT: u32 = 0xd75;
/// `CR1` for an SMMU that does not snoop: outer shareable, non-cacheable.
pub const CR1_NON_COHERENT: u32 = 2 << 10 | 2 << 4;

/// `CR2.RECINVSID`: record `C_BAD_STREAMID`.
pub const CR2_RECINVSID: u32 = 1 << 1;
/// `CR2.PTM`: ignore broadcast invalidations of CPUs.
pub const CR2_PTM: u32 = 1 << 2;

/// `GBPA.Update`.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// `GBPA.ABORT`.
pub const GBPA_ABORT: u32 = 1 << 20;

/// `IRQ_CTRL.GERROR_IRQEN`.
pub const IRQ_CTRL_GERROR: u32 = 1 << 0;
/// `IRQ_CTRL.EVENTQ_IRQEN`.
pub const IRQ_CTRL_EVENTQ: u32 = 1 << 2;

/// `GERROR.CMDQ_ERR` (6.3.20).
pub const GERROR_CMDQ: u32 = 1 << 0;
/// `GERROR.EVENTQ_ABT_ERR`: an event could not be written.
pub const GERROR_EVENTQ_ABT: u32 = 1 << 2;
/// `GERROR.PRIQ_ABT_ERR`.
pub const GERROR_PRIQ_ABT: u32 = 1 << 3;
/// `GERROR.MSI_CMDQ_ABT_ERR` to `MSI_GERROR_ABT_ERR`.
pub const GERROR_MSI_ABT: u32 = 0xf << 4;
/// `GERROR.SFM_ERR`: service failure mode, the SMMU has stopped translating.
pub const GERROR_SFM: u32 = 1 << 8;
/// The bits that stand for an error.
pub const GERROR_ALL: u32 =
    GERROR_CMDQ | GERROR_EVENTQ_ABT | GERROR_PRIQ_ABT | GERROR_MSI_ABT | GERROR_SFM;

/// The largest base-2 logarithm of a queue's entries (6.3.25).
pub const QUEUE_LG2_MAX: u32 = 19;

/// Why `CMDQ_CONS.ERR` (`[30:24]`) says the command queue stopped (7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandErrorCode {
    /// `CERROR_NONE`.
    None,
    /// `CERROR_ILL`: the command is illegal.
    Illegal,
    /// `CERROR_ABT`: the command could not be fetched.
    FetchAbort,
    /// `CERROR_ATC_INV_SYNC`: a device did not answer a `CMD_ATC_INV` before the
    /// `CMD_SYNC` at the read index.
    AtcInvalidation,
    /// A reserved code.
    Unknown(u8),
}

impl CommandErrorCode {
    /// From the value of `CMDQ_CONS`.
    pub const fn from_cons(cons: u32) -> Self {
        match get(cons as u64, 24, 7) as u8 {
            0 => CommandErrorCode::None,
            1 => CommandErrorCode::Illegal,
            2 => CommandErrorCode::FetchAbort,
            3 => CommandErrorCode::AtcInvalidation,
            other => CommandErrorCode::Unknown(other),
        }
    }

    /// The code as the register has it.
    pub const fn code(self) -> u8 {
        match self {
            CommandErrorCode::None => 0,
            CommandErrorCode::Illegal => 1,
            CommandErrorCode::FetchAbort => 2,
            CommandErrorCode::AtcInvalidation => 3,
            CommandErrorCode::Unknown(code) => code,
        }
    }
}

/// `CMDQ_BASE` or `EVENTQ_BASE` (6.3.25, 6.3.28): `ADDR[51:5]`,
/// `LOG2SIZE[4:0]`, and the allocation hint in bit 62.
pub const fn queue_base(base: PhysAddr, lg2_entries: u32, allocate_hint: bool) -> u64 {
    (base.0 & span(51, 5)) | put(lg2_entries as u64, 0, 5) | flag(allocate_hint, 62)
}

/// Base and base-2 logarithm of the entries out of a queue base register.
pub const fn decode_queue_base(value: u64) -> (PhysAddr, u32) {
    (PhysAddr(value & span(51, 5)), get(value, 0, 5) as u32)
}

/// The alignment a queue needs (6.3.25): its size in bytes, at least 32.
pub const fn queue_align_bytes(lg2_entries: u32, entry_bytes: u64) -> u64 {
    let bytes = entry_bytes << lg2_entries;
    if bytes < 32 { 32 } else { bytes }
}

/// `STRTAB_BASE` (6.3.23): `ADDR[51:6]`, read-allocate hint in bit 62.
pub const fn strtab_base(base: PhysAddr, allocate_hint: bool) -> u64 {
    (base.0 & span(51, 6)) | flag(allocate_hint, 62)
}

/// The address in `STRTAB_BASE`.
pub const fn decode_strtab_base(value: u64) -> PhysAddr {
    PhysAddr(value & span(51, 6))
}

/// `STRTAB_BASE_CFG` (6.3.24): `LOG2SIZE[5:0]`, `SPLIT[10:6]`, `FMT[17:16]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrtabBaseCfg {
    /// Base-2 logarithm of the number of stream IDs the table covers.
    pub lg2_size: u32,
    /// `None`: linear. Else a table of two levels, and the base-2 logarithm of
    /// the entries of a full second-level table: 6, 8 or 10.
    pub split: Option<u32>,
}

impl StrtabBaseCfg {
    /// As the register has it.
    pub const fn encode(self) -> u32 {
        let split = match self.split {
            None => 0,
            Some(split) => put(split as u64, 6, 5) | 1 << 16,
        };
        (put(self.lg2_size as u64, 0, 6) | split) as u32
    }

    /// From the register. `FMT` values 2 and 3 are reserved; the second result
    /// is false for them and for a reserved `SPLIT`, which behaves as 6.
    pub const fn decode(value: u32) -> (Self, bool) {
        let value = value as u64;
        let lg2_size = get(value, 0, 6) as u32;
        let split = get(value, 6, 5) as u32;
        match get(value, 16, 2) {
            0 => (
                StrtabBaseCfg {
                    lg2_size,
                    split: None,
                },
                true,
            ),
            fmt => {
                let known = matches!(split, 6 | 8 | 10);
                (
                    StrtabBaseCfg {
                        lg2_size,
                        split: Some(if known { split } else { 6 }),
                    },
                    known && fmt == 1,
                )
            }
        }
    }
}

/// Position in a queue of `2^lg2` entries as `PROD` and `CONS` have it (3.5.1):
/// index in the low bits, wrap bit above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIndex(pub u32);

impl QueueIndex {
    /// The pointer of a register value, without the flags above it.
    pub const fn of(value: u32, lg2_entries: u32) -> Self {
        QueueIndex(value & ((2 << lg2_entries) - 1))
    }

    /// Entries between `self` as consumer and `producer`; `None` if that is more
    /// than the queue holds, which 3.5.1 calls inconsistent.
    pub const fn distance_to(self, producer: QueueIndex, lg2_entries: u32) -> Option<u32> {
        let count = producer.0.wrapping_sub(self.0) & ((2 << lg2_entries) - 1);
        if count > 1 << lg2_entries {
            None
        } else {
            Some(count)
        }
    }

    /// Index of the entry in memory.
    pub const fn slot(self, lg2_entries: u32) -> u32 {
        self.0 & ((1 << lg2_entries) - 1)
    }

    /// `count` entries further.
    pub const fn advanced(self, count: u32, lg2_entries: u32) -> Self {
        QueueIndex(self.0.wrapping_add(count) & ((2 << lg2_entries) - 1))
    }
}

/// `EVENTQ_PROD.OVFLG` and `EVENTQ_CONS.OVACKFLG` (7.4): bit 31.
pub const fn overflow_flag(value: u32) -> bool {
    bit(value as u64, 31)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn queue_pointers_of_every_size_and_the_inconsistent_states() {
        // One entry: the wrap bit is bit 0.
        assert_eq!(QueueIndex(0).distance_to(QueueIndex(1), 0), Some(1));
        assert_eq!(QueueIndex(1).distance_to(QueueIndex(1), 0), Some(0));
        // Four entries: index [1:0], wrap bit 2.
        let full = QueueIndex(1).distance_to(QueueIndex(5), 2);
        assert_eq!(full, Some(4), "same index, wrap bits differ");
        // PROD > CONS with different wraps; PROD < CONS with equal wraps.
        assert_eq!(QueueIndex(1).distance_to(QueueIndex(6), 2), None);
        assert_eq!(QueueIndex(3).distance_to(QueueIndex(1), 2), None);
        assert_eq!(QueueIndex(7).advanced(2, 2), QueueIndex(1));
        assert_eq!(QueueIndex(7).slot(2), 3);
        assert_eq!(QueueIndex::of(0x8000_000d, 2), QueueIndex(5));
    }

    #[test]
    fn bases_hold_address_and_size() {
        let value = queue_base(PhysAddr(0x4000_1000), 8, true);
        assert_eq!(value, 1 << 62 | 0x4000_1008);
        assert_eq!(decode_queue_base(value), (PhysAddr(0x4000_1000), 8));
        assert_eq!(queue_align_bytes(0, 16), 32);
        assert_eq!(queue_align_bytes(19, 16), 8 << 20);
        let two_level = StrtabBaseCfg {
            lg2_size: 16,
            split: Some(8),
        };
        assert_eq!(two_level.encode(), 1 << 16 | 8 << 6 | 16);
        assert_eq!(StrtabBaseCfg::decode(two_level.encode()), (two_level, true));
        assert!(!StrtabBaseCfg::decode(2 << 16 | 8 << 6).1);
        assert!(!StrtabBaseCfg::decode(1 << 16 | 7 << 6).1);
    }

    #[test]
    fn command_error_codes() {
        assert_eq!(
            CommandErrorCode::from_cons(0x0300_0001),
            CommandErrorCode::AtcInvalidation
        );
        assert_eq!(
            CommandErrorCode::from_cons(0x7f00_0000),
            CommandErrorCode::Unknown(0x7f)
        );
        assert_eq!(CommandErrorCode::Unknown(0x7f).code(), 0x7f);
    }
}
