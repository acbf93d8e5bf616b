//! Events, cache lines and the SMMU.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{COUNTED, Machine, Outcome, Placement, WARM_UP};
use crate::workload::generate::Random;

/// Picoseconds, so that jitter is not rounded away.
pub(super) type Time = u64;

pub(super) fn ps(ns: u64) -> Time {
    ns.saturating_mul(1000)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Cpu(usize),
    LineFree(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

#[derive(Debug, Clone, Default)]
struct Line {
    /// On its way to somebody.
    busy: bool,
    /// Who wrote or read it last.
    owner: usize,
    /// Who has it; one bit for each CPU.
    holders: u128,
    /// Whether the owner may write to it.
    exclusive: bool,
    waiting: Vec<(usize, Access)>,
    /// Spin on it.
    watchers: Vec<usize>,
}

/// What the CPUs do. They are called at the moments they asked for.
pub(super) trait Cpus {
    /// Lines they share.
    const LINES: usize;
    /// The next step of `cpu`.
    fn step(&mut self, sim: &mut Sim, cpu: usize);
}

#[derive(Debug, Default)]
struct Sums {
    finished: u64,
    since: Time,
    latency: f64,
    sync: f64,
    attempts: u64,
    shared: u64,
}

#[derive(Debug)]
pub(super) struct Sim {
    pub(super) machine: Machine,
    pub(super) now: Time,
    cpus: usize,
    sequence: u64,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    lines: Vec<Line>,
    random: Random,
    /// When the SMMU has done all commands it was told of.
    smmu_idle: Time,
    /// When the register can be read again.
    register_free: Time,
    sums: Sums,
}

impl Sim {
    pub(super) fn new(machine: Machine, cpus: usize) -> Self {
        Sim {
            machine,
            now: 0,
            cpus,
            sequence: 0,
            events: BinaryHeap::new(),
            lines: Vec::new(),
            random: Random::new(1),
            smmu_idle: 0,
            register_free: 0,
            sums: Sums::default(),
        }
    }

    pub(super) fn run<C: Cpus>(mut self, mut cpus: C) -> Outcome {
        self.lines = vec![Line::default(); C::LINES];
        let work = ps(self.machine.work_ns);
        for cpu in 0..self.cpus {
            self.at(work / self.cpus as u64 * cpu as u64, cpu);
        }
        while self.sums.finished < WARM_UP + COUNTED {
            let Some(Reverse((time, _, event))) = self.events.pop() else {
                unreachable!("every CPU has asked for its next step");
            };
            self.now = time;
            match event {
                Event::Cpu(cpu) => cpus.step(&mut self, cpu),
                Event::LineFree(line) => self.release(line),
            }
        }
        let sums = &self.sums;
        let counted = COUNTED as f64;
        let span_ns = self.now.saturating_sub(sums.since).max(1) as f64 / 1e3;
        Outcome {
            per_cpu_per_second: counted / span_ns * 1e9 / self.cpus as f64,
            latency_ns: sums.latency / counted / 1e3,
            sync_ns: sums.sync / counted / 1e3,
            attempts: sums.attempts as f64 / counted,
            shared: sums.shared as f64 / counted,
        }
    }

    fn push(&mut self, time: Time, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    /// Calls `cpu` at `time`, or now if that is over.
    pub(super) fn at(&mut self, time: Time, cpu: usize) {
        self.push(time.max(self.now), Event::Cpu(cpu));
    }

    /// Calls `cpu` after `ns`.
    pub(super) fn after(&mut self, ns: u64, cpu: usize) {
        self.at(self.now.saturating_add(ps(ns)), cpu);
    }

    fn node(&self, cpu: usize) -> usize {
        match self.machine.placement {
            Placement::Packed => cpu / self.machine.cpus_per_node.max(1),
            Placement::Spread(nodes) => cpu % nodes.max(1),
        }
    }

    /// Calls `cpu` when it has the line.
    pub(super) fn access(&mut self, cpu: usize, line: usize, access: Access) {
        let it = &mut self.lines[line];
        // A copy serves its CPU while others get theirs.
        if access == Access::Read && it.holders >> cpu & 1 == 1 {
            self.after(self.machine.hit_ns, cpu);
            return;
        }
        if it.busy {
            it.waiting.push((cpu, access));
            return;
        }
        let has = match access {
            Access::Read => it.holders >> cpu & 1 == 1,
            Access::Write => it.exclusive && it.owner == cpu,
        };
        if has {
            self.after(self.machine.hit_ns, cpu);
        } else {
            self.grant(cpu, line, access);
        }
    }

    fn grant(&mut self, cpu: usize, line: usize, access: Access) {
        let far = self.node(self.lines[line].owner) != self.node(cpu);
        let it = &mut self.lines[line];
        it.busy = true;
        it.owner = cpu;
        match access {
            Access::Read => it.holders |= 1 << cpu,
            Access::Write => it.holders = 1 << cpu,
        }
        it.exclusive = access == Access::Write;
        let ns = if far {
            self.machine.far_line_ns
        } else {
            self.machine.line_ns
        };
        self.after(ns, cpu);
        // After the CPU's own step, so that its next access comes first.
        self.push(self.now.saturating_add(ps(ns)), Event::LineFree(line));
    }

    fn release(&mut self, line: usize) {
        self.lines[line].busy = false;
        let waiting = self.lines[line].waiting.len() as u64;
        if waiting == 0 {
            return;
        }
        let next = self.random.below(waiting) as usize;
        let (cpu, access) = self.lines[line].waiting.swap_remove(next);
        self.grant(cpu, line, access);
    }

    /// Calls `cpu` when it has read the line after the next write to it.
    pub(super) fn watch(&mut self, cpu: usize, line: usize) {
        self.lines[line].watchers.push(cpu);
    }

    /// The line was written: whoever watches it reads it.
    pub(super) fn written(&mut self, line: usize) {
        for cpu in std::mem::take(&mut self.lines[line].watchers) {
            self.access(cpu, line, Access::Read);
        }
    }

    /// When the SMMU begins with commands that it is told of now.
    pub(super) fn smmu_begins(&self) -> Time {
        let fetched = self.now.saturating_add(ps(self.machine.fetch_ns));
        self.smmu_idle.max(fetched)
    }

    /// It works until `time`.
    pub(super) fn smmu_works_until(&mut self, time: Time) {
        self.smmu_idle = time;
    }

    /// Calls `cpu` when it has read the register.
    pub(super) fn read_register(&mut self, cpu: usize) {
        let begins = self.register_free.max(self.now);
        self.register_free = begins.saturating_add(ps(self.machine.register_busy_ns));
        self.at(
            begins.saturating_add(ps(self.machine.register_read_ns)),
            cpu,
        );
    }

    fn counts(&self) -> bool {
        self.sums.finished >= WARM_UP
    }

    pub(super) fn attempted(&mut self) {
        self.sums.attempts += u64::from(self.counts());
    }

    pub(super) fn shared(&mut self) {
        self.sums.shared += u64::from(self.counts());
    }

    /// `cpu` is done with an insertion that began at `begun` and waited since
    /// `waited`; it is called when it has done its other work.
    pub(super) fn finished(&mut self, cpu: usize, begun: Time, waited: Time) {
        if self.counts() {
            self.sums.latency += (self.now - begun) as f64;
            self.sums.sync += (self.now - waited) as f64;
        }
        self.sums.finished += 1;
        if self.sums.finished == WARM_UP {
            self.sums.since = self.now;
        }
        // A tenth more or less, so that the CPUs do not march in step.
        let percent = 90 + self.random.below(21);
        let work = ps(self.machine.work_ns) / 100;
        self.at(self.now.saturating_add(work.saturating_mul(percent)), cpu);
    }
}
