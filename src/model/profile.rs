//! A hardware profile: what invalidations, table walks and cache maintenance
//! cost on one machine, and who says so.

use dmabench_flushq::{BackendCounts, HardwareCosts, JoinCost, RangeCommands};

use super::StorageDevice;
use crate::report::{Parameter, Profile};

/// Hardware times of one machine, with their sources.
#[derive(Debug, Clone, PartialEq)]
pub struct HardwareProfile {
    /// Short name, as the command line and reports spell it.
    pub name: String,
    /// What hardware it stands for, in one sentence.
    pub description: String,
    /// Where its figures were published, and what was derived how.
    pub source: String,
    /// Invalidation and sync.
    pub costs: HardwareCosts,
    /// Cache maintenance and table walks.
    pub memory: MemoryCosts,
    /// Processor time of this project's code on that machine, as a multiple of
    /// that on the machine of the run. Positive.
    pub cpu_time_factor: f64,
    /// The board's own storage device, where the profile describes one.
    pub device: Option<StorageDevice>,
    /// Where single figures come from, where [`source`](Self::source) does not
    /// say it: name of the field and source.
    pub field_sources: Vec<(String, String)>,
}

/// What memory costs beside the caches, in nanoseconds. All zero but the walks
/// where the IOMMU and the device see the processor's caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryCosts {
    /// Processor: to clean one line of 8 translation table entries, at a map and
    /// at an unmap. 0 where the IOMMU walks coherently.
    pub table_line_ns: u64,
    /// Processor: to clean or invalidate 4 KiB of a buffer. 0 where the device is
    /// coherent. Modes that map nothing pay it too.
    pub buffer_page_ns: u64,
    /// IOMMU: a translation that is not in the TLB, memory reads not included.
    pub walk_base_ns: u64,
    /// IOMMU: each memory read of a walk.
    pub walk_read_ns: u64,
}

impl MemoryCosts {
    /// Coherent tables and devices, and the only published model of a walk.
    pub const COHERENT: MemoryCosts = MemoryCosts {
        table_line_ns: 0,
        buffer_page_ns: 0,
        walk_base_ns: 65,
        walk_read_ns: 197,
    };

    /// Where [`COHERENT`](Self::COHERENT)'s walk comes from.
    pub const WALK_SOURCE: &str = "\"Fast & Safe IO Memory Protection\", \
                                   SOSP 2024: 65 ns and 197 ns for each memory read, on an x86 \
                                   server";

    /// Table entries of 8 bytes in a line of 64.
    const ENTRIES_PER_LINE: f64 = 8.0;

    /// Processor time of the maintenance for one request of `pages` pages, map
    /// and unmap together.
    pub(super) fn maintenance_ns(&self, pages: f64, maps: bool) -> f64 {
        let lines = (pages / Self::ENTRIES_PER_LINE).max(1.0);
        let tables = if maps {
            2.0 * lines * self.table_line_ns as f64
        } else {
            0.0
        };
        tables + pages * self.buffer_page_ns as f64
    }

    /// A walk whose upper levels are in the walk cache: one memory read.
    pub fn walk_ns(&self) -> u64 {
        self.walk_base_ns.saturating_add(self.walk_read_ns)
    }
}

impl HardwareProfile {
    /// When separate ranges of a batch are invalidated as one. A translation that
    /// is forgotten takes a walk of one read, as the tables above it stay cached.
    /// A storage device works on one page, the next one and its descriptors at a
    /// time (assumed), however many requests are queued.
    pub fn join_cost(&self) -> JoinCost {
        const IN_USE_PAGES: u64 = 3;
        self.costs.join_cost(self.memory.walk_ns(), IN_USE_PAGES)
    }

    /// Hardware time of `counts` for a caller that waits for every sync, in
    /// nanoseconds: processor and IOMMU.
    pub fn hardware_ns(&self, counts: &BackendCounts) -> f64 {
        self.processor_ns(counts) + self.iommu_ns(counts)
    }

    /// The part of it that keeps the processor busy.
    pub fn processor_ns(&self, counts: &BackendCounts) -> f64 {
        counts.commands() as f64 * self.costs.issue_ns as f64
            + counts.syncs as f64 * self.costs.doorbell_ns as f64
    }

    /// The part of it that the IOMMU works.
    pub fn iommu_ns(&self, counts: &BackendCounts) -> f64 {
        counts.commands() as f64 * self.costs.command_ns as f64
            + counts.syncs as f64 * self.costs.sync_ns as f64
    }

    /// Where the figure of that name comes from.
    pub fn source_of(&self, field: &str) -> &str {
        (self.field_sources.iter())
            .find(|(name, _)| name == field)
            .map_or(&self.source, |(_, source)| source)
    }

    /// Name, value, unit and meaning of every figure, in the names of a board
    /// file.
    pub fn figures(&self) -> [(&'static str, f64, &'static str, &'static str); 10] {
        let ranges = self.costs.range_commands == RangeCommands::Supported;
        let (costs, memory) = (&self.costs, &self.memory);
        [
            (
                "issue_ns",
                costs.issue_ns as f64,
                "ns",
                "processor, per command",
            ),
            (
                "doorbell_ns",
                costs.doorbell_ns as f64,
                "ns",
                "processor, per sync",
            ),
            (
                "command_ns",
                costs.command_ns as f64,
                "ns",
                "IOMMU, per command",
            ),
            ("sync_ns", costs.sync_ns as f64, "ns", "IOMMU, per sync"),
            (
                "range_invalidation",
                f64::from(u8::from(ranges)),
                "0 or 1",
                "whether one command covers a range",
            ),
            (
                "table_line_ns",
                memory.table_line_ns as f64,
                "ns",
                "processor, cache maintenance per line of 8 table entries",
            ),
            (
                "buffer_page_ns",
                memory.buffer_page_ns as f64,
                "ns",
                "processor, cache maintenance per 4 KiB of buffer",
            ),
            (
                "walk_base_ns",
                memory.walk_base_ns as f64,
                "ns",
                "IOMMU, per translation not cached",
            ),
            (
                "walk_read_ns",
                memory.walk_read_ns as f64,
                "ns",
                "IOMMU, per memory read of a walk",
            ),
            (
                "cpu_time_factor",
                self.cpu_time_factor,
                "x",
                "this project's code there, as a multiple of here",
            ),
        ]
    }

    /// As the report prints it.
    pub fn for_report(&self) -> Profile {
        let parameter = |(name, value, unit, _): (&str, f64, &str, &str)| Parameter {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            source: self.source_of(name).to_owned(),
        };
        Profile {
            name: self.name.clone(),
            description: self.description.clone(),
            source: self.source.clone(),
            formula:
                "invalidation commands x (issue_ns + command_ns) + CMD_SYNCs x (doorbell_ns + \
                      sync_ns), over the requests; the caller waits for every sync"
                    .to_owned(),
            parameters: self.figures().into_iter().map(parameter).collect(),
        }
    }
}
