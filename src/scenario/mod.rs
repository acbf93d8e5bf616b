//! Scenarios: histories that bring Linux's IOVA allocator to its knees, run on
//! ours. Times are **measured** (wall clock around each call, the clock's own
//! cost included and stated), nodes are **counted**.

mod ageing;
mod linear_search;
mod low32;

use std::{fmt, sync::Arc, time::Instant};

use comfy_table::Table;
use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain};
use dmabench_platform::{Fences, Iova, Slots};

/// Which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Peng Zhang's recipe of 2022: 300,000 live ranges, then free a random one
    /// and allocate one, over and over.
    LinearSearch,
    /// Churn in a 32-bit space that is nearly full.
    Low32,
    /// A day of lazy unmapping in virtual time: John Garry's cliff of 2020.
    Ageing,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Scenario; 3] = [Scenario::LinearSearch, Scenario::Low32, Scenario::Ageing];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::LinearSearch => "linear-search",
            Scenario::Low32 => "low32",
            Scenario::Ageing => "ageing",
        }
    }

    /// The scenario of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct ScenarioOptions {
    /// Seed of everything random.
    pub seed: u64,
    /// A hundredth of the work, for tests and a first look.
    pub quick: bool,
}

/// One line of the result.
#[derive(Clone, Debug, Default)]
pub struct ScenarioRow {
    /// What was done.
    pub case: String,
    /// Timed operations.
    pub operations: u64,
    /// Time of an operation in nanoseconds: mean, median, 99 %, 99.9 %, most.
    /// `None` where only counts were taken.
    pub ns: Option<[u64; 5]>,
    /// Nodes of the index one search looked at, on average and at most.
    pub nodes: (f64, u64),
    /// What else there is to say.
    pub note: String,
}

/// What a scenario found.
#[derive(Clone, Debug)]
pub struct ScenarioResult {
    /// Which one.
    pub scenario: Scenario,
    /// The figures published of Linux, and by whom.
    pub published: &'static str,
    /// The cost of reading the clock once, in nanoseconds: part of each time.
    pub clock_ns: u64,
    /// The lines.
    pub rows: Vec<ScenarioRow>,
}

impl fmt::Display for ScenarioResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.set_header([
            "case",
            "operations",
            "mean ns",
            "p50",
            "p99",
            "p99.9",
            "max",
            "nodes mean",
            "nodes max",
            "note",
        ]);
        for row in &self.rows {
            let times = match row.ns {
                Some(ns) => ns.map(|ns| ns.to_string()),
                None => core::array::from_fn(|_| "-".to_owned()),
            };
            let mut cells = vec![row.case.clone(), row.operations.to_string()];
            cells.extend(times);
            cells.push(format!("{:.1}", row.nodes.0));
            cells.push(row.nodes.1.to_string());
            cells.push(row.note.clone());
            table.add_row(cells);
        }
        writeln!(f, "scenario {}", self.scenario.name())?;
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "times measured, {} ns of each are the clock's; nodes counted",
            self.clock_ns
        )?;
        write!(f, "published: {}", self.published)
    }
}

/// Runs a scenario. `None` if there is no memory for it.
pub fn run(scenario: Scenario, options: ScenarioOptions) -> Option<ScenarioResult> {
    let (published, rows) = match scenario {
        Scenario::LinearSearch => (linear_search::PUBLISHED, linear_search::run(options)?),
        Scenario::Low32 => (low32::PUBLISHED, low32::run(options)?),
        Scenario::Ageing => (ageing::PUBLISHED, ageing::run(options)?),
    };
    Some(ScenarioResult {
        scenario,
        published,
        clock_ns: clock_ns(),
        rows,
    })
}

/// What reading the clock costs: the least of many.
fn clock_ns() -> u64 {
    let cost = |_| {
        let start = Instant::now();
        start.elapsed().as_nanos() as u64
    };
    (0..1000).map(cost).min().unwrap_or(0)
}

/// A domain of 4K pages with `slots` slots.
fn domain(
    slots: usize,
    last: u64,
    set: impl FnOnce(IovaConfig) -> IovaConfig,
) -> Option<IovaDomain> {
    let slots = Arc::new(Slots::new(slots, Fences::detect()).ok()?);
    let config = IovaConfig::new(dmabench_platform::Granule::K4, Iova(0x1000), Iova(last));
    IovaDomain::new(set(config), slots).ok()
}

/// Anywhere, naturally aligned: what the DMA API asks for.
const ANYWHERE: AllocRequest = AllocRequest::below(Iova(u64::MAX));

/// Times in nanoseconds, all of them kept.
#[derive(Default)]
struct Times(Vec<u64>);

impl Times {
    fn time<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = f();
        self.0.push(start.elapsed().as_nanos() as u64);
        result
    }

    /// Mean, median, 99 %, 99.9 %, most.
    fn figures(mut self) -> Option<[u64; 5]> {
        self.0.sort_unstable();
        let count = self.0.len();
        let most = *self.0.last()?;
        let at = |share: f64| self.0[((count as f64 * share) as usize).min(count - 1)];
        let mean = self.0.iter().sum::<u64>() / count as u64;
        Some([mean, at(0.5), at(0.99), at(0.999), most])
    }
}

/// Nodes per search of what happened between two states of the figures.
fn nodes(before: &dmabench_iova::IovaStats, after: &dmabench_iova::IovaStats) -> (f64, u64) {
    let searches = (after.searches - before.searches).max(1);
    let visited = after.nodes_visited - before.nodes_visited;
    (visited as f64 / searches as f64, after.nodes_visited_max)
}

/// Xorshift: the scenarios must be the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_scenarios() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::by_name(scenario.name()), Some(scenario));
        }
        assert_eq!(Scenario::by_name("linear"), None);
    }

    #[test]
    fn every_scenario_runs_and_visits_a_bounded_number_of_nodes() {
        for scenario in Scenario::ALL {
            let result = run(
                scenario,
                ScenarioOptions {
                    seed: 1,
                    quick: true,
                },
            )
            .unwrap();
            assert!(result.rows.len() >= 4, "{result}");
            if scenario != Scenario::Low32 {
                for row in &result.rows {
                    assert!(row.nodes.1 <= 12, "{result}");
                }
            }
            assert!(result.to_string().contains("published: "));
        }
    }

    #[test]
    fn figures_are_of_sorted_times() {
        let times = Times((1..=1000).rev().collect());
        assert_eq!(times.figures(), Some([500, 501, 991, 1000, 1000]));
        assert_eq!(Times::default().figures(), None);
    }
}
