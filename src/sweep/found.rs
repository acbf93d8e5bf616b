//! What a sweep found: `sweep.json`, `sweep.csv`.

use serde::{Deserialize, Serialize};

use crate::report::Machine;

/// Version of the structure of [`SweepReport`].
pub const SCHEMA_VERSION: u32 = 1;

/// Everything one sweep found, over all its sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// [`SCHEMA_VERSION`] of the program that wrote the file.
    pub schema_version: u32,
    /// What must be the same for a later session to go on with it.
    pub setting: Setting,
    /// The machine of the measured figures: of the last session.
    pub machine: Machine,
    /// Sessions that made it; more than one after `--resume`.
    pub sessions: u32,
    /// The command line that goes on with it, one string per argument.
    pub resume: Vec<String>,
    /// Points still to be done.
    pub missing: u64,
    /// Queue size and timeout; in other modes, the one line to compare with.
    pub queue: Vec<QueuePoint>,
    /// Request sizes.
    pub sizes: Vec<SizePoint>,
    /// Remarks, one sentence each.
    pub notes: Vec<String>,
}

/// What the figures depend on, besides the machine and the point itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Version of dmabench.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimised: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Requests timed for each point, at least.
    pub requests_min: u64,
    /// Hardware profile of the modelled figures.
    pub profile: String,
    /// Storage device of the virtual clock.
    pub device: String,
    /// Name, requests and bytes of each workload.
    pub workloads: Vec<(String, u64, u64)>,
    /// Mappings in flight in the sweep of sizes.
    pub depth: u32,
    /// Entries of the queue in the sweep of sizes.
    pub queue_entries: u64,
    /// Timeout of the queue there.
    pub flush_timeout_ns: u64,
}

/// One queue, or one mode without a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuePoint {
    /// Name of the workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Entries of the queue; null in modes that have none.
    pub entries: Option<u64>,
    /// Timeout of the queue.
    pub timeout_ms: Option<u64>,
    /// CPU time of map and unmap. Measured.
    pub cpu_ns_per_request: f64,
    /// Flushes of full rings per request. Counted, in the exposure run.
    pub flushes_full_per_request: f64,
    /// Flushes of the timer per request. Counted, in the exposure run.
    pub flushes_timer_per_request: f64,
    /// Hardware time of the commands, those of the timer included. Modelled.
    pub modelled_ns_per_request: f64,
    /// Throughput of the device with those. Modelled.
    pub modelled_mb_per_s: f64,
    /// Longest stale window; null in passthrough. Counted on the virtual clock.
    pub stale_window_max_ns: Option<u64>,
    /// Its median over the stale buffers.
    pub stale_window_p50_ns: Option<u64>,
    /// Probes that reached memory after the unmap.
    pub stale_accesses: Option<u64>,
    /// Most buffers stale at once.
    pub stale_buffers_max: Option<u64>,
    /// Most bytes stale at once.
    pub stale_bytes_max: Option<u64>,
    /// Most I/O pages held at once, mapped or waiting. Counted.
    pub iova_pages_held_max: u64,
    /// Most bytes of translation tables at once. Counted.
    pub page_table_bytes: u64,
}

/// One size in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizePoint {
    /// The mode.
    pub mode: String,
    /// Bytes of each request.
    pub bytes: u64,
    /// Pages of each.
    pub pages: u64,
    /// CPU time of map and unmap. Measured.
    pub cpu_ns_per_request: f64,
    /// Median and 99 % of a map call. Measured.
    pub map_p50_p99_ns: (f64, f64),
    /// Median and 99 % of an unmap call. Measured.
    pub unmap_p50_p99_ns: (f64, f64),
    /// Searches of the shared index per request: those that no cache served.
    /// Addresses below 4 GiB first, as in the runs. Counted.
    pub index_searches_per_request: f64,
    /// The same where the whole 48-bit space is used at once. Counted.
    pub index_searches_wide_per_request: f64,
    /// The same in Linux, where the caches end at 32 pages: 0 or 1, from its
    /// source, for a request whose caches are warm.
    pub linux_index_searches_per_request: f64,
}

/// A line of `sweep.csv`, and its head.
#[derive(Default, Serialize)]
struct Row<'a> {
    sweep: &'static str,
    workload: Option<&'a str>,
    mode: &'a str,
    entries: Option<u64>,
    timeout_ms: Option<u64>,
    bytes: Option<u64>,
    cpu_ns_per_request: f64,
    flushes_full_per_request: Option<f64>,
    flushes_timer_per_request: Option<f64>,
    modelled_ns_per_request: Option<f64>,
    modelled_mb_per_s: Option<f64>,
    stale_window_max_ns: Option<u64>,
    stale_window_p50_ns: Option<u64>,
    stale_accesses: Option<u64>,
    stale_buffers_max: Option<u64>,
    stale_bytes_max: Option<u64>,
    iova_pages_held_max: Option<u64>,
    page_table_bytes: Option<u64>,
    map_p50_ns: Option<f64>,
    map_p99_ns: Option<f64>,
    unmap_p50_ns: Option<f64>,
    unmap_p99_ns: Option<f64>,
    index_searches_per_request: Option<f64>,
    index_searches_wide_per_request: Option<f64>,
    linux_index_searches_per_request: Option<f64>,
}

impl SweepReport {
    /// The point that was done before, if it was.
    pub fn queue_point(
        &self,
        workload: &str,
        mode: &str,
        entries: Option<u64>,
        timeout_ms: Option<u64>,
    ) -> Option<&QueuePoint> {
        (self.queue.iter()).find(|point| {
            point.workload == workload
                && point.mode == mode
                && point.entries == entries
                && point.timeout_ms == timeout_ms
        })
    }

    /// As [`queue_point`](Self::queue_point).
    pub fn size_point(&self, mode: &str, bytes: u64) -> Option<&SizePoint> {
        (self.sizes.iter()).find(|point| point.mode == mode && point.bytes == bytes)
    }

    /// One line per point, a column per figure; a point without a figure leaves
    /// its place empty.
    ///
    /// # Errors
    ///
    /// Those of the writer, which has none: it writes to memory.
    pub fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        for point in &self.queue {
            csv.serialize(Row {
                sweep: "queue",
                workload: Some(&point.workload),
                mode: &point.mode,
                entries: point.entries,
                timeout_ms: point.timeout_ms,
                cpu_ns_per_request: point.cpu_ns_per_request,
                flushes_full_per_request: Some(point.flushes_full_per_request),
                flushes_timer_per_request: Some(point.flushes_timer_per_request),
                modelled_ns_per_request: Some(point.modelled_ns_per_request),
                modelled_mb_per_s: Some(point.modelled_mb_per_s),
                stale_window_max_ns: point.stale_window_max_ns,
                stale_window_p50_ns: point.stale_window_p50_ns,
                stale_accesses: point.stale_accesses,
                stale_buffers_max: point.stale_buffers_max,
                stale_bytes_max: point.stale_bytes_max,
                iova_pages_held_max: Some(point.iova_pages_held_max),
                page_table_bytes: Some(point.page_table_bytes),
                ..Row::default()
            })?;
        }
        for point in &self.sizes {
            csv.serialize(Row {
                sweep: "sizes",
                mode: &point.mode,
                bytes: Some(point.bytes),
                cpu_ns_per_request: point.cpu_ns_per_request,
                map_p50_ns: Some(point.map_p50_p99_ns.0),
                map_p99_ns: Some(point.map_p50_p99_ns.1),
                unmap_p50_ns: Some(point.unmap_p50_p99_ns.0),
                unmap_p99_ns: Some(point.unmap_p50_p99_ns.1),
                index_searches_per_request: Some(point.index_searches_per_request),
                index_searches_wide_per_request: Some(point.index_searches_wide_per_request),
                linux_index_searches_per_request: Some(point.linux_index_searches_per_request),
                ..Row::default()
            })?;
        }
        csv.into_inner().map_err(|error| error.into_error().into())
    }
}
