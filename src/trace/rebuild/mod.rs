//! Events to requests.
//!
//! Two ways, by what the kernel printed:
//!
//! * [`from_dma`]: a `dma:` line per map call says what one request is; the
//!   `iommu:map` lines before it say how long its pieces are, the `iommu:unmap`
//!   line says when it ended.
//! * [`from_iommu`]: no `dma:` lines (before 6.12). One `iommu:unmap` covers
//!   one request, so it gathers the `map` lines of its range; `block_rq_issue`
//!   tells the direction and the exact length.
//!
//! Both match by I/O virtual address. The task of a line means nothing: unmaps
//! run in interrupts, under whatever task was interrupted.

mod from_dma;
mod from_iommu;
mod pieces;
#[cfg(test)]
mod tests;

use super::{event::Event, parse::Log};
use crate::{
    report::{ParseStats, Source},
    workload::{Builder, Workload},
};

/// The requests of a trace.
pub(super) struct Rebuilt {
    pub(super) requests: Builder,
    /// Unmaps of what was never seen mapped.
    pub(super) unmatched_unmaps: u64,
    /// Mappings whose unmap the trace does not have.
    pub(super) left_mapped: u64,
    /// What had to be assumed, for the reader.
    pub(super) remarks: Vec<String>,
}

impl Rebuilt {
    pub(super) fn into_workload(
        self,
        name: String,
        source: Source,
        parse: ParseStats,
        mut devices: Vec<String>,
    ) -> Workload {
        if devices.is_empty() {
            devices.push("unknown".to_owned());
        }
        let mut description = "DMA mappings of a Linux ftrace".to_owned();
        for remark in &self.remarks {
            description.push_str("; ");
            description.push_str(remark);
        }
        (self.requests).finish(name, description, source, Some(parse), devices)
    }
}

/// Chooses the way and goes it.
pub(super) fn rebuild(log: &Log) -> Rebuilt {
    let has_dma =
        (log.events.iter()).any(|l| matches!(l.event, Event::MapSg { .. } | Event::MapOne { .. }));
    if has_dma {
        from_dma::rebuild(log)
    } else {
        from_iommu::rebuild(log)
    }
}
