//! The profiles that ship with the tool.

use dmabench_flushq::{HardwareCosts, RangeCommands};

use super::{HardwareProfile, MemoryCosts};

/// Name of [`default_profile`].
pub const DEFAULT_PROFILE: &str = "smmuv3-server-2020-ril";

/// Every built-in profile.
pub fn all() -> Vec<HardwareProfile> {
    vec![
        server_2020(),
        server_2020_ril(),
        kunpeng920(),
        sc7180_governed(),
        sc7180_pinned(),
        tegra(),
        trapped(),
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

/// The sources of what is the same for all of them, and of `more`.
fn sources(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let walk = ["walk_base_ns", "walk_read_ns"];
    (walk.into_iter())
        .map(|name| (name.to_owned(), MemoryCosts::WALK_SOURCE.to_owned()))
        .chain([factor_assumed()])
        .chain(more.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())))
        .collect()
}

/// Where a figure of `cpu_time_factor` comes from that nobody knows.
pub(super) fn factor_assumed() -> (String, String) {
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
        memory: MemoryCosts::COHERENT,
        cpu_time_factor: 1.0,
        device: None,
        field_sources: sources(&[("issue_ns", contained), ("doorbell_ns", contained)]),
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
        memory: MemoryCosts::COHERENT,
        cpu_time_factor: 1.0,
        device: None,
        field_sources: sources(&[]),
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
        memory: MemoryCosts::COHERENT,
        cpu_time_factor: 1.0,
        device: None,
        field_sources: sources(&[]),
    }
}

/// An Arm server whose table by size has both ends.
fn kunpeng920() -> HardwareProfile {
    let contained = "contained in sync_ns and command_ns, as it was measured from the processor";
    HardwareProfile {
        name: "smmuv3-kunpeng920".to_owned(),
        description: "An Arm server with Kunpeng 920 processors and SMMUv3, no range invalidation"
            .to_owned(),
        source: "Xiang Chen, iommu list, 2021-07-31, \"[PATCH 0/2] Implement [map/unmap]_pages \
                 callbacks for ARM SMMUV3\", dma_map_benchmark, 1 thread, after the patches: unmap \
                 takes 0.8 us for 4 KiB and 3.3 us for 128 KiB, so 81 ns for each further command \
                 and 719 ns for the rest. Linux's own code is contained in both, so that they are \
                 upper bounds."
            .to_owned(),
        costs: HardwareCosts {
            issue_ns: 0,
            doorbell_ns: 0,
            command_ns: 81,
            sync_ns: 719,
            range_commands: RangeCommands::Absent,
        },
        memory: MemoryCosts::COHERENT,
        cpu_time_factor: 1.0,
        device: None,
        field_sources: sources(&[("issue_ns", contained), ("doorbell_ns", contained)]),
    }
}

/// A SoC where neither table walks nor devices are coherent.
fn tegra() -> HardwareProfile {
    HardwareProfile {
        name: "smmu500-noncoherent".to_owned(),
        description: "A Tegra SoC with SMMU-500, tables and devices not coherent".to_owned(),
        source: "Ashish Mhetre, linux-tegra and iommu lists, 2024-08-06, \"[PATCH V4] \
                 iommu/io-pgtable-arm: Optimise non-coherent unmap\", dma_map_benchmark, with the \
                 patch: 3 us for 4 KiB, 52.2 us for 256 KiB, 65.5 us for 2 MiB (one block). Solved \
                 for the three: 659 ns for each command, 122 ns for each 4 KiB whatever maps it, \
                 2,219 ns for the rest."
            .to_owned(),
        costs: HardwareCosts {
            issue_ns: 625,
            doorbell_ns: 0,
            command_ns: 0,
            sync_ns: 2_219,
            range_commands: RangeCommands::Absent,
        },
        memory: MemoryCosts {
            table_line_ns: 273,
            buffer_page_ns: 122,
            ..MemoryCosts::COHERENT
        },
        cpu_time_factor: 1.0,
        device: None,
        field_sources: sources(&[
            (
                "issue_ns",
                "derived: the 659 ns of a command less 34 ns, an entry's share of cleaning a line. A \
                 register write keeps the processor busy, so all of it is counted here",
            ),
            (
                "table_line_ns",
                "derived: in the same table 256 KiB take 67.5 us with a clean for each of 64 \
                 entries and 52.2 us with 8 lines cleaned at once, so 273 ns for one of the 56 \
                 cleans saved",
            ),
            (
                "buffer_page_ns",
                "derived: a block of 2 MiB takes 62.5 us more than a page, and both are one \
                 command; the direction was both, so the buffer is cleaned or invalidated",
            ),
        ]),
    }
}

/// A queue whose doorbell is trapped.
fn trapped() -> HardwareProfile {
    HardwareProfile {
        name: "smmuv3-trapped".to_owned(),
        description: "A guest's SMMUv3 whose every doorbell is an exit to the hypervisor"
            .to_owned(),
        source: "As smmuv3-server-2020-ril, but for doorbell_ns.".to_owned(),
        costs: HardwareCosts {
            doorbell_ns: TRAP_NS,
            ..server_2020_ril().costs
        },
        field_sources: sources(&[("doorbell_ns", TRAP_SOURCE)]),
        ..server_2020_ril()
    }
}

/// A trap to a register that the hypervisor emulates, there and back.
const TRAP_NS: u64 = 3_071;
const TRAP_SOURCE: &str = "C. Dall et al., \"ARM Virtualization: Performance and Architectural \
                           Implications\", ISCA 2016: a trap to an emulated register takes KVM \
                           7,370 cycles on an Arm server at 2.4 GHz. Processors with VHE take \
                           less, a hypervisor that emulates in user space takes more";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dmabench_flushq::BackendCounts;

    use super::*;
    use crate::model::{FitRow, fit};

    #[test]
    fn names_are_unique_and_the_default_is_there() {
        let names: BTreeSet<String> = all().into_iter().map(|p| p.name).collect();
        assert_eq!(names.len(), all().len());
        assert_eq!(named(DEFAULT_PROFILE), Some(default_profile()));
        assert_eq!(named("no such"), None);
    }

    #[test]
    fn figures_that_are_said_to_be_solved_for_are() {
        let solved = |rows: &[(u64, f64)]| {
            let rows: Vec<FitRow> = (rows.iter())
                .map(|&(kib, us)| FitRow {
                    size_bytes: kib << 10,
                    unmap_ns: us * 1e3,
                })
                .collect();
            let fitted = fit(&rows, RangeCommands::Absent).unwrap();
            [fitted.sync_ns, fitted.command_ns, fitted.page_ns].map(|ns| ns.round() as u64)
        };
        let (tegra, kunpeng) = (tegra(), kunpeng920());
        assert_eq!(
            solved(&[(4, 3.0), (256, 52.2), (2048, 65.5)]),
            [
                tegra.costs.sync_ns,
                tegra.costs.issue_ns + tegra.memory.table_line_ns / 8,
                tegra.memory.buffer_page_ns
            ]
        );
        assert_eq!(
            solved(&[(4, 0.8), (128, 3.3)]),
            [kunpeng.costs.sync_ns, kunpeng.costs.command_ns, 0]
        );
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
