//! Why a line, or a whole file, could not be read.

use std::{fmt, path::PathBuf};

/// Why a line of a known event could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A number has other characters in it, or none at all.
    NotANumber,
    /// A number is larger than 64 bits.
    NumberTooLarge,
    /// A list has no closing brace: the line was cut.
    ListNotClosed,
    /// A field of the event is missing: the line was cut, or it is of a kernel
    /// that prints the event in another way.
    Missing(&'static str),
    /// The lists of one event do not have the lengths it states.
    ListLengths,
    /// A size that is not the end minus the start, or is zero.
    SizeMismatch,
    /// An address plus its size leaves 64 bits, or a physical address needs
    /// more than 48 bits.
    AddressRange,
    /// More than [`Reason::MAX_REQUEST_BYTES`] in one mapping.
    TooLarge,
    /// A direction other than `TO_DEVICE`, `FROM_DEVICE` and `BIDIRECTIONAL`.
    Direction,
    /// An action that an iolog does not have: the line was cut.
    Action,
    /// More devices than the tool keeps apart.
    TooManyDevices,
    /// A line longer than any the kernel prints.
    LineTooLong,
    /// The compressed data ends early or is damaged; lines before this one are
    /// used.
    Compression,
}

impl Reason {
    /// The largest single mapping that is taken for real: 1 GiB. Hosts stop far
    /// below it (SDHCI at 512 KiB).
    pub const MAX_REQUEST_BYTES: u64 = 1 << 30;
    /// Devices that are kept apart in one trace.
    pub const MAX_DEVICES: usize = 64;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotANumber => f.write_str("a field that should be a number is not one"),
            Reason::NumberTooLarge => f.write_str("a number is larger than 64 bits"),
            Reason::ListNotClosed => f.write_str("a list is not closed (line cut?)"),
            Reason::Missing(field) => write!(f, "`{field}` is missing (line cut?)"),
            Reason::ListLengths => f.write_str("the lists do not have the lengths it states"),
            Reason::SizeMismatch => f.write_str("the size is zero or does not fit the addresses"),
            Reason::AddressRange => f.write_str("an address lies outside the address space"),
            Reason::TooLarge => f.write_str("one mapping of more than 1 GiB"),
            Reason::Direction => f.write_str("unknown direction"),
            Reason::Action => f.write_str("unknown action (line cut?)"),
            Reason::TooManyDevices => write!(f, "more than {} devices", Self::MAX_DEVICES),
            Reason::LineTooLong => f.write_str("the line is longer than any the kernel prints"),
            Reason::Compression => f.write_str("the compressed data ends early or is damaged"),
        }
    }
}

/// A line that could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Its number, from 1.
    pub line: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a file cannot be used at all. Displays as one line that says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be opened or read.
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A directory where a file is wanted.
    Directory(PathBuf),
    /// Nothing in it.
    Empty(PathBuf),
    /// The binary format of `trace-cmd record`.
    TraceDat(PathBuf),
    /// The binary format of `perf record`.
    PerfData(PathBuf),
    /// Compressed with something else than gzip or Zstandard.
    Compressed {
        /// The file.
        path: PathBuf,
        /// The command that unpacks it.
        unpack: &'static str,
    },
    /// Not text.
    Binary(PathBuf),
    /// Gzip data that gives nothing.
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        error: std::io::Error,
    },
    /// Zstandard data that gives nothing.
    Zstd {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        error: std::io::Error,
    },
    /// The binary format of blktrace.
    Blktrace(PathBuf),
    /// A fio iolog of a version that is not read.
    IologVersion(PathBuf),
    /// A block trace from which no mappings can be made.
    NoRequests {
        /// The file.
        path: PathBuf,
        /// What it does not have.
        missing: &'static str,
    },
    /// Text, but no line of it is of the ftrace form.
    NotFtrace(PathBuf),
    /// An ftrace text without events from which mappings could be taken.
    NoDmaEvents {
        /// The file.
        path: PathBuf,
        /// Lines of known form that are of other events.
        other_lines: u64,
    },
    /// A damaged line, where the caller asked for none (`--strict-parse`).
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first damaged line.
        damage: Damage,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Io { path, error } => {
                write!(f, "cannot read {}: {error}", path.display())
            }
            TraceError::Directory(path) => write!(
                f,
                "{} is a directory: name the trace files in it, e.g. {}/*.txt",
                path.display(),
                path.display()
            ),
            TraceError::Empty(path) => write!(
                f,
                "{} is empty: copy the trace with `cat /sys/kernel/tracing/trace > FILE` after the load has run",
                path.display()
            ),
            TraceError::TraceDat(path) => write!(
                f,
                "{0} is a binary trace.dat: turn it into text with `trace-cmd report -i {0} > trace.txt`",
                path.display()
            ),
            TraceError::PerfData(path) => write!(
                f,
                "{} is a binary perf.data: record with ftrace (trace-cmd) instead",
                path.display()
            ),
            TraceError::Compressed { path, unpack } => write!(
                f,
                "{0} is compressed in a way this tool does not read: unpack it with `{unpack} {0}`",
                path.display()
            ),
            TraceError::Binary(path) => write!(
                f,
                "{} is binary, not an ftrace text: give the text of /sys/kernel/tracing/trace or of `trace-cmd report`",
                path.display()
            ),
            TraceError::Gzip { path, error } => write!(
                f,
                "{} is not a whole gzip file ({error}): copy it again",
                path.display()
            ),
            TraceError::Zstd { path, error } => write!(
                f,
                "{} is not a whole zstd file ({error}): copy it again",
                path.display()
            ),
            TraceError::Blktrace(path) => write!(
                f,
                "{} is a binary blktrace: turn it into text with `blkparse -i NAME > trace.txt`, NAME without .blktrace.N",
                path.display()
            ),
            TraceError::IologVersion(path) => write!(
                f,
                "{} is a fio iolog of an unknown version: give one of version 2 or 3 (`fio --write_iolog`)",
                path.display()
            ),
            TraceError::NoRequests { path, missing } => write!(
                f,
                "{} has no {missing}: record with `blktrace -a issue -a complete -a requeue`, or write an iolog of a job that reads or writes",
                path.display()
            ),
            TraceError::NotFtrace(path) => write!(
                f,
                "{} has no line of the ftrace form, nor is it blkparse text or a fio iolog: give the text of /sys/kernel/tracing/trace or of `trace-cmd report`",
                path.display()
            ),
            TraceError::NoDmaEvents { path, other_lines } => write!(
                f,
                "{} has no DMA mapping events ({other_lines} lines of other kinds): record again with the events dma:* and iommu:* on (`trace-cmd record -e dma -e iommu -e block_rq_issue -e block_rq_complete`)",
                path.display()
            ),
            TraceError::Damaged { path, damage } => write!(
                f,
                "{}:{}: {} (leave out --strict-parse to skip such lines)",
                path.display(),
                damage.line,
                damage.reason
            ),
        }
    }
}

impl std::error::Error for TraceError {}
