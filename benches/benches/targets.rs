//! Every speed target of the page tables and of the whole path, one line each,
//! in one run of about a minute:
//!
//! ```sh
//! cargo bench -p dmabench-benches --bench targets                         # SSE2
//! cargo bench -p dmabench-benches --bench targets --features pgtable-avx2
//! cargo bench -p dmabench-benches --bench targets --features pgtable-scalar
//! cargo bench -p dmabench-benches --bench targets -- 'strict 4K'          # some rows
//! perf stat -e cycles:u,instructions:u  target/release/deps/targets-* --rounds 1000000 'strict 4K'
//! ```
//!
//! A figure is the shortest of many batches of a few microseconds, so that other
//! work on the machine shows as little as it can. Between any two batches runs the
//! plain store loop that the targets were set beside (0.18 ns per entry):
//! *scaled* is what the figure would be where that loop takes 0.18. Each row also
//! has the stores it cannot do without, measured in turns with it.
#![allow(missing_docs)]

#[path = "whole_path_fixture/mod.rs"]
mod fixture;
#[path = "targets/page_tables.rs"]
mod page_tables;
mod pgtable_support;
#[path = "targets/whole_path.rs"]
mod whole_path;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use pgtable_support::{clear_loop, store_loop};

/// What the targets take the plain store loop to cost, in nanoseconds per entry.
const REFERENCE_NS: f64 = 0.18;
const ENTRIES: usize = 512;

/// Does so many rounds, and says how long the measured part took.
type Run = Box<dyn FnMut(u64) -> Duration>;

/// One line of a table.
struct Row {
    name: String,
    /// Nanoseconds, per unit; `None` where no target was set.
    target: Option<f64>,
    /// Units in one round.
    units: f64,
    /// Entries that one unit must store and clear.
    stores: usize,
    /// Rounds in one batch.
    batch: u64,
    /// Builds what the row needs: when its turn comes, so that it does not find
    /// the caches full of other rows' tables.
    make: Box<dyn FnOnce() -> Run>,
}

impl Row {
    fn new<R: FnMut(u64) + 'static>(
        name: impl Into<String>,
        stores: usize,
        make: impl FnOnce() -> R + 'static,
    ) -> Self {
        Self::timed_inside(name, stores, || {
            let mut run = make();
            move |rounds| timed(|| run(rounds))
        })
    }

    /// For rounds with a part that is not measured.
    fn timed_inside<R: FnMut(u64) -> Duration + 'static>(
        name: impl Into<String>,
        stores: usize,
        make: impl FnOnce() -> R + 'static,
    ) -> Self {
        Row {
            name: name.into(),
            target: None,
            units: 1.0,
            stores,
            batch: 1,
            make: Box::new(|| Box::new(make())),
        }
    }

    fn target(mut self, ns: f64) -> Self {
        self.target = Some(ns);
        self
    }

    fn units(mut self, units: f64) -> Self {
        self.units = units;
        self
    }

    fn batch(mut self, batch: u64) -> Self {
        self.batch = batch;
        self
    }
}

/// Two ways of doing the same, in nanoseconds.
struct Ratio {
    name: &'static str,
    target: f64,
    compare: Compare,
    run: fn() -> (f64, f64),
}

/// What the target is about.
enum Compare {
    /// The second by the first.
    Times,
    /// What the second has more than the first, for each of so many calls.
    Added { calls: f64 },
}

fn timed(f: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    f();
    begun.elapsed()
}

/// The plain store loop, nanoseconds per entry.
fn reference(entries: &mut [u64]) -> f64 {
    const ROUNDS: u32 = 16;
    let took = timed(|| {
        for _ in 0..ROUNDS {
            store_loop(black_box(entries), black_box(0xf47));
        }
    });
    took.as_nanos() as f64 / (f64::from(ROUNDS) * ENTRIES as f64)
}

fn measure(row: Row, budget: Duration) {
    let mut run = (row.make)();
    let mut entries = vec![0_u64; ENTRIES];
    let mut bound_entries = vec![0_u64; row.stores];
    let bound_rounds = 64 * (ENTRIES / row.stores.max(8)) as u64;
    let (mut ns, mut per_entry, mut bound) = (f64::MAX, f64::MAX, f64::MAX);
    let begun = Instant::now();
    run(row.batch);
    while begun.elapsed() < budget {
        let took = run(row.batch);
        ns = ns.min(took.as_nanos() as f64 / (row.batch as f64 * row.units));
        per_entry = per_entry.min(reference(&mut entries));
        let took = timed(|| {
            for _ in 0..bound_rounds {
                store_loop(black_box(&mut bound_entries), black_box(0xf47));
                clear_loop(black_box(&mut bound_entries));
            }
        });
        bound = bound.min(took.as_nanos() as f64 / bound_rounds as f64);
    }
    let scaled = ns * REFERENCE_NS / per_entry;
    let name = &row.name;
    print!("{name:<42} {ns:8.2}");
    match row.target {
        Some(target) => print!(" {target:7.1} {:5.2}", ns / target),
        None => print!(" {:7} {:5}", "", ""),
    }
    println!(
        " {bound:8.2} {:5.1} {per_entry:7.3} {scaled:8.2}",
        ns / bound
    );
}

fn main() {
    let mut rounds = None;
    let mut once = false;
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo passes.
            "--bench" => {}
            "--test" => once = true,
            "--rounds" => {
                rounds = arguments.next().and_then(|count| count.parse::<u64>().ok());
                assert!(rounds.is_some(), "--rounds takes a number");
            }
            other => filter = other.to_owned(),
        }
    }
    let wanted = |name: &str| name.contains(filter.as_str());
    let figures = !once && rounds.is_none();
    if figures {
        println!(
            "{:<42} {:>8} {:>7} {:>5} {:>8} {:>5} {:>7} {:>8}",
            "nanoseconds, minima", "ns", "target", "x", "bound", "x", "store", "scaled"
        );
    }
    let rows = page_tables::rows().into_iter().chain(whole_path::rows());
    for row in rows.filter(|row| wanted(&row.name)) {
        if figures {
            measure(row, Duration::from_millis(700));
        } else {
            (row.make)()(rounds.unwrap_or(1));
        }
    }
    let ratios = [
        page_tables::SECTIONS,
        page_tables::THREADS,
        whole_path::STRICT,
        whole_path::LAZY,
    ];
    for ratio in ratios.iter().filter(|ratio| wanted(ratio.name)) {
        if rounds.is_some() {
            continue;
        }
        let (one, two) = (ratio.run)();
        if figures {
            print!("{:<42} {one:8.2} -> {two:8.2}: ", ratio.name);
            match ratio.compare {
                Compare::Times => print!("{:.2} times", two / one),
                Compare::Added { calls } => print!("{:.2} ns a call", (two - one) / calls),
            }
            println!(", target {:.2}", ratio.target);
        }
    }
}
