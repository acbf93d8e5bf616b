//! Known faults of real SMMUs, as options.

/// What to avoid on one SMMU. [`Errata::for_iidr`] knows Arm's; an embedder sets
/// the rest by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Errata {
    /// Range commands are not used although `IDR3.RIL` is 1.
    pub single_address_only: bool,
    /// `TTL` is always 0.
    pub no_level_hint: bool,
    /// One granule is invalidated by a range of two rather than by `TG` = 0, for
    /// SMMUs whose single form is the faulty one.
    pub always_range: bool,
    /// Each batch of invalidations ends with its own `CMD_SYNC` (MMU-700 before
    /// r1p1, 2812531).
    pub sync_ends_batch: bool,
    /// No stage 1 on top of stage 2 (MMU-600 before r2, 1209401; MMU-700,
    /// 2268618).
    pub no_nesting: bool,
    /// `CMD_SYNC` does not wake CPUs (MMU-600 r0p0 to r0p2, 1076982). The driver
    /// never asks for it; kept for embedders that wait with `WFE`.
    pub no_event_signal: bool,
}

impl Errata {
    /// No fault.
    pub const NONE: Errata = Errata {
        single_address_only: false,
        no_level_hint: false,
        always_range: false,
        sync_ends_batch: false,
        no_nesting: false,
        no_event_signal: false,
    };

    /// The errata of Arm's SMMUs, by `SMMU_IIDR` (6.3.7): product `[31:20]`,
    /// variant `[19:16]`, revision `[15:12]`, implementer `[11:0]`. `MMU-600` is
    /// product 0x483, `MMU-700` 0x487.
    pub const fn for_iidr(iidr: u32) -> Self {
        const ARM: u32 = 0x43b;
        let mut errata = Errata::NONE;
        if iidr & 0xfff != ARM {
            return errata;
        }
        let (variant, revision) = (iidr >> 16 & 0xf, iidr >> 12 & 0xf);
        match iidr >> 20 {
            0x483 => {
                errata.no_event_signal = variant == 0 && revision <= 2;
                errata.no_nesting = variant < 2;
            }
            0x487 => {
                errata.sync_ends_batch = variant < 1 || (variant == 1 && revision < 1);
                errata.no_nesting = true;
            }
            _ => {}
        }
        errata
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn errata_of_arm_products_by_revision() {
        let iidr = |product: u32, variant: u32, revision: u32| {
            Errata::for_iidr(product << 20 | variant << 16 | revision << 12 | 0x43b)
        };
        assert!(iidr(0x483, 0, 2).no_event_signal && iidr(0x483, 1, 0).no_nesting);
        assert!(!iidr(0x483, 2, 0).no_nesting);
        assert!(iidr(0x487, 1, 0).sync_ends_batch && !iidr(0x487, 1, 1).sync_ends_batch);
        assert!(iidr(0x487, 1, 1).no_nesting);
        assert_eq!(Errata::for_iidr(0x4870_0000), Errata::NONE, "not Arm's");
        assert_eq!(iidr(0x123, 0, 0), Errata::NONE);
    }
}
