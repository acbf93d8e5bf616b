//! Context descriptors (5.4).

use dmabench_platform::{Granule, PhysAddr};

use super::bits::{bit, flag, get, put, span};

/// A context descriptor as memory holds it: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cd(pub [u64; 8]);

/// `TG0` and `S2TG`: 0 is 4K, 1 is 64K, 2 is 16K.
pub(super) const fn tg0_code(granule: Option<Granule>) -> u8 {
    match granule {
        Some(Granule::K4) => 0,
        Some(Granule::K64) => 1,
        Some(Granule::K16) => 2,
        None => 3,
    }
}

pub(super) const fn tg0_granule(code: u8) -> Option<Granule> {
    match code & 3 {
        0 => Some(Granule::K4),
        1 => Some(Granule::K64),
        2 => Some(Granule::K16),
        _ => None,
    }
}

/// `TG1`: 1 is 16K, 2 is 4K, 3 is 64K.
const fn tg1_code(granule: Option<Granule>) -> u8 {
    match granule {
        None => 0,
        Some(Granule::K16) => 1,
        Some(Granule::K4) => 2,
        Some(Granule::K64) => 3,
    }
}

const fn tg1_granule(code: u8) -> Option<Granule> {
    match code & 3 {
        0 => None,
        1 => Some(Granule::K16),
        2 => Some(Granule::K4),
        _ => Some(Granule::K64),
    }
}

/// One half of the address space: low (`TTB0`) or high (`TTB1`) addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableHalf {
    /// `TTBx`.
    pub base: PhysAddr,
    /// `TxSZ`: 64 minus the bits of an address.
    pub txsz: u8,
    /// `TGx`; `None` for its reserved code.
    pub granule: Option<Granule>,
    /// `IRx`.
    pub inner: u8,
    /// `ORx`.
    pub outer: u8,
    /// `SHx`.
    pub shareability: u8,
    /// `EPDx`: addresses of this half fault.
    pub disabled: bool,
}

impl TableHalf {
    /// A half whose addresses fault, all other fields 0.
    pub const DISABLED: TableHalf = TableHalf {
        base: PhysAddr(0),
        txsz: 0,
        granule: None,
        inner: 0,
        outer: 0,
        shareability: 0,
        disabled: true,
    };

    /// Tables at `base` for addresses of `64 - txsz` bits, read in inner
    /// shareable write-back memory.
    pub const fn new(base: PhysAddr, txsz: u8, granule: Granule) -> Self {
        TableHalf {
            base,
            txsz,
            granule: Some(granule),
            inner: 1,
            outer: 1,
            shareability: 3,
            disabled: false,
        }
    }
}

/// The fields of a context descriptor that this crate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CdFields {
    /// `V`.
    pub valid: bool,
    /// The low half.
    pub low: TableHalf,
    /// The high half.
    pub high: TableHalf,
    /// `ENDI`: big-endian tables.
    pub big_endian: bool,
    /// `IPS`.
    pub ips: u8,
    /// `AFFD`.
    pub affd: bool,
    /// `TBI`: bit 0 for the low half, bit 1 for the high one.
    pub tbi: u8,
    /// `AA64`: VMSAv8-64 tables.
    pub aa64: bool,
    /// `HD`.
    pub hd: bool,
    /// `HA`.
    pub ha: bool,
    /// `S`: faults stall.
    pub stall: bool,
    /// `R`: faults are recorded.
    pub record: bool,
    /// `A`: terminated means aborted.
    pub abort: bool,
    /// `ASET`: the ASID is not matched by broadcast invalidations.
    pub aset: bool,
    /// `ASID`.
    pub asid: u16,
    /// `HAD0` and `HAD1`: no attributes from table descriptors; bits 0 and 1.
    pub had: u8,
    /// `HAFT`.
    pub haft: bool,
    /// `DS`: 52 bits with 4K and 16K.
    pub ds: bool,
    /// `MAIR0` and `MAIR1`.
    pub mair: u64,
}

impl CdFields {
    /// A valid descriptor for the tables of `low`, the high half disabled;
    /// faults are recorded and end in an abort.
    pub const fn new(asid: u16, low: TableHalf, ips: u8, mair: u64) -> Self {
        CdFields {
            valid: true,
            low,
            high: TableHalf::DISABLED,
            big_endian: false,
            ips,
            affd: false,
            tbi: 0,
            aa64: true,
            hd: false,
            ha: false,
            stall: false,
            record: true,
            abort: true,
            aset: true,
            asid,
            had: 0,
            haft: false,
            ds: false,
            mair,
        }
    }

    /// The bytes.
    pub const fn encode(&self) -> Cd {
        let q0 = put(self.low.txsz as u64, 0, 6)
            | put(
                if self.low.disabled && self.low.granule.is_none() {
                    0
                } else {
                    tg0_code(self.low.granule) as u64
                },
                6,
                2,
            )
            | put(self.low.inner as u64, 8, 2)
            | put(self.low.outer as u64, 10, 2)
            | put(self.low.shareability as u64, 12, 2)
            | flag(self.low.disabled, 14)
            | flag(self.big_endian, 15)
            | put(self.high.txsz as u64, 16, 6)
            | put(tg1_code(self.high.granule) as u64, 22, 2)
            | put(self.high.inner as u64, 24, 2)
            | put(self.high.outer as u64, 26, 2)
            | put(self.high.shareability as u64, 28, 2)
            | flag(self.high.disabled, 30)
            | flag(self.valid, 31)
            | put(self.ips as u64, 32, 3)
            | flag(self.affd, 35)
            | put(self.tbi as u64, 38, 2)
            | flag(self.aa64, 41)
            | flag(self.hd, 42)
            | flag(self.ha, 43)
            | flag(self.stall, 44)
            | flag(self.record, 45)
            | flag(self.abort, 46)
            | flag(self.aset, 47)
            | (self.asid as u64) << 48;
        let q1 = flag(self.had & 1 != 0, 1) | flag(self.haft, 3) | (self.low.base.0 & span(51, 4));
        let q2 = flag(self.had & 2 != 0, 1) | (self.high.base.0 & span(51, 4)) | flag(self.ds, 58);
        Cd([q0, q1, q2, self.mair, 0, 0, 0, 0])
    }

    /// The fields out of the bytes; reserved granules are `None`.
    pub const fn decode(cd: &Cd) -> Self {
        let [q0, q1, q2, q3, ..] = cd.0;
        let disabled = bit(q0, 14);
        let low_granule = tg0_granule(get(q0, 6, 2) as u8);
        CdFields {
            valid: bit(q0, 31),
            low: TableHalf {
                base: PhysAddr(q1 & span(51, 4)),
                txsz: get(q0, 0, 6) as u8,
                granule: low_granule,
                inner: get(q0, 8, 2) as u8,
                outer: get(q0, 10, 2) as u8,
                shareability: get(q0, 12, 2) as u8,
                disabled,
            },
            high: TableHalf {
                base: PhysAddr(q2 & span(51, 4)),
                txsz: get(q0, 16, 6) as u8,
                granule: tg1_granule(get(q0, 22, 2) as u8),
                inner: get(q0, 24, 2) as u8,
                outer: get(q0, 26, 2) as u8,
                shareability: get(q0, 28, 2) as u8,
                disabled: bit(q0, 30),
            },
            big_endian: bit(q0, 15),
            ips: get(q0, 32, 3) as u8,
            affd: bit(q0, 35),
            tbi: get(q0, 38, 2) as u8,
            aa64: bit(q0, 41),
            hd: bit(q0, 42),
            ha: bit(q0, 43),
            stall: bit(q0, 44),
            record: bit(q0, 45),
            abort: bit(q0, 46),
            aset: bit(q0, 47),
            asid: get(q0, 48, 16) as u16,
            had: get(q1, 1, 1) as u8 | (get(q2, 1, 1) as u8) << 1,
            haft: bit(q1, 3),
            ds: bit(q2, 58),
            mair: q3,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn descriptor_as_emulators_take_it() {
        let low = TableHalf::new(PhysAddr(0x4030_0000), 16, Granule::K4);
        let cd = CdFields::new(0x1e20, low, 4, 0xff44).encode();
        let expected = 16
            | 1 << 8
            | 1 << 10
            | 3 << 12
            | 1 << 30
            | 1 << 31
            | 4 << 32
            | 1 << 41
            | 1 << 45
            | 1 << 46
            | 1 << 47
            | 0x1e20 << 48;
        assert_eq!(cd.0, [expected, 0x4030_0000, 0, 0xff44, 0, 0, 0, 0]);
    }

    #[test]
    fn fields_survive_and_do_not_overlap() {
        for granule in Granule::ALL {
            let half = TableHalf {
                base: PhysAddr(0xf_ffff_ffff_fff0),
                txsz: 63,
                granule: Some(granule),
                inner: 3,
                outer: 2,
                shareability: 1,
                disabled: false,
            };
            let all = CdFields {
                high: TableHalf {
                    disabled: true,
                    ..half
                },
                big_endian: true,
                affd: true,
                tbi: 3,
                hd: true,
                ha: true,
                stall: true,
                had: 3,
                haft: true,
                ds: true,
                ..CdFields::new(0xffff, half, 7, u64::MAX)
            };
            assert_eq!(CdFields::decode(&all.encode()), all);
        }
    }
}
