//! A day of lazy unmapping: ranges are freed in turns of a flush queue, on
//! another CPU than they were allocated on, while the clock brings the trims.

use std::{collections::VecDeque, time::Instant};

use dmabench_iova::{IovaDomain, IovaRange};
use dmabench_platform::{SlotGuard, TimeNs};

use super::{ANYWHERE, Random, ScenarioOptions, ScenarioRow, domain};

pub(super) const PUBLISHED: &str = "John Garry, 2020-12: 1.6 to 1.7 M IOPS, and after about 16 h \
     a cliff to 330 to 450 K, since the depot only ever grew";

const SLOTS: usize = 4;
const HOUR_NS: u64 = 3_600_000_000_000;
/// Virtual time between bursts.
const STEP_NS: u64 = 10_000_000_000;
/// Ranges a flush queue holds back (Linux: 256 entries, 255 in use).
const QUEUE: usize = 255;
/// Requests of one burst.
const BURST: usize = 1000;

struct Day {
    domain: IovaDomain,
    random: Random,
    queues: [VecDeque<IovaRange>; SLOTS],
    now: u64,
}

fn enter(domain: &IovaDomain, slot: usize) -> Option<SlotGuard<'_>> {
    // SAFETY: one thread plays all CPUs, one after the other.
    unsafe { domain.slots().enter(Some(slot)) }.ok()
}

impl Day {
    /// Maps and unmaps on one CPU; full queues are flushed, now and then by
    /// another CPU (the timer's), which gets the addresses.
    fn burst(&mut self) -> Option<()> {
        let cpu = self.random.below(SLOTS as u64) as usize;
        for _ in 0..BURST {
            let size = match self.random.below(20) {
                0..12 => 1,
                12..16 => 32,
                16..19 => 4,
                _ => 128,
            };
            let range = {
                let mut slot = enter(&self.domain, cpu)?;
                self.domain.alloc(&mut slot, size, &ANYWHERE).ok()?
            };
            self.queues[cpu].push_back(range);
            if self.queues[cpu].len() >= QUEUE {
                let by = match self.random.below(4) {
                    0 => self.random.below(SLOTS as u64) as usize,
                    _ => cpu,
                };
                let mut slot = enter(&self.domain, by)?;
                while let Some(range) = self.queues[cpu].pop_front() {
                    self.domain.free(&mut slot, range).ok()?;
                }
            }
        }
        Some(())
    }

    /// Lets virtual time pass, stopping at the domain's deadlines.
    fn pass(&mut self, span_ns: u64, trim: bool) {
        let until = self.now + span_ns;
        while let Some(due) = self
            .domain
            .next_deadline()
            .filter(|due| trim && due.0 <= until)
        {
            self.now = self.now.max(due.0);
            self.domain.trim(TimeNs(self.now));
        }
        self.now = until;
    }
}

pub(super) fn run(options: ScenarioOptions) -> Option<Vec<ScenarioRow>> {
    let mut rows = Vec::new();
    for trim in [true, false] {
        let mut day = Day {
            domain: domain(SLOTS, (1 << 48) - 1, |config| config)?,
            random: Random::new(options.seed),
            queues: Default::default(),
            now: 0,
        };
        let step = STEP_NS * if options.quick { 100 } else { 1 };
        for hour in [1, 8, 16, 24] {
            rows.push(until_hour(&mut day, hour, step, trim)?);
        }
        if trim {
            day.pass(HOUR_NS, true);
            let stats = day.domain.stats();
            rows.push(ScenarioRow {
                case: "after an hour of rest, clock served".to_owned(),
                nodes: (0.0, stats.nodes_visited_max),
                note: figures(&day.domain),
                ..ScenarioRow::default()
            });
        }
    }
    Some(rows)
}

fn figures(domain: &IovaDomain) -> String {
    let stats = domain.stats();
    format!(
        "{} KiB cached, {} magazines in depots, {} KiB of memory",
        stats.cached_bytes >> 10,
        stats.depot_magazines,
        stats.memory_bytes >> 10
    )
}

fn until_hour(day: &mut Day, hour: u64, step: u64, trim: bool) -> Option<ScenarioRow> {
    let mut bursts: Vec<u64> = Vec::new();
    let before = day.domain.stats();
    while day.now < hour * HOUR_NS {
        let start = Instant::now();
        day.burst()?;
        bursts.push(start.elapsed().as_nanos() as u64 / BURST as u64);
        day.pass(step, trim);
    }
    let after = day.domain.stats();
    let operations = (bursts.len() * BURST) as u64;
    let served = if trim {
        "clock served"
    } else {
        "clock never served"
    };
    Some(ScenarioRow {
        case: format!("up to hour {hour}, {served}; per pair, by bursts of {BURST}"),
        operations,
        ns: super::Times(bursts).figures(),
        nodes: super::nodes(&before, &after),
        note: figures(&day.domain),
    })
}
