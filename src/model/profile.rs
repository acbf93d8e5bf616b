//! A hardware profile: what invalidations cost on one machine, and who says so.

use dmabench_flushq::{BackendCounts, HardwareCosts, RangeCommands};

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
    /// Processor time of this project's code on that machine, as a multiple of
    /// that on the machine of the run.
    pub cpu_time_factor: f64,
    /// Where single figures come from, where [`source`](Self::source) does not
    /// say it: name of the field and source.
    pub field_sources: Vec<(String, String)>,
}

impl HardwareProfile {
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

    /// As the report prints it.
    pub fn for_report(&self) -> Profile {
        let parameter = |name: &str, value: f64, unit: &str| Parameter {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            source: self.source_of(name).to_owned(),
        };
        let ranges = self.costs.range_commands == RangeCommands::Supported;
        Profile {
            name: self.name.clone(),
            description: self.description.clone(),
            source: self.source.clone(),
            formula:
                "invalidation commands x (issue_ns + command_ns) + CMD_SYNCs x (doorbell_ns + \
                      sync_ns), over the requests; the caller waits for every sync"
                    .to_owned(),
            parameters: vec![
                parameter("issue_ns", self.costs.issue_ns as f64, "ns"),
                parameter("doorbell_ns", self.costs.doorbell_ns as f64, "ns"),
                parameter("sync_ns", self.costs.sync_ns as f64, "ns"),
                parameter("command_ns", self.costs.command_ns as f64, "ns"),
                parameter("range_invalidation", f64::from(u8::from(ranges)), "0 or 1"),
                parameter("cpu_time_factor", self.cpu_time_factor, "x"),
            ],
        }
    }
}
