//! Why the program stops.

use std::{fmt, io};

#[cfg(target_os = "linux")]
use crate::qemu;
use crate::{
    breakdown::BreakdownError, cli::ModeArg, map::MapError, model::commands::ModelError,
    report::ReportError, run::RunError, sweep::SweepError, trace::TraceError,
    workload::generate::Refused,
};

/// Why the program stops. Displays as one line that says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppError {
    /// A trace cannot be used.
    Trace(TraceError),
    /// The report cannot be written.
    Report(ReportError),
    /// A workload cannot be run.
    Run(RunError),
    /// `--workload` leaves nothing.
    NoWorkload {
        /// What was asked for.
        wanted: Vec<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// An option that one of the workloads has no use for.
    Option(Refused),
    /// An option that the command, or a shipped trace, has no use for.
    NotGenerated {
        /// The option.
        option: &'static str,
        /// What it was given for.
        what: &'static str,
    },
    /// A mode that several threads cannot play.
    OneThreadOnly(ModeArg),
    /// A scenario found no memory for its domain.
    NoMemory {
        /// Which one.
        scenario: &'static str,
    },
    /// `map` cannot be done as asked for.
    Map(MapError),
    /// `sweep` cannot be done as asked for.
    Sweep(SweepError),
    /// `breakdown` cannot be done as asked for.
    Breakdown(BreakdownError),
    /// The replay in QEMU stopped.
    #[cfg(target_os = "linux")]
    Qemu(qemu::QemuRunError),
    /// QEMU can be used on Linux only.
    #[cfg(not(target_os = "linux"))]
    NoQemu,
    /// A profile or measured rows cannot be used.
    Model(ModelError),
    /// The result cannot be printed.
    Output(io::Error),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::Trace(error) => error.fmt(f),
            AppError::Report(error) => error.fmt(f),
            AppError::Run(error) => error.fmt(f),
            AppError::Map(error) => error.fmt(f),
            AppError::Sweep(error) => error.fmt(f),
            AppError::Breakdown(error) => error.fmt(f),
            #[cfg(target_os = "linux")]
            AppError::Qemu(error) => error.fmt(f),
            #[cfg(not(target_os = "linux"))]
            AppError::NoQemu => f.write_str("`qemu` needs Linux: memory is shared by memfd"),
            AppError::Model(error) => error.fmt(f),
            AppError::NoWorkload { wanted, known } => write!(
                f,
                "no workload's name contains {}; there are: {}",
                wanted.join(" or "),
                known.join(", ")
            ),
            AppError::Option(refused) => refused.fmt(f),
            AppError::NotGenerated { option, what } => write!(
                f,
                "{option} changes generated workloads, not {what}: choose some with --workload (`dmabench list` names them)"
            ),
            AppError::OneThreadOnly(mode) => write!(
                f,
                "mode {mode} is not run by several threads: leave out --threads and --pairs, or choose other modes with --modes"
            ),
            AppError::NoMemory { scenario } => {
                write!(f, "not enough memory for {scenario}; try --quick")
            }
            AppError::Output(error) => write!(
                f,
                "cannot print the result: {error}; the report is in the output folder"
            ),
        }
    }
}

impl std::error::Error for AppError {}

impl From<TraceError> for AppError {
    fn from(error: TraceError) -> Self {
        AppError::Trace(error)
    }
}

impl From<ReportError> for AppError {
    fn from(error: ReportError) -> Self {
        AppError::Report(error)
    }
}

impl From<MapError> for AppError {
    fn from(error: MapError) -> Self {
        AppError::Map(error)
    }
}

impl From<ModelError> for AppError {
    fn from(error: ModelError) -> Self {
        AppError::Model(error)
    }
}

impl From<BreakdownError> for AppError {
    fn from(error: BreakdownError) -> Self {
        AppError::Breakdown(error)
    }
}

impl From<SweepError> for AppError {
    fn from(error: SweepError) -> Self {
        AppError::Sweep(error)
    }
}

impl From<RunError> for AppError {
    fn from(error: RunError) -> Self {
        AppError::Run(error)
    }
}
