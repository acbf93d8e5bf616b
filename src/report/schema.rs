//! The structure of `report.json`, described for its readers in `docs/report-format.md`.
//!
//! Each field says in its documentation whether it is **measured**, **counted** or **modelled**;
//! [`kinds`] says the same in the file itself. Adding a field keeps [`SCHEMA_VERSION`]; renaming
//! one, removing one or changing what one means raises it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the structure described here; `schema_version` in the file.
pub const SCHEMA_VERSION: u32 = 1;

/// Where a figure comes from. Figures of different kinds are never added up in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Time taken by our code on the machine of the run. Differs by machine and by noise.
    Measured,
    /// Commands, accesses, pages, virtual time: the same on every machine for one seed.
    Counted,
    /// Computed from counted figures and a hardware profile whose source is named.
    Modelled,
    /// Given to the run (names, options, sizes of the workload): not a result.
    Given,
}

/// Everything one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the program that wrote the file.
    pub schema_version: u32,
    /// Version of dmabench that made the run.
    pub version: String,
    /// The command line, one string per argument, program name first.
    pub command_line: Vec<String>,
    /// When the run began, seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
    /// Wall-clock length of the whole run in seconds. Measured.
    pub run_seconds: f64,
    /// Seed of every random choice of the run.
    pub seed: u64,
    /// The options in force, defaults included.
    pub options: Options,
    /// The machine the measured figures belong to.
    pub machine: Machine,
    /// The hardware profile the modelled figures come from.
    pub profile: Profile,
    /// The device whose service time drives the virtual clock of the exposure run.
    pub service_device: ServiceDevice,
    /// Which field is measured, counted, modelled or given; see [`kinds`].
    pub kind: BTreeMap<String, Kind>,
    /// The workloads: where each came from and what reading it met.
    pub workloads: Vec<Workload>,
    /// One entry per workload and mode.
    pub results: Vec<RunResult>,
    /// Remarks on the whole run that a reader should see, one sentence each.
    pub notes: Vec<String>,
}

/// The options of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Translation granule in bytes.
    pub granule_bytes: u64,
    /// Entries of each slot's flush queue in lazy mode.
    pub flush_queue_entries: u64,
    /// Timer of the flush queue in nanoseconds of the run's clock.
    pub flush_timeout_ns: u64,
    /// How often the flush queue's timer is looked at in the exposure run, in virtual nanoseconds;
    /// 0 means exactly at its deadline.
    pub poll_period_ns: u64,
    /// A workload is repeated until at least so many requests were timed.
    pub requests_min: u64,
    /// Further options by name, in the words of the command line.
    pub other: BTreeMap<String, String>,
}

/// The machine of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor name as the operating system gives it.
    pub cpu_model: String,
    /// Processors the run could use.
    pub cores: u64,
    /// Instruction set, as Rust names it (`x86_64`, `aarch64`).
    pub arch: String,
    /// Operating system and, where known, distribution.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Whether a hypervisor was seen; timings there move with the neighbours.
    pub virtualised: Option<bool>,
    /// The clock of the latency figures.
    pub clock: ClockInfo,
}

/// The clock latencies were read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClockInfo {
    /// `TSC`, `CNTVCT` or `CLOCK_MONOTONIC`.
    pub name: String,
    /// Length of one tick in nanoseconds. Measured.
    pub tick_ns: f64,
    /// Cost of one pair of readings in nanoseconds. Measured.
    pub cost_ns: f64,
    /// Whether `cost_ns` has been taken off the latencies of this report.
    pub cost_subtracted: bool,
}

/// A set of hardware times with their sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Name, as in the `model` field of the results.
    pub name: String,
    /// What hardware it stands for, in one sentence.
    pub description: String,
    /// Where the numbers were published.
    pub source: String,
    /// How the modelled time follows from the counts, as a formula in words.
    pub formula: String,
    /// The numbers.
    pub parameters: Vec<Parameter>,
}

/// The device of the exposure run: how long it takes for one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceDevice {
    /// Name of the device model.
    pub name: String,
    /// What it stands for, in one sentence.
    pub description: String,
    /// Where its numbers come from.
    pub source: String,
    /// The numbers.
    pub parameters: Vec<Parameter>,
}

/// One number of a profile or device, with unit and source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Where it was published or how it was derived.
    pub source: String,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Name; `workload` of the results refers to it.
    pub name: String,
    /// What it is, in one sentence.
    pub description: String,
    /// Where it comes from.
    pub source: Source,
    /// Map calls of one pass. Counted.
    pub requests: u64,
    /// Bytes mapped in one pass. Counted.
    pub bytes: u64,
    /// Requests of one pass in which the device reads memory (DMA to the device). Counted.
    pub to_device: u64,
    /// Requests of one pass in which the device writes memory (DMA from the device). Counted.
    pub from_device: u64,
    /// Most mappings live at once. Counted.
    pub live_max: u64,
    /// Request sizes and how often each occurs, smallest first. Counted.
    pub sizes: Vec<SizeCount>,
    /// What reading the file met; null for a generated workload.
    pub parse: Option<ParseStats>,
}

/// Where a workload comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Source {
    /// Read from a file.
    Trace {
        /// The file, as the user named it, or its name among the shipped traces.
        path: String,
        /// Its format (`ftrace`, `ftrace, gzip`).
        format: String,
        /// Who recorded it on what, where known.
        provenance: String,
    },
    /// Made by a generator.
    Generated {
        /// The generator's name and parameters.
        generator: String,
    },
}

/// How many requests had one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeCount {
    /// Bytes of the request.
    pub bytes: u64,
    /// Requests of that size in one pass. Counted.
    pub requests: u64,
}

/// What the parser met in a file. All counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParseStats {
    /// Lines read.
    pub lines: u64,
    /// Lines that were events this tool uses.
    pub events: u64,
    /// Lines of other events or of no known form; they are skipped.
    pub unknown_lines: u64,
    /// Lines of a known event that could not be read; they are skipped.
    pub damaged_lines: u64,
    /// File, line and reason of the first damaged lines.
    pub damaged_examples: Vec<String>,
    /// Events the kernel says it lost (`LOST n EVENTS`).
    pub lost_events: u64,
    /// Scatter lists the kernel cut short (`[TRUNCATED]`).
    pub truncated_lists: u64,
    /// Unmaps of something never seen mapped (the trace began later); they are skipped.
    pub unmatched_unmaps: u64,
    /// Mappings the trace never unmaps; they are unmapped at the end of the pass.
    pub left_mapped: u64,
    /// Devices seen.
    pub devices: Vec<String>,
    /// Processors seen.
    pub cpus: u64,
}

/// What one workload did in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Name of the workload.
    pub workload: String,
    /// `passthrough`, `strict` or `lazy`.
    pub mode: String,
    /// Map calls in one pass; one scatter list is one. Counted.
    pub requests: u64,
    /// Passes of the timing run in which each call was timed. Given.
    pub passes: u64,
    /// Bytes mapped in one pass. Counted.
    pub bytes: u64,
    /// Nanoseconds of one map call. Measured.
    pub map_ns: LatencyNs,
    /// Nanoseconds of one unmap call, invalidation through the counting backend included (which
    /// takes no hardware time). Measured.
    pub unmap_ns: LatencyNs,
    /// Nanoseconds of processor time of one map and its unmap, from batches of whole passes with no
    /// clock read inside: the median batch. The replay loop around the calls, the same in every
    /// mode, is part of it. Measured.
    pub cpu_ns_per_request: f64,
    /// Spread of the same figure over the batches. Measured.
    pub cpu_ns_spread: Spread,
    /// Address ranges handed to the backend for invalidation, per pass of the timing run. Counted.
    #[serde(serialize_with = "whole_if_whole")]
    pub tlb_invalidate_ranges: f64,
    /// SMMUv3 invalidation commands those ranges become, per pass of the timing run. Counted.
    #[serde(serialize_with = "whole_if_whole")]
    pub tlb_invalidate_commands: f64,
    /// Commands that invalidate the whole address space, per pass of the timing run. A queue that
    /// fills every second pass counts as a half. Counted.
    #[serde(serialize_with = "whole_if_whole")]
    pub tlb_flush_all_commands: f64,
    /// `CMD_SYNC`s, per pass of the timing run. Counted.
    #[serde(serialize_with = "whole_if_whole")]
    pub sync_commands: f64,
    /// Probes that reached memory after its unmap had returned, in the exposure run. Null where
    /// nothing is ever translated (passthrough). Counted.
    pub stale_device_accesses: Option<u64>,
    /// Longest time from the return of an unmap to a probe that still reached the buffer, in
    /// virtual nanoseconds of the exposure run. Null in passthrough. Counted.
    pub stale_window_max_ns: Option<u64>,
    /// Most granule-size pages of I/O virtual address space in use at once, mapped or waiting for
    /// their flush, in the exposure run. Counted.
    pub iova_pages_held_max: u64,
    /// Most bytes of translation tables at once in the exposure run. Counted.
    pub page_table_bytes: u64,
    /// Nanoseconds of hardware time per request that the profile gives for the counted commands.
    /// Does not contain `cpu_ns_per_request`. Modelled.
    pub modelled_ns_per_request: f64,
    /// What of `modelled_ns_per_request` the processor waits for with nothing else under way: in
    /// strict-pipelined mode the rest passes beside the next transfer. Null in files of versions
    /// that did not have it. Modelled.
    #[serde(default)]
    pub modelled_wait_ns_per_request: Option<f64>,
    /// Throughput in 10^6 bytes per second that follows from `cpu_ns_per_request` on the profile's
    /// machine, `modelled_ns_per_request`, the service device, and what of it the mode lets overlap
    /// with a transfer. Null in files of versions that did not have it. Modelled.
    #[serde(default)]
    pub modelled_mb_per_s: Option<f64>,
    /// Name of the profile behind the modelled figures.
    pub model: String,
    /// Percentile curve of the map calls for the plots. Measured.
    pub map_curve: Vec<CurvePoint>,
    /// Percentile curve of the unmap calls for the plots. Measured.
    pub unmap_curve: Vec<CurvePoint>,
    /// What the exposure run saw; null in passthrough.
    pub exposure: Option<Exposure>,
    /// Remarks on this result, one sentence each.
    pub notes: Vec<String>,
}

/// Latencies of one kind of call in nanoseconds. Measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyNs {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 of 100 calls took at most so long.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The longest call; includes whatever the operating system did meanwhile.
    pub max: f64,
}

/// Smallest, middle and largest of the same figure over the batches of passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Fastest batch.
    pub min: f64,
    /// Median batch.
    pub p50: f64,
    /// Slowest batch.
    pub max: f64,
}

/// One point of a percentile curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Part of the calls, 0 to 1.
    pub quantile: f64,
    /// That part took at most so many nanoseconds. Measured.
    pub ns: f64,
}

/// What a device could still reach, from the exposure run: one pass on a virtual clock in which
/// every request takes the service time of the stated device. All counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// Map calls of the exposure run; fewer than in a pass where a long run was cut.
    pub requests: u64,
    /// Accesses the device made to memory while it was mapped.
    pub device_accesses: u64,
    /// Accesses tried after the unmap.
    pub probes: u64,
    /// Buffers whose first probe after the unmap still reached memory.
    pub stale_buffers: u64,
    /// Most buffers that were unmapped and still reachable at one moment.
    pub stale_buffers_max: u64,
    /// Most bytes that were unmapped and still reachable at one moment.
    pub stale_bytes_max: u64,
    /// Median over the stale buffers of the longest time each could still be reached, virtual
    /// nanoseconds; 0 where no buffer was.
    pub stale_window_p50_ns: u64,
    /// The bound the mode promises for the stale window, virtual nanoseconds; 0 in strict.
    pub stale_window_bound_ns: u64,
    /// Accesses through a translation whose invalidation had completed: a defect, always 0.
    pub violations: u64,
    /// Flushes because a ring was full.
    pub flushes_ring_full: u64,
    /// Flushes because the timer ran out.
    pub flushes_timer: u64,
    /// `CMD_SYNC`s of the exposure run.
    pub sync_commands: u64,
    /// Pages that were mapped, and not being unmapped, when an invalidation covered them: all there
    /// were, for one of the whole address space; in strict-batched mode those between ranges that
    /// were joined. Each is looked up again, which the modelled figures do not contain. Null in
    /// files of versions that did not have it.
    #[serde(default)]
    pub live_pages_invalidated: Option<u64>,
    /// Length of the run on the virtual clock, nanoseconds.
    pub virtual_ns: u64,
    /// Pages held over virtual time, thinned out for the plot.
    pub timeline: Vec<TimelinePoint>,
}

/// Pages of I/O virtual address space at one moment. Counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// Virtual nanoseconds since the start of the exposure run.
    pub at_ns: u64,
    /// Granule-size pages mapped.
    pub mapped_pages: u64,
    /// Granule-size pages unmapped but not yet free for reuse.
    pub waiting_pages: u64,
}

/// Writes a whole number without a fraction, so that readers that expect integers find them.
fn whole_if_whole<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // 2^53: above it f64 has no fractions and below it the conversion is exact.
    if value.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(value) {
        serializer.serialize_u64(*value as u64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// The kind of every figure in the file, by its place in it: the value of the `kind` field.
pub fn kinds() -> BTreeMap<String, Kind> {
    KINDS
        .iter()
        .map(|&(field, kind)| (field.to_owned(), kind))
        .collect()
}

const KINDS: &[(&str, Kind)] = &[
    ("schema_version", Kind::Given),
    ("started_unix_s", Kind::Given),
    ("run_seconds", Kind::Measured),
    ("machine.cores", Kind::Given),
    ("machine.clock.tick_ns", Kind::Measured),
    ("machine.clock.cost_ns", Kind::Measured),
    ("seed", Kind::Given),
    ("options", Kind::Given),
    ("profile", Kind::Given),
    ("service_device", Kind::Given),
    ("workloads[].requests", Kind::Counted),
    ("workloads[].bytes", Kind::Counted),
    ("workloads[].to_device", Kind::Counted),
    ("workloads[].from_device", Kind::Counted),
    ("workloads[].live_max", Kind::Counted),
    ("workloads[].sizes", Kind::Counted),
    ("workloads[].parse", Kind::Counted),
    ("results[].requests", Kind::Counted),
    ("results[].passes", Kind::Given),
    ("results[].bytes", Kind::Counted),
    ("results[].map_ns", Kind::Measured),
    ("results[].unmap_ns", Kind::Measured),
    ("results[].cpu_ns_per_request", Kind::Measured),
    ("results[].cpu_ns_spread", Kind::Measured),
    ("results[].tlb_invalidate_ranges", Kind::Counted),
    ("results[].tlb_invalidate_commands", Kind::Counted),
    ("results[].tlb_flush_all_commands", Kind::Counted),
    ("results[].sync_commands", Kind::Counted),
    ("results[].stale_device_accesses", Kind::Counted),
    ("results[].stale_window_max_ns", Kind::Counted),
    ("results[].iova_pages_held_max", Kind::Counted),
    ("results[].page_table_bytes", Kind::Counted),
    ("results[].modelled_ns_per_request", Kind::Modelled),
    ("results[].modelled_wait_ns_per_request", Kind::Modelled),
    ("results[].modelled_mb_per_s", Kind::Modelled),
    ("results[].map_curve", Kind::Measured),
    ("results[].unmap_curve", Kind::Measured),
    ("results[].exposure", Kind::Counted),
];

#[cfg(test)]
mod tests;
