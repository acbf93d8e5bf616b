//! Reading descriptors (Arm DDI 0487, D8.3), independent of the code that
//! writes them.

use dmabench_platform::Granule;

use super::{
    regs::Geometry,
    report::{Access, FaultKind},
};

/// What a descriptor says, once its address has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// The next table.
    Table {
        address: u64,
        /// APTable (D8.4.3): what all entries below lose.
        loses: Rights,
    },
    /// A page or block.
    Leaf(Leaf),
}

/// A page or block as its descriptor says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// First byte of the output.
    pub(super) address: u64,
    pub(super) rights: Rights,
    /// Entries of every ASID match (stage 1, nG = 0).
    pub(super) global: bool,
    pub(super) contiguous: bool,
    pub(super) accessed: bool,
    /// Dirty bit modifier: the walker may turn it writable.
    pub(super) dbm: bool,
}

/// Bit set of what an access may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights(pub(super) u8);

impl Rights {
    pub(super) const NONE: Rights = Rights(0);
    pub(super) const READ: Rights = Rights(1);
    pub(super) const WRITE: Rights = Rights(2);
    /// Unprivileged accesses have the same rights.
    pub(super) const USER: Rights = Rights(4);
    pub(super) const ALL: Rights = Rights(7);

    pub(super) const fn or(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    pub(super) const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    pub(super) const fn has(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// What `access` by an unprivileged device needs.
    pub(super) const fn needed(access: Access) -> Rights {
        match access {
            Access::Read => Rights::READ.or(Rights::USER),
            Access::Write => Rights::WRITE.or(Rights::USER),
        }
    }
}

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Stage 1 AP[1]: unprivileged accesses allowed. Stage 2 S2AP[0]: read allowed.
const AP1: u64 = 1 << 6;
/// Stage 1 AP[2]: read only. Stage 2 S2AP[1]: write allowed.
pub(super) const AP2: u64 = 1 << 7;
pub(super) const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const AP_TABLE_NO_USER: u64 = 1 << 61;
const AP_TABLE_READ_ONLY: u64 = 1 << 62;

/// Bits `[high:low]` in place.
const fn bits(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// The address a descriptor carries, whose low `lg2` bits are not part of it.
///
/// Bits that the architecture reserves inside the address field must be zero
/// here: a later version may give them a meaning, so a writer that sets them is
/// wrong even where today's hardware ignores them.
fn address(geometry: &Geometry, descriptor: u64, lg2: u32, block: bool) -> Result<u64, FaultKind> {
    let granule_lg2 = geometry.granule.lg2();
    let (address, reserved) = match geometry.granule {
        Granule::K64 => (
            descriptor & bits(47, granule_lg2) | (descriptor & bits(15, 12)) << 36,
            descriptor & bits(50, 48),
        ),
        _ if geometry.ds => (
            descriptor & bits(49, granule_lg2) | (descriptor & bits(9, 8)) << 42,
            0,
        ),
        _ => (
            descriptor & bits(47, granule_lg2),
            descriptor & bits(50, 48),
        ),
    };
    // nT, bit 16, lies inside the address field of blocks.
    let inside = if block { address & !(1 << 16) } else { address };
    let misaligned = inside & ((1 << lg2) - 1) != 0;
    let low = if block {
        address & !((1 << lg2) - 1)
    } else {
        address
    };
    if reserved != 0 || misaligned || low >> geometry.output_bits != 0 {
        return Err(FaultKind::AddressSize);
    }
    Ok(low)
}

/// Reads one descriptor of a table of `level`.
pub(super) fn decode(
    geometry: &Geometry,
    level: i8,
    descriptor: u64,
) -> Result<Decoded, FaultKind> {
    if descriptor & VALID == 0 {
        return Err(FaultKind::Translation);
    }
    let second = descriptor & TABLE_OR_PAGE != 0;
    if level < 3 && second {
        let mut loses = Rights::NONE;
        if !geometry.stage2 {
            if descriptor & AP_TABLE_NO_USER != 0 {
                loses = loses.or(Rights::USER);
            }
            if descriptor & AP_TABLE_READ_ONLY != 0 {
                loses = loses.or(Rights::WRITE);
            }
        }
        let address = address(geometry, descriptor, geometry.granule.lg2(), false)?;
        return Ok(Decoded::Table { address, loses });
    }
    let block = level < 3;
    if (block && !geometry.block_allowed(level)) || (!block && !second) {
        return Err(FaultKind::Translation);
    }
    let rights = if geometry.stage2 {
        let mut rights = Rights::USER;
        if descriptor & AP1 != 0 {
            rights = rights.or(Rights::READ);
        }
        if descriptor & AP2 != 0 {
            rights = rights.or(Rights::WRITE);
        }
        rights
    } else {
        let mut rights = Rights::READ;
        if descriptor & AP1 != 0 {
            rights = rights.or(Rights::USER);
        }
        if descriptor & AP2 == 0 {
            rights = rights.or(Rights::WRITE);
        }
        rights
    };
    Ok(Decoded::Leaf(Leaf {
        address: address(geometry, descriptor, geometry.shift(level), block)?,
        rights,
        global: !geometry.stage2 && descriptor & NG == 0,
        contiguous: descriptor & CONTIGUOUS != 0 && geometry.contiguous_lg2(level).is_some(),
        accessed: descriptor & AF != 0,
        dbm: descriptor & DBM != 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(granule: Granule, output_bits: u32, ds: bool, stage2: bool) -> Geometry {
        Geometry {
            base: 0,
            granule,
            input_bits: 48,
            start: 0,
            output_bits,
            ds,
            stage2,
            affd: false,
            ha: false,
            hd: false,
        }
    }

    fn leaf(geometry: &Geometry, level: i8, descriptor: u64) -> Leaf {
        match decode(geometry, level, descriptor) {
            Ok(Decoded::Leaf(leaf)) => leaf,
            other => panic!("{descriptor:#x} at level {level}: {other:?}"),
        }
    }

    #[test]
    fn a8_rights_of_the_golden_entries() {
        // Values that Linux writes for these protections (reference data).
        let s1 = geometry(Granule::K4, 48, false, false);
        let rw = Rights::ALL;
        let cases = [
            (0xec3, Rights::READ.or(Rights::USER)),
            (0xe43, rw),
            (0xf47, rw),
            (0x0060_0000_0000_0e43, rw),
            (0xe03, rw.without(Rights::USER)),
        ];
        for (descriptor, rights) in cases {
            let leaf = leaf(&s1, 3, descriptor);
            assert_eq!(leaf.rights, rights, "{descriptor:#x}");
            assert!(leaf.accessed && !leaf.global && !leaf.contiguous);
        }
        let s2 = geometry(Granule::K4, 48, false, true);
        let cases = [
            (0x657, Rights::READ.or(Rights::USER)),
            (0x697, Rights::WRITE.or(Rights::USER)),
            (0x6d7, rw),
            (0x7ff, rw),
        ];
        for (descriptor, rights) in cases {
            assert_eq!(leaf(&s2, 3, descriptor).rights, rights, "{descriptor:#x}");
        }
    }

    #[test]
    fn a7_addresses_of_52_bits_come_out_of_their_three_encodings() {
        let k64 = geometry(Granule::K64, 52, false, false);
        for (descriptor, address) in [
            (0x1f47, 0x1_0000_0000_0000),
            (0xff47, 0xf_0000_0000_0000),
            (0xffff_ffff_ff47, 0xf_ffff_ffff_0000),
            (0x1234_5678_8f47, 0x8_1234_5678_0000),
        ] {
            assert_eq!(leaf(&k64, 3, descriptor).address, address);
        }
        let lpa2 = geometry(Granule::K4, 52, true, false);
        let descriptor = 0x403 | 0x3 << 8 | 0x2 << 48 | 0x1234_5678_9000;
        assert_eq!(leaf(&lpa2, 3, descriptor).address, 0xe_1234_5678_9000);
    }

    #[test]
    fn a7_what_the_output_size_does_not_hold_faults() {
        let k4 = geometry(Granule::K4, 40, false, false);
        let fault = Err(FaultKind::AddressSize);
        assert_eq!(decode(&k4, 3, 0xf47 | 1 << 40), fault);
        assert_eq!(decode(&k4, 1, 0xf03 | 1 << 40), fault, "tables too");
        assert_eq!(decode(&k4, 3, 0xf47 | 1 << 48), fault, "reserved bits");
        // Bad input 13: a block with address bits below its size.
        assert_eq!(decode(&k4, 2, 0xf45 | 1 << 12), fault);
        assert_eq!(leaf(&k4, 2, 0xf45 | 1 << 16 | 1 << 21).address, 1 << 21);
        let k64 = geometry(Granule::K64, 48, false, false);
        assert_eq!(
            decode(&k64, 3, 0x1f47),
            fault,
            "52-bit address, 48-bit output"
        );
    }

    #[test]
    fn blocks_exist_at_the_levels_the_architecture_has() {
        let allowed = |g: &Geometry| -> alloc::vec::Vec<i8> {
            let is_leaf = |level: &i8| decode(g, *level, 0xf45).is_ok();
            (-1..=3).filter(is_leaf).collect()
        };
        assert_eq!(allowed(&geometry(Granule::K4, 48, false, false)), [1, 2]);
        assert_eq!(allowed(&geometry(Granule::K4, 52, true, false)), [0, 1, 2]);
        assert_eq!(allowed(&geometry(Granule::K16, 48, false, false)), [2]);
        assert_eq!(allowed(&geometry(Granule::K16, 52, true, false)), [1, 2]);
        assert_eq!(allowed(&geometry(Granule::K64, 48, false, false)), [2]);
        assert_eq!(allowed(&geometry(Granule::K64, 52, false, false)), [1, 2]);
    }
}
