//! The profiles that ship with the tool.

use dmabench_flushq::{HardwareCosts, RangeCommands};

use super::HardwareProfile;

/// Name of [`default_profile`].
pub const DEFAULT_PROFILE: &str = "smmuv3-server-2020-ril";

/// Every built-in profile.
pub fn all() -> Vec<HardwareProfile> {
    vec![
        server_2020(),
        server_2020_ril(),
        sc7180_governed(),
        sc7180_pinned(),
    ]
}

/// The profile of a run that names none.
pub fn default_profile() -> HardwareProfile {
    server_2020_ril()
}

/// The built-in profile of that name.
pub fn named(name: &str) -> Option<HardwareProfile> {
    all().into_iter().find(|profile| profile.name == name)
}

/// As a figure of `cpu_time_factor` that nobody knows.
fn factor_assumed() -> (String, String) {
    (
        "cpu_time_factor".to_owned(),
        "assumed: this project's code has not been timed on that machine".to_owned(),
    )
}

/// The Arm server of Barry Song's measurements of 2020.
fn server_2020() -> HardwareProfile {
    let contained = "contained in sync_ns and command_ns, as it was measured from the processor";
    HardwareProfile {
        name: "smmuv3-server-2020".to_owned(),
        description: "An Arm server with SMMUv3, one thread, no range invalidation".to_owned(),
        source: "Barry Song, linux-iommu list, May 2020, strict unmap of one page on an Arm \
                 server with SMMUv3: the CMD_SYNC takes 883 ns with 1 thread and 4000, 6879, \
                 16746, 24429 ns with 16, 32, 64, 96. Derived: 16 to 96 threads share one \
                 queue, so one TLBI and one CMD_SYNC occupy it for 215 to 261 ns, about 250; \
                 half of that is taken for the TLBI (command_ns), and the rest of the 883 ns \
                 for the sync (sync_ns). One command per page, as without range invalidation."
            .to_owned(),
        costs: HardwareCosts {
            issue_ns: 0,
            doorbell_ns: 0,
            sync_ns: 758,
            command_ns: 125,
            range_commands: RangeCommands::Absent,
        },
        cpu_time_factor: 1.0,
        field_sources: vec![
            ("issue_ns".to_owned(), contained.to_owned()),
            ("doorbell_ns".to_owned(), contained.to_owned()),
            factor_assumed(),
        ],
    }
}

/// The same hardware, had it range invalidation (SMMUv3.2, `IDR3.RIL`).
fn server_2020_ril() -> HardwareProfile {
    let measured = server_2020();
    HardwareProfile {
        name: "smmuv3-server-2020-ril".to_owned(),
        description: "An Arm server with SMMUv3, one thread, range invalidation".to_owned(),
        source: "Barry Song, linux-iommu list, May 2020: the CMD_SYNC of a strict unmap takes \
                 883 ns with 1 thread on an Arm server with SMMUv3, of which about 125 ns are \
                 taken for one invalidation command (smmuv3-server-2020 says how). Assumed: a \
                 range invalidation command costs the same as one for a page."
            .to_owned(),
        costs: HardwareCosts {
            range_commands: RangeCommands::Supported,
            ..measured.costs
        },
        ..measured
    }
}

const DD_THREAD: &str = "Douglas Anderson, linux-mmc and iommu lists, 2021-06-21, \"[PATCH 6/6] \
                         mmc: sdhci-msm: Request non-strict IOMMU mode\", dd from the eMMC of an \
                         sc7180-trogdor-lazor";

/// The board of the 2021 thread as its governor ran it.
fn sc7180_governed() -> HardwareProfile {
    HardwareProfile {
        name: "smmu500-sc7180".to_owned(),
        description: "Snapdragon 7c with an SMMU-500, clocks as the governor sets them".to_owned(),
        source: format!(
            "{DD_THREAD}: 210.9 MB/s strict and 279.6 MB/s non-strict are 152.7 us more for each \
             request of 128 KiB, which is 32 register writes for 32 pages and one sync. Assumed: \
             each of the 33 takes the same, 4.63 us; the register write itself takes what it \
             takes at the top clock (smmu500-sc7180-pinned)."
        ),
        costs: HardwareCosts {
            issue_ns: 184,
            doorbell_ns: 184,
            command_ns: 4_443,
            sync_ns: 4_443,
            range_commands: RangeCommands::Absent,
        },
        cpu_time_factor: 1.0,
        field_sources: vec![factor_assumed()],
    }
}

/// The same board with its processors at their top clock.
fn sc7180_pinned() -> HardwareProfile {
    HardwareProfile {
        name: "smmu500-sc7180-pinned".to_owned(),
        description: "Snapdragon 7c with an SMMU-500, processors at their top clock".to_owned(),
        source: format!(
            "{DD_THREAD}, cpufreq pegged to max: 284.3 MB/s strict and 288.1 MB/s non-strict are \
             6.08 us more for each request of 128 KiB, which is 32 register writes for 32 pages \
             and one sync. Assumed: each of the 33 takes the same, 184 ns, and all of it keeps \
             the processor busy."
        ),
        costs: HardwareCosts {
            issue_ns: 184,
            doorbell_ns: 184,
            command_ns: 0,
            sync_ns: 0,
            range_commands: RangeCommands::Absent,
        },
        cpu_time_factor: 1.0,
        field_sources: vec![factor_assumed()],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dmabench_flushq::BackendCounts;

    use super::*;

    #[test]
    fn names_are_unique_and_the_default_is_there() {
        let names: BTreeSet<String> = all().into_iter().map(|p| p.name).collect();
        assert_eq!(names.len(), all().len());
        assert_eq!(named(DEFAULT_PROFILE), Some(default_profile()));
        assert_eq!(named("no such"), None);
    }

    #[test]
    fn one_strict_unmap_of_a_page_takes_the_published_sync() {
        let counts = BackendCounts {
            ranges: 1,
            commands_by_address: 1,
            syncs: 1,
            ..BackendCounts::default()
        };
        let profile = default_profile();
        assert_eq!(profile.hardware_ns(&counts), 883.0);
    }
}
