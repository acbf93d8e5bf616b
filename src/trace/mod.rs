//! Traces to a [`Workload`]: Linux ftrace text, the text of `blkparse`, fio's
//! iologs; plain, gzip or Zstandard. Which it is the content says, not the name.
//!
//! Of an ftrace `line` finds the frame of a line, `event` reads the fields of the events
//! that matter, `parse` does so for a whole file in parallel, `rebuild`
//! turns events into requests, each mapped once and unmapped once. `block` makes
//! requests out of block traces, which have no mappings of their own. Any bytes
//! give a trace or an error; a damaged line costs that line only.

mod block;
mod damage;
mod event;
mod line;
mod parse;
mod rebuild;
mod scan;
pub mod shipped;
mod source;
mod zstd;

use std::path::Path;

pub use damage::{Damage, Reason, TraceError};

use crate::{
    report::{ParseStats, Source},
    workload::Workload,
};
use parse::Log;
use source::{Packing, Reading};

/// How to read a trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Refuse a trace with a damaged line.
    pub strict: bool,
}

/// Reads the trace at `path`: ftrace, blkparse or fio iolog; plain, gzip or
/// Zstandard.
///
/// # Errors
///
/// A file that cannot be read, is of no known form or holds no mappings; with
/// [`Options::strict`], the first damaged line.
pub fn read_file(path: &Path, options: Options) -> Result<Workload, TraceError> {
    let (reading, packing) = source::read_file(path)?;
    workload(reading, packing, path, "recorded by the user", options)
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
    let (reading, packing) = source::read_bytes(bytes, path)?;
    workload(reading, packing, path, provenance, options)
}

fn workload(
    reading: Reading,
    packing: Packing,
    path: &Path,
    provenance: &str,
    options: Options,
) -> Result<Workload, TraceError> {
    let counts = match &reading {
        Reading::Ftrace(log) => &log.counts,
        Reading::Block(log) => &log.counts,
    };
    if options.strict
        && let Some(&damage) = counts.damage.first()
    {
        return Err(TraceError::Damaged {
            path: path.to_owned(),
            damage,
        });
    }
    let damaged_examples = (counts.damage.iter())
        .map(|d| format!("{}:{}: {}", path.display(), d.line, d.reason))
        .collect();
    let source = |form: &str| Source::Trace {
        path: path.display().to_string(),
        format: match packing {
            Packing::Plain => form.to_owned(),
            Packing::Gzip => format!("{form}, gzip"),
            Packing::Zstd => format!("{form}, zstd"),
        },
        provenance: provenance.to_owned(),
    };
    match reading {
        Reading::Ftrace(log) => ftrace(log, path, source("ftrace"), damaged_examples),
        Reading::Block(log) => {
            if let Some(missing) = log.missing() {
                return Err(TraceError::NoRequests {
                    path: path.to_owned(),
                    missing,
                });
            }
            let source = source(log.form_name());
            Ok(log.into_workload(name_of(path), source, damaged_examples))
        }
    }
}

fn ftrace(
    log: Log,
    path: &Path,
    source: Source,
    damaged_examples: Vec<String>,
) -> Result<Workload, TraceError> {
    let counts = &log.counts;
    if counts.framed == 0 {
        return Err(TraceError::NotFtrace(path.to_owned()));
    }
    let no_events = || TraceError::NoDmaEvents(path.to_owned());
    let rebuilt = rebuild::rebuild(&log);
    if rebuilt.requests.is_empty() {
        return Err(no_events());
    }
    let parse = ParseStats {
        lines: counts.lines,
        events: counts.events,
        unknown_lines: counts.unknown,
        damaged_lines: counts.damaged,
        damaged_examples,
        lost_events: counts.lost_events,
        truncated_lists: counts.truncated,
        unmatched_unmaps: rebuilt.unmatched_unmaps,
        left_mapped: rebuilt.left_mapped,
        devices: log.devices.0.clone(),
        cpus: counts.cpus.len() as u64,
    };
    Ok(rebuilt.into_workload(name_of(path), source, parse, log.devices.0))
}

/// The file's name without what says its format.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let mut name = &*name;
    for ending in [".gz", ".zst", ".txt"] {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    name.to_owned()
}
