//! `dmabench qemu`: the workloads with a card that does the I/O, through an
//! SMMUv3 that nobody here wrote.
//!
//! QEMU emulates an SD host controller behind its SMMUv3; our driver, tables,
//! domains and flush queues run it as they would run hardware. For each request
//! the buffer is laid out in the emulated machine's memory as the trace has it,
//! mapped, moved by the controller (ADMA2, descriptors and data through the
//! SMMU), compared byte for byte with the card's image, and unmapped as the mode
//! does it. When the buffer is given back, the controller is told to use its old
//! address once more. Commands and faults are counted by us and by QEMU's own
//! trace; they must be the same.
//!
//! What it shows and what it does not: `docs/qemu.md`.

mod buffer;
mod ground;
mod lane;
mod replay;
mod result;
mod rig;
mod tee;

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use dmabench_smmu::{
    driver::SetupError,
    qemu::{QemuConfig, QemuError},
};
use rayon::prelude::*;

pub use result::{QEMU_VERSION, QemuCounts, QemuReport, QemuResult};
pub use tee::Tee;

use crate::{
    cli::ModeArg,
    report::Source,
    run::{Plan, domain_config},
    workload::Workload,
};
use rig::Rig;

/// How to run.
#[derive(Debug, Clone)]
pub struct QemuPlan {
    /// Modes, flush queue, and the service times of the virtual clock.
    pub run: Plan,
    /// Bytes that are replayed of each generated workload in each mode; traces
    /// are replayed whole.
    pub limit_bytes: u64,
    /// The emulator. Its cards are chosen by the run.
    pub machine: QemuConfig,
}

/// Why the replay stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QemuRunError {
    /// There is no QEMU, or it is gone.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The driver cannot use the emulated SMMU.
    #[error("QEMU's SMMU cannot be used: {0}")]
    Setup(SetupError),
    /// The emulated machine has too little RAM.
    #[error("{0}")]
    Memory(String),
    /// Something was refused that a workload needs.
    #[error("{workload} cannot be replayed in mode {mode}: {reason}; leave it out with --workload")]
    Refused {
        /// The workload.
        workload: String,
        /// The mode.
        mode: ModeArg,
        /// What the core or the emulated machine said.
        reason: String,
    },
    /// Data, counts or what the device could reach are not as they must be.
    #[error(
        "defect of dmabench: {workload}, {mode}: {what}; please report it with the version of QEMU"
    )]
    Defect {
        /// The workload.
        workload: String,
        /// The mode.
        mode: ModeArg,
        /// What was found.
        what: String,
    },
}

/// What stops a replay; which one is added by [`run`].
#[derive(Debug)]
enum Stop {
    Qemu(QemuError),
    Refused(String),
    Defect(String),
}

impl Stop {
    fn refused(error: impl fmt::Display) -> Self {
        Stop::Refused(error.to_string())
    }

    fn of(self, workload: &Workload, mode: ModeArg) -> QemuRunError {
        let workload = workload.name.clone();
        match self {
            Stop::Qemu(error) => QemuRunError::Qemu(error),
            Stop::Refused(reason) => QemuRunError::Refused {
                workload,
                mode,
                reason,
            },
            Stop::Defect(what) => QemuRunError::Defect {
                workload,
                mode,
                what,
            },
        }
    }
}

impl From<QemuError> for Stop {
    fn from(error: QemuError) -> Self {
        Stop::Qemu(error)
    }
}

/// What a test does wrong on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Invalidations name another address.
    Astray,
    /// They are counted and not sent.
    Miscount,
    /// A byte changes on its way.
    Corrupt,
}

#[cfg(test)]
std::thread_local! {
    static FLAW: std::cell::Cell<Option<Flaw>> = const { std::cell::Cell::new(None) };
}

/// Always false outside of tests.
fn has(flaw: Flaw) -> bool {
    #[cfg(test)]
    return FLAW.get() == Some(flaw);
    #[cfg(not(test))]
    {
        let _ = flaw;
        false
    }
}

/// Replays every workload in every mode. `done` is called after each of them.
///
/// Each workload has an emulator of its own; as many run beside each other as
/// the machine has processors, for an emulator and its driver wait for one
/// another.
///
/// # Errors
///
/// [`QemuRunError`] of the first replay that could not be finished or found
/// something wrong.
pub fn run(
    workloads: &[Workload],
    plan: &QemuPlan,
    done: &(dyn Fn() + Sync),
    interrupted: &AtomicBool,
) -> Result<QemuReport, QemuRunError> {
    let begun = Instant::now();
    let stop = || interrupted.load(Ordering::Relaxed);
    let parts: Vec<(Vec<QemuResult>, String)> = (workloads.par_iter())
        .map(|workload| {
            if stop() {
                return Ok(Default::default());
            }
            let mut rig = Rig::start(plan, workload.devices.len())?;
            let mut results = Vec::new();
            for &mode in &plan.run.modes {
                if stop() {
                    break;
                }
                let limit = match workload.source {
                    Source::Generated { .. } => plan.limit_bytes,
                    Source::Trace { .. } => u64::MAX,
                };
                let config = domain_config(mode, &plan.run);
                let found = replay::run(&mut rig, workload, mode, config, &plan.run, limit);
                results.push(found.map_err(|stop| stop.of(workload, mode))?);
                done();
            }
            Ok((results, rig.version().to_string()))
        })
        .collect::<Result<_, QemuRunError>>()?;
    let version = parts.iter().map(|(_, version)| version.clone()).max();
    let results: Vec<QemuResult> = parts.into_iter().flat_map(|(results, _)| results).collect();
    Ok(QemuReport {
        schema_version: QEMU_VERSION,
        qemu: version.unwrap_or_default(),
        modes: plan.run.modes.iter().map(|m| m.name().to_owned()).collect(),
        limit_bytes: plan.limit_bytes,
        run_seconds: begun.elapsed().as_secs_f64(),
        interrupted: stop(),
        results,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generate::{DdSeq, Generator};
    use dmabench_dma::Mode;
    use dmabench_flushq::QueueConfig;
    use std::io::Write;

    fn plan() -> QemuPlan {
        QemuPlan {
            run: Plan::default(),
            limit_bytes: 1 << 20,
            machine: QemuConfig::default(),
        }
    }

    fn small() -> Workload {
        DdSeq {
            pages: 4,
            requests: 80,
            depth: 2,
        }
        .generate(3)
    }

    /// One replay of `limit_bytes`; nothing where there is no QEMU, unless this is
    /// CI. With `strange`, a mode of the domain that the command line need not
    /// have.
    fn replayed(
        test: &str,
        mode: ModeArg,
        strange: Option<Mode>,
        flaw: Option<Flaw>,
        limit_bytes: u64,
    ) -> Option<Result<QemuResult, Stop>> {
        let workload = small();
        let mut rig = match Rig::start(&plan(), workload.devices.len()) {
            Ok(rig) => rig,
            Err(error @ QemuRunError::Qemu(QemuError::NotFound { .. })) => {
                assert!(std::env::var_os("CI").is_none(), "{test}: {error}");
                let _shown = writeln!(std::io::stderr(), "skipped: {test} ({error})");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let mut config = domain_config(mode, &plan().run);
        config.mode = strange.unwrap_or(config.mode);
        FLAW.set(flaw);
        let run = plan().run;
        let found = replay::run(&mut rig, &workload, mode, config, &run, limit_bytes);
        FLAW.set(None);
        Some(found)
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn counts_of_a_small_replay_are_known() {
        let name = "counts_of_a_small_replay_are_known";
        let run = |mode| replayed(name, mode, None, None, MIB).map(Result::unwrap);
        let Some(strict) = run(ModeArg::Strict) else {
            return;
        };
        let counts = QemuCounts {
            invalidations: 64,
            syncs: 64,
            events: 64,
        };
        assert_eq!((strict.ours, strict.qemu), (counts, counts));
        assert_eq!((strict.requests, strict.requests_all), (64, 80));
        assert_eq!((strict.probes, strict.stale_accesses), (Some(64), Some(0)));
        assert_eq!(strict.bytes_verified, MIB);
        let lazy = run(ModeArg::Lazy).unwrap();
        assert!(
            lazy.ours.syncs < 8 && lazy.stale_accesses > Some(50),
            "{lazy:?}"
        );
        let none = QemuCounts::default();
        let pass = run(ModeArg::Passthrough).unwrap();
        assert_eq!((pass.ours, pass.stale_accesses), (none, None));
        let bounce = run(ModeArg::Bounce).unwrap();
        assert_eq!((bounce.ours, bounce.stale_accesses), (none, Some(0)));
        assert_eq!(bounce.bytes_verified, MIB);
        let premapped = run(ModeArg::Premapped).unwrap();
        assert_eq!((premapped.ours, premapped.stale_accesses), (none, None));
        assert_eq!(premapped.bytes_verified, MIB);
    }

    #[test]
    fn every_mode_of_a_domain_gives_its_buffers_back_as_it_promises() {
        let name = "every_mode_of_a_domain_gives_its_buffers_back_as_it_promises";
        let queue = QueueConfig {
            entries_per_slot: 16,
            timeout_ns: 1_000_000_000,
        };
        for (mode, syncs, exposes) in [
            (Mode::StrictBatched, 64, false),
            (Mode::StrictPipelined, 64, false),
            (Mode::LazySingle(queue), 3, true),
            (Mode::LazyParked(queue), 3, false),
        ] {
            let Some(found) = replayed(name, ModeArg::Strict, Some(mode), None, MIB) else {
                return;
            };
            let found = found.unwrap();
            assert_eq!(found.bytes_verified, MIB, "{mode:?}");
            let about = syncs / 2..=syncs + 1;
            assert!(about.contains(&found.ours.syncs), "{mode:?}: {found:?}");
            assert_eq!(
                found.stale_accesses > Some(0),
                exposes,
                "{mode:?}: {found:?}"
            );
            assert!(found.probes > Some(40), "{mode:?}: {found:?}");
        }
    }

    #[test]
    fn each_check_of_a_replay_sees_what_it_is_for() {
        for (flaw, limit_bytes, word) in [
            // Of one request: nobody has its address after it.
            (Flaw::Astray, 1, "reachable after they had been given back"),
            (Flaw::Miscount, 1, "we counted"),
            (Flaw::Corrupt, 1, "data read from the card differ"),
        ] {
            let name = "each_check_of_a_replay_sees_what_it_is_for";
            match replayed(name, ModeArg::Strict, None, Some(flaw), limit_bytes) {
                None => return,
                Some(Err(Stop::Defect(what))) => assert!(what.contains(word), "{what}"),
                Some(other) => panic!("{flaw:?}: {other:?}"),
            }
        }
    }
}
