//! Two runs side by side: what got worse, what got better, and what cannot be compared.
//!
//! A figure counts as changed only where the two runs can tell: measured figures on the same kind
//! of processor and beyond the spread of their batches, counted ones under the same seed and
//! options, modelled ones by the same profile. What cannot be compared is said, not dropped.

mod rows;
mod text;

use serde::{Deserialize, Serialize};

use super::{Kind, Report};

pub use text::text;

/// Version of the structure of `comparison.json`.
pub const COMPARISON_VERSION: u32 = 1;

/// What one run is against another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`COMPARISON_VERSION`] of the program that made it.
    pub comparison_version: u32,
    /// The run that is the measure.
    pub base: RunId,
    /// The run that is judged by it.
    pub new: RunId,
    /// Kinds of figure that the two runs do not share, each with the reason.
    pub not_comparable: Vec<NotComparable>,
    /// Workloads and modes that only one of them has.
    pub only_in_one: Vec<OnlyInOne>,
    /// Figures that got worse or better, worst first.
    pub changes: Vec<Change>,
    /// How many figures were compared.
    pub compared: u64,
}

/// Which run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunId {
    /// The file, as the user named it.
    pub path: String,
    /// Version of dmabench that made it.
    pub version: String,
    /// When it began, seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
    /// Its command line.
    pub command_line: Vec<String>,
}

/// A kind of figure that cannot be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotComparable {
    /// Which kind.
    pub kind: Kind,
    /// Why, in a sentence.
    pub reason: String,
}

/// A workload and mode that one run lacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnlyInOne {
    /// The workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Whether the base has it; else the new run.
    pub in_base: bool,
}

/// A figure that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Name of the field in `report.json`.
    pub field: String,
    /// Its kind.
    pub kind: Kind,
    /// In the base.
    pub base: f64,
    /// In the new run.
    pub new: f64,
    /// Whether it got worse. Less is better for every figure that is compared.
    pub regression: bool,
}

impl Change {
    /// How much more the new run has, as a ratio; infinite where the base has nothing.
    pub fn over(&self) -> f64 {
        self.new / self.base - 1.0
    }
}

impl Comparison {
    /// The figures that got worse.
    pub fn regressions(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.regression)
    }
}

/// Compares `new` with `base`; the paths are for the reader.
pub fn compare(base: (&str, &Report), new: (&str, &Report)) -> Comparison {
    let not_comparable = not_comparable(base.1, new.1);
    let (changes, compared) = rows::changes(base.1, new.1, &not_comparable);
    Comparison {
        comparison_version: COMPARISON_VERSION,
        base: id(base),
        new: id(new),
        only_in_one: only_in_one(base.1, new.1),
        not_comparable,
        changes,
        compared,
    }
}

fn id((path, report): (&str, &Report)) -> RunId {
    RunId {
        path: path.to_owned(),
        version: report.version.clone(),
        started_unix_s: report.started_unix_s,
        command_line: report.command_line.clone(),
    }
}

fn not_comparable(base: &Report, new: &Report) -> Vec<NotComparable> {
    let mut reasons = Vec::new();
    let mut because = |kind, what: &str, one: &str, other: &str| {
        if one != other {
            reasons.push(NotComparable {
                kind,
                reason: format!("{what}: {one} in the base, {other} in the new run"),
            });
        }
    };
    let (one, other) = (&base.machine, &new.machine);
    because(
        Kind::Measured,
        "another processor",
        &one.cpu_model,
        &other.cpu_model,
    );
    because(
        Kind::Measured,
        "another number of processors",
        &one.cores.to_string(),
        &other.cores.to_string(),
    );
    let (one, other) = (&base.options, &new.options);
    because(
        Kind::Counted,
        "another seed",
        &base.seed.to_string(),
        &new.seed.to_string(),
    );
    because(
        Kind::Counted,
        "another granule",
        &one.granule_bytes.to_string(),
        &other.granule_bytes.to_string(),
    );
    because(
        Kind::Counted,
        "another flush queue",
        &format!(
            "{} entries, {} ns",
            one.flush_queue_entries, one.flush_timeout_ns
        ),
        &format!(
            "{} entries, {} ns",
            other.flush_queue_entries, other.flush_timeout_ns
        ),
    );
    because(
        Kind::Modelled,
        "another profile",
        &base.profile.name,
        &new.profile.name,
    );
    if base.profile.name == new.profile.name && base.profile != new.profile {
        reasons.push(NotComparable {
            kind: Kind::Modelled,
            reason: format!("the profile {} has other numbers", base.profile.name),
        });
    }
    // Modelled time follows from the counts.
    if let Some(counted) = reasons
        .iter()
        .find(|reason| reason.kind == Kind::Counted)
        .cloned()
    {
        reasons.push(NotComparable {
            kind: Kind::Modelled,
            ..counted
        });
    }
    reasons
}

fn only_in_one(base: &Report, new: &Report) -> Vec<OnlyInOne> {
    let missing = |from: &Report, other: &Report, in_base: bool| -> Vec<OnlyInOne> {
        (from.results.iter())
            .filter(|result| other.result(&result.workload, &result.mode).is_none())
            .map(|result| OnlyInOne {
                workload: result.workload.clone(),
                mode: result.mode.clone(),
                in_base,
            })
            .collect()
    };
    let mut all = missing(base, new, true);
    all.extend(missing(new, base, false));
    all
}

#[cfg(test)]
mod tests;
