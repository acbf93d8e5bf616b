//! Why a line, or a whole file, could not be read.

use std::path::PathBuf;

/// Why a line of a known event could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A number has other characters in it, or none at all.
    #[error("a field that should be a number is not one")]
    NotANumber,
    /// A number is larger than 64 bits.
    #[error("a number is larger than 64 bits")]
    NumberTooLarge,
    /// A list has no closing brace: the line was cut.
    #[error("a list is not closed (line cut?)")]
    ListNotClosed,
    /// A field of the event is missing: the line was cut, or it is of a kernel
    /// that prints the event in another way.
    #[error("`{0}` is missing (line cut?)")]
    Missing(&'static str),
    /// The lists of one event do not have the lengths it states.
    #[error("the lists do not have the lengths it states")]
    ListLengths,
    /// A size that is not the end minus the start, or is zero.
    #[error("the size is zero or does not fit the addresses")]
    SizeMismatch,
    /// An address plus its size leaves 64 bits, or a physical address needs
    /// more than 48 bits.
    #[error("an address lies outside the address space")]
    AddressRange,
    /// More than [`Reason::MAX_REQUEST_BYTES`] in one mapping.
    #[error("one mapping of more than 1 GiB")]
    TooLarge,
    /// A direction other than `TO_DEVICE`, `FROM_DEVICE` and `BIDIRECTIONAL`.
    #[error("unknown direction")]
    Direction,
    /// An action that an iolog does not have: the line was cut.
    #[error("unknown action (line cut?)")]
    Action,
    /// More devices than the tool keeps apart.
    #[error("more than {} devices", Self::MAX_DEVICES)]
    TooManyDevices,
    /// A line longer than any the kernel prints.
    #[error("the line is longer than any the kernel prints")]
    LineTooLong,
    /// The compressed data ends early or is damaged; lines before this one are
    /// used.
    #[error("the compressed data ends early or is damaged")]
    Compression,
}

impl Reason {
    /// The largest single mapping that is taken for real: 1 GiB. Hosts stop far
    /// below it (SDHCI at 512 KiB).
    pub const MAX_REQUEST_BYTES: u64 = 1 << 30;
    /// Devices that are kept apart in one trace.
    pub const MAX_DEVICES: usize = 64;
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
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A directory where a file is wanted.
    #[error("{0} is a directory: name the trace files in it, e.g. {0}/*.txt")]
    Directory(PathBuf),
    /// Nothing in it.
    #[error(
        "{0} is empty: copy the trace with `cat /sys/kernel/tracing/trace > FILE` after the load has run"
    )]
    Empty(PathBuf),
    /// The binary format of `trace-cmd record`.
    #[error(
        "{0} is a binary trace.dat: turn it into text with `trace-cmd report -i {0} > trace.txt`"
    )]
    TraceDat(PathBuf),
    /// The binary format of `perf record`.
    #[error("{0} is a binary perf.data: record with ftrace (trace-cmd) instead")]
    PerfData(PathBuf),
    /// Compressed with something else than gzip or Zstandard.
    #[error(
        "{path} is compressed in a way this tool does not read: unpack it with `{unpack} {path}`"
    )]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The command that unpacks it.
        unpack: &'static str,
    },
    /// Not text.
    #[error(
        "{0} is binary, not an ftrace text: give the text of /sys/kernel/tracing/trace or of `trace-cmd report`"
    )]
    Binary(PathBuf),
    /// Gzip data that gives nothing.
    #[error("{path} is not a whole gzip file ({error}): copy it again")]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        error: std::io::Error,
    },
    /// Zstandard data that gives nothing.
    #[error("{path} is not a whole zstd file ({error}): copy it again")]
    Zstd {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        error: std::io::Error,
    },
    /// The binary format of blktrace.
    #[error(
        "{0} is a binary blktrace: turn it into text with `blkparse -i NAME > trace.txt`, NAME without .blktrace.N"
    )]
    Blktrace(PathBuf),
    /// A fio iolog of a version that is not read.
    #[error(
        "{0} is a fio iolog of an unknown version: give one of version 2 or 3 (`fio --write_iolog`)"
    )]
    IologVersion(PathBuf),
    /// A block trace from which no mappings can be made.
    #[error(
        "{path} has no {missing}: record with `blktrace -a issue -a complete -a requeue`, or write an iolog of a job that reads or writes"
    )]
    NoRequests {
        /// The file.
        path: PathBuf,
        /// What it does not have.
        missing: &'static str,
    },
    /// Text, but no line of it is of the ftrace form.
    #[error(
        "{0} has no line of the ftrace form, nor is it blkparse text or a fio iolog: give the text of /sys/kernel/tracing/trace or of `trace-cmd report`"
    )]
    NotFtrace(PathBuf),
    /// An ftrace text without events from which mappings could be taken.
    #[error(
        "{0} has no events of DMA mappings (dma:dma_map_*, iommu:map): record again with `trace-cmd record -e iommu:map -e iommu:unmap -e dma -e block:block_rq_issue -e block:block_rq_complete`, or as the README says"
    )]
    NoDmaEvents(PathBuf),
    /// A damaged line, where the caller asked for none (`--strict-parse`).
    #[error("{path}:{}: {} (leave out --strict-parse to skip such lines)", damage.line, damage.reason)]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first damaged line.
        damage: Damage,
    },
}
