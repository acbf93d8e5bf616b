//! Why the program stops.

use std::io;

#[cfg(target_os = "linux")]
use crate::qemu;
use crate::{
    breakdown::BreakdownError, cli::ModeArg, map::MapError, model::commands::ModelError,
    report::ReportError, run::RunError, sweep::SweepError, trace::TraceError,
    workload::generate::Refused,
};

/// Why the program stops. Displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// A trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The report cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A workload cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `--workload` leaves nothing.
    #[error("no workload's name contains {}; there are: {}", wanted.join(" or "), known.join(", "))]
    NoWorkload {
        /// What was asked for.
        wanted: Vec<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// An option that one of the workloads has no use for.
    #[error(transparent)]
    Option(#[from] Refused),
    /// An option that the command, or a shipped trace, has no use for.
    #[error(
        "{option} changes generated workloads, not {what}: choose some with --workload (`dmabench list` names them)"
    )]
    NotGenerated {
        /// The option.
        option: &'static str,
        /// What it was given for.
        what: &'static str,
    },
    /// A mode that several threads cannot play.
    #[error(
        "mode {0} is not run by several threads: leave out --threads and --pairs, or choose other modes with --modes"
    )]
    OneThreadOnly(ModeArg),
    /// A scenario found no memory for its domain.
    #[error("not enough memory for {scenario}; try --quick")]
    NoMemory {
        /// Which one.
        scenario: &'static str,
    },
    /// `map` cannot be done as asked for.
    #[error(transparent)]
    Map(#[from] MapError),
    /// `sweep` cannot be done as asked for.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// `breakdown` cannot be done as asked for.
    #[error(transparent)]
    Breakdown(#[from] BreakdownError),
    /// The replay in QEMU stopped.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Qemu(#[from] qemu::QemuRunError),
    /// QEMU can be used on Linux only.
    #[cfg(not(target_os = "linux"))]
    #[error("`qemu` needs Linux: memory is shared by memfd")]
    NoQemu,
    /// A profile or measured rows cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The result cannot be printed.
    #[error("cannot print the result: {0}; send it to a file on a disk with room")]
    Output(io::Error),
}
