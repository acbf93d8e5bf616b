//! Linux ftrace text to a [`Workload`].
//!
//! `line` finds the frame of a line, `event` reads the fields of the events
//! that matter, `parse` does so for a whole file in parallel, `rebuild`
//! turns events into requests, each mapped once and unmapped once. Any bytes
//! give a trace or an error; a damaged line costs that line only.

mod damage;
mod event;
mod line;
mod parse;
mod rebuild;
mod scan;
pub mod shipped;
mod source;

use std::path::Path;

pub use damage::{Damage, Reason, TraceError};

use crate::{
    report::{ParseStats, Source},
    workload::Workload,
};
use parse::Log;
use source::Format;

/// How to read a trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Refuse a trace with a damaged line.
    pub strict: bool,
}

/// Reads the trace at `path`, plain or gzip.
///
/// # Errors
///
/// A file that cannot be read, is not an ftrace text or holds no mappings; with
/// [`Options::strict`], the first damaged line.
pub fn read_file(path: &Path, options: Options) -> Result<Workload, TraceError> {
    let (log, format) = source::read_file(path)?;
    workload(log, format, path, "recorded by the user", options)
}

/// As [`read_file`], for content already in memory; `path` names it in messages
/// and gives the workload its name.
///
/// # Errors
///
/// As [`read_file`].
pub fn read_bytes(
    bytes: &[u8],
    path: &Path,
    provenance: &str,
    options: Options,
) -> Result<Workload, TraceError> {
    let (log, format) = source::read_bytes(bytes, path)?;
    workload(log, format, path, provenance, options)
}

fn workload(
    log: Log,
    format: Format,
    path: &Path,
    provenance: &str,
    options: Options,
) -> Result<Workload, TraceError> {
    let counts = &log.counts;
    if options.strict
        && let Some(&damage) = counts.damage.first()
    {
        return Err(TraceError::Damaged {
            path: path.to_owned(),
            damage,
        });
    }
    if counts.framed == 0 {
        return Err(TraceError::NotFtrace(path.to_owned()));
    }
    let no_events = || TraceError::NoDmaEvents {
        path: path.to_owned(),
        other_lines: counts.framed - counts.events.min(counts.framed),
    };
    let rebuilt = rebuild::rebuild(&log);
    if rebuilt.requests.is_empty() {
        return Err(no_events());
    }
    let parse = ParseStats {
        lines: counts.lines,
        events: counts.events,
        unknown_lines: counts.unknown,
        damaged_lines: counts.damaged,
        damaged_examples: (counts.damage.iter())
            .map(|d| format!("{}:{}: {}", path.display(), d.line, d.reason))
            .collect(),
        lost_events: counts.lost_events,
        truncated_lists: counts.truncated,
        unmatched_unmaps: rebuilt.unmatched_unmaps,
        left_mapped: rebuilt.left_mapped,
        devices: log.devices.0.clone(),
        cpus: counts.cpus.len() as u64,
    };
    let format = match format {
        Format::Text => "ftrace",
        Format::Gzip => "ftrace, gzip",
    };
    let source = Source::Trace {
        path: path.display().to_string(),
        format: format.to_owned(),
        provenance: provenance.to_owned(),
    };
    Ok(rebuilt.into_workload(name_of(path), source, parse, log.devices.0))
}

/// The file's name without what says its format.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let name = name.strip_suffix(".txt").unwrap_or(name);
    name.to_owned()
}
