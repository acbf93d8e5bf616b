//! The modes by name.

use std::{fmt, sync::LazyLock};

use clap::{ValueEnum, builder::PossibleValue};

/// A mode, as the command line spells it. In the order of reports, which is also
/// what is run where nothing else is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum ModeArg {
    /// No translation: the device uses physical addresses
    Passthrough,
    /// Every unmap invalidates and waits before the buffer goes back
    Strict,
    /// Strict, with one invalidation and one wait for all unmaps of a completion
    StrictBatched,
    /// Strict, with the wait for one request beside the transfer of the next
    StrictPipelined,
    /// The buffer goes back at once, invalidations are collected
    Lazy,
    /// Lazy with one large queue for all processors
    LazySingle,
    /// Invalidations are collected, and the buffer goes back after its own
    LazyParked,
    /// The device works on copies, in memory of its own that stays mapped
    Bounce,
    /// All memory of the workload is registered once and stays mapped
    Premapped,
}

impl ModeArg {
    /// Whether the I/O pages of a buffer cannot be reached when it is given back.
    /// (Those of a bounce pool can, always; they are never the buffer.)
    pub fn takes_away(self) -> bool {
        use ModeArg::*;
        matches!(self, Strict | StrictBatched | StrictPipelined | LazyParked)
    }

    /// Whether a request of this mode is not mapped and unmapped by itself, so
    /// that several threads cannot play it on one address space.
    pub fn one_thread_only(self) -> bool {
        use ModeArg::*;
        matches!(self, StrictBatched | StrictPipelined | Bounce | Premapped)
    }

    /// Whether unmaps wait in a flush queue.
    pub fn has_queue(self) -> bool {
        matches!(self, Self::Lazy | Self::LazySingle | Self::LazyParked)
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            ModeArg::Passthrough => "passthrough",
            ModeArg::Strict => "strict",
            ModeArg::StrictBatched => "strict-batched",
            ModeArg::StrictPipelined => "strict-pipelined",
            ModeArg::Lazy => "lazy",
            ModeArg::LazySingle => "lazy-single",
            ModeArg::LazyParked => "lazy-parked",
            ModeArg::Bounce => "bounce",
            ModeArg::Premapped => "premapped",
        }
    }
}

impl fmt::Display for ModeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `--modes` takes: a mode, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChoice {
    /// One.
    One(ModeArg),
    /// Every mode there is.
    All,
}

impl ValueEnum for ModeChoice {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<ModeChoice>> = LazyLock::new(|| {
            let each = ModeArg::value_variants().iter().copied();
            each.map(ModeChoice::One).chain([ModeChoice::All]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            ModeChoice::One(mode) => mode.to_possible_value(),
            ModeChoice::All => Some(PossibleValue::new("all").help("Every mode")),
        }
    }
}
