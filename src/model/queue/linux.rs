//! Linux's insertion (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c; facts from its
//! source and comments, no code).
//!
//! Lines: the word of producer and consumer index with the flag "somebody gathers";
//! the word of the lock against wrapping twice together with the owner's turn,
//! which are neighbours in one structure; and the bitmap of valid entries, 512 of
//! which share a line.

use std::collections::HashMap;

use super::engine::{Access, Cpus, Sim, Time, ps};

const INDEX: usize = 0;
const LOCK: usize = 1;
const VALID: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begin,
    /// Has read the index (not with an addition).
    HaveIndex,
    Reserve,
    /// Has taken the lock as a reader.
    Locked,
    /// Has marked its entries as valid.
    Marked,
    /// Sees whose turn it is.
    Turn,
    /// Has ended the gathering.
    Closed,
    /// Sees which entries are valid.
    Gathered,
    Rung,
    /// Has passed the turn on.
    Passed,
    Synced,
    /// Has looked whether it is the last reader.
    Looked,
    Unlocked,
}

#[derive(Debug, Clone, Copy)]
struct Cpu {
    state: State,
    expected: (u64, bool),
    start: u64,
    end: u64,
    owner: bool,
    /// End of what the owner publishes.
    publish: u64,
    done: Option<Time>,
    begun: Time,
    waited: Time,
}

#[derive(Debug)]
pub(super) struct Linux {
    add: bool,
    /// Entries of an insertion, the sync included.
    entries: u64,
    cpus: Vec<Cpu>,
    index: u64,
    gathering: bool,
    turn: u64,
    /// Start of each valid insertion that is not published: its end and CPU.
    valid: HashMap<u64, (u64, usize)>,
}

impl Linux {
    pub(super) fn new(cpus: usize, commands: u64, add: bool) -> Self {
        let cpu = Cpu {
            state: State::Begin,
            expected: (0, false),
            start: 0,
            end: 0,
            owner: false,
            publish: 0,
            done: None,
            begun: 0,
            waited: 0,
        };
        Linux {
            add,
            entries: commands + 1,
            cpus: vec![cpu; cpus],
            index: 0,
            gathering: false,
            turn: 0,
            valid: HashMap::new(),
        }
    }

    fn reserve(&mut self, sim: &mut Sim, cpu: usize) {
        sim.attempted();
        let now = (self.index, self.gathering);
        let it = &mut self.cpus[cpu];
        if !self.add && it.expected != now {
            it.expected = now;
            sim.access(cpu, INDEX, Access::Write);
            return;
        }
        it.start = self.index;
        it.end = self.index + self.entries;
        // The first since the last gathering was ended.
        it.owner = !self.gathering;
        it.done = None;
        it.state = State::Locked;
        self.index = it.end;
        self.gathering = true;
        sim.access(cpu, LOCK, Access::Write);
    }

    /// The owner: whether all it gathered is valid.
    fn all_valid(&self, cpu: usize) -> bool {
        let it = &self.cpus[cpu];
        let mut at = it.start;
        while at < it.publish {
            match self.valid.get(&at) {
                Some(&(end, _)) => at = end,
                None => return false,
            }
        }
        true
    }

    fn ring(&mut self, sim: &mut Sim, cpu: usize) {
        let mut time = sim.smmu_begins();
        let mut at = self.cpus[cpu].start;
        while let Some((end, who)) = (at < self.cpus[cpu].publish)
            .then(|| self.valid.remove(&at))
            .flatten()
        {
            let work = ps(sim.machine.command_ns).saturating_mul(end - at);
            time = time.saturating_add(work);
            let done = time.saturating_add(ps(sim.machine.message_ns));
            self.cpus[who].done = Some(done);
            if self.cpus[who].state == State::Synced {
                sim.at(done, who);
            }
            at = end;
        }
        sim.smmu_works_until(time);
    }

    /// Waits for its own sync.
    fn wait(&mut self, sim: &mut Sim, cpu: usize) {
        let it = &mut self.cpus[cpu];
        it.waited = sim.now;
        it.state = State::Synced;
        if let Some(done) = it.done {
            sim.at(done, cpu);
        }
    }
}

impl Cpus for Linux {
    const LINES: usize = 3;

    fn step(&mut self, sim: &mut Sim, cpu: usize) {
        match self.cpus[cpu].state {
            State::Begin => {
                let it = &mut self.cpus[cpu];
                it.begun = sim.now;
                if self.add {
                    it.state = State::Reserve;
                    sim.access(cpu, INDEX, Access::Write);
                } else {
                    it.state = State::HaveIndex;
                    sim.access(cpu, INDEX, Access::Read);
                }
            }
            State::HaveIndex => {
                self.cpus[cpu].expected = (self.index, self.gathering);
                self.cpus[cpu].state = State::Reserve;
                sim.access(cpu, INDEX, Access::Write);
            }
            State::Reserve => self.reserve(sim, cpu),
            State::Locked => {
                sim.written(LOCK);
                self.cpus[cpu].state = State::Marked;
                sim.access(cpu, VALID, Access::Write);
            }
            State::Marked => {
                let it = self.cpus[cpu];
                self.valid.insert(it.start, (it.end, cpu));
                sim.written(VALID);
                if it.owner {
                    self.cpus[cpu].state = State::Turn;
                    sim.access(cpu, LOCK, Access::Read);
                } else {
                    self.wait(sim, cpu);
                }
            }
            State::Turn => {
                if self.turn == self.cpus[cpu].start {
                    self.cpus[cpu].state = State::Closed;
                    sim.access(cpu, INDEX, Access::Write);
                } else {
                    sim.watch(cpu, LOCK);
                }
            }
            State::Closed => {
                self.gathering = false;
                self.cpus[cpu].publish = self.index;
                self.cpus[cpu].state = State::Gathered;
                sim.access(cpu, VALID, Access::Read);
            }
            State::Gathered => {
                if self.all_valid(cpu) {
                    self.cpus[cpu].state = State::Rung;
                    sim.after(sim.machine.doorbell_ns, cpu);
                } else {
                    sim.watch(cpu, VALID);
                }
            }
            State::Rung => {
                self.ring(sim, cpu);
                self.cpus[cpu].state = State::Passed;
                sim.access(cpu, LOCK, Access::Write);
            }
            State::Passed => {
                self.turn = self.cpus[cpu].publish;
                sim.written(LOCK);
                self.wait(sim, cpu);
            }
            State::Synced => {
                self.cpus[cpu].state = State::Looked;
                sim.access(cpu, LOCK, Access::Read);
            }
            State::Looked => {
                self.cpus[cpu].state = State::Unlocked;
                sim.access(cpu, LOCK, Access::Write);
            }
            State::Unlocked => {
                sim.written(LOCK);
                let it = &mut self.cpus[cpu];
                it.state = State::Begin;
                sim.finished(cpu, it.begun, it.waited);
            }
        }
    }
}
