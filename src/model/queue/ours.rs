//! This project's insertion (smmu/src/queue): the protocol in the words of its
//! module.
//!
//! Lines: the word of reservations, the published position, and the ends of
//! batches, 8 of which share a line. The position of the consumer is a register.

use std::collections::HashMap;

use super::engine::{Access, Cpus, Sim, Time, ps};

const RESERVED: usize = 0;
const PUBLISHED: usize = 1;
const ENDS: usize = 2;
/// Lines of a queue of 256 entries.
const END_LINES: usize = 32;

fn end_line(position: u64) -> usize {
    ENDS + (position / 8) as usize % END_LINES
}

/// Longest pause between two reads of the register.
const PAUSE_STEPS_MAX: u32 = 6;
const PAUSE_NS: u64 = 20;
/// Picoseconds before the end of a wait from which on every read is simulated.
const LONG: Time = 100_000_000;

/// The word of reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    position: u64,
    pending: u64,
    synced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begin,
    HavePlace,
    Reserve,
    /// The commands are ready.
    Ready,
    /// Sees whether a sync lies behind them.
    Look,
    ReserveSync,
    /// The sync is ready.
    SyncReady,
    Turn,
    /// Looks for batches that are ready.
    Scan,
    Rung,
    Published,
    Poll,
    HaveConsumer,
}

#[derive(Debug, Clone, Copy)]
struct Cpu {
    state: State,
    expected: Place,
    start: u64,
    end: u64,
    turn: u64,
    scanned: u64,
    polls: u32,
    begun: Time,
    waited: Time,
}

#[derive(Debug)]
pub(super) struct Ours {
    add: bool,
    commands: u64,
    cpus: Vec<Cpu>,
    place: Place,
    published: u64,
    /// Start of each batch that is ready and not published: its end.
    ready: HashMap<u64, u64>,
    /// When the consumer passes the end of a batch.
    passes: HashMap<u64, Time>,
}

impl Ours {
    pub(super) fn new(cpus: usize, commands: u64, add: bool) -> Self {
        let place = Place {
            position: 0,
            pending: 0,
            synced: true,
        };
        let cpu = Cpu {
            state: State::Begin,
            expected: place,
            start: 0,
            end: 0,
            turn: 0,
            scanned: 0,
            polls: 0,
            begun: 0,
            waited: 0,
        };
        Ours {
            add,
            commands,
            cpus: vec![cpu; cpus],
            place,
            published: 0,
            ready: HashMap::new(),
            passes: HashMap::new(),
        }
    }

    /// Whether an exchange or addition takes effect; else it is tried again.
    fn exchanged(&mut self, sim: &mut Sim, cpu: usize) -> bool {
        sim.attempted();
        let it = &mut self.cpus[cpu];
        if self.add || it.expected == self.place {
            return true;
        }
        it.expected = self.place;
        sim.access(cpu, RESERVED, Access::Write);
        false
    }

    /// The batch from `start` to `end` is ready.
    fn make_ready(&mut self, sim: &mut Sim, cpu: usize) {
        let Cpu { start, end, .. } = self.cpus[cpu];
        self.ready.insert(start, end);
        sim.written(end_line(start));
    }

    fn wait(&mut self, sim: &mut Sim, cpu: usize) {
        let it = &mut self.cpus[cpu];
        it.waited = sim.now;
        it.polls = 0;
        it.state = State::Poll;
        sim.after(0, cpu);
    }

    /// Goes over the batches in the line that it has.
    fn scan(&mut self, sim: &mut Sim, cpu: usize) {
        let Cpu { end, scanned, .. } = self.cpus[cpu];
        let line = end_line(scanned);
        let mut at = scanned;
        while end_line(at) == line {
            match self.ready.get(&at) {
                Some(&end) => at = end,
                None => break,
            }
        }
        self.cpus[cpu].scanned = at;
        if at >= end {
            self.cpus[cpu].state = State::Rung;
            sim.after(sim.machine.doorbell_ns, cpu);
        } else if end_line(at) == line {
            sim.watch(cpu, line);
        } else {
            sim.access(cpu, end_line(at), Access::Read);
        }
    }

    fn ring(&mut self, sim: &mut Sim, cpu: usize) {
        let end = self.cpus[cpu].scanned;
        let mut time = sim.smmu_begins();
        let mut at = self.published;
        while let Some(batch_end) = (at < end).then(|| self.ready.remove(&at)).flatten() {
            let work = ps(sim.machine.command_ns).saturating_mul(batch_end - at);
            time = time.saturating_add(work);
            self.passes.insert(batch_end, time);
            at = batch_end;
        }
        sim.smmu_works_until(time);
    }
}

impl Cpus for Ours {
    const LINES: usize = ENDS + END_LINES;

    fn step(&mut self, sim: &mut Sim, cpu: usize) {
        match self.cpus[cpu].state {
            State::Begin => {
                self.cpus[cpu].begun = sim.now;
                if self.add {
                    self.cpus[cpu].state = State::Reserve;
                    sim.access(cpu, RESERVED, Access::Write);
                } else {
                    self.cpus[cpu].state = State::HavePlace;
                    sim.access(cpu, RESERVED, Access::Read);
                }
            }
            State::HavePlace => {
                self.cpus[cpu].expected = self.place;
                self.cpus[cpu].state = State::Reserve;
                sim.access(cpu, RESERVED, Access::Write);
            }
            State::Reserve => {
                if self.exchanged(sim, cpu) {
                    let it = &mut self.cpus[cpu];
                    it.start = self.place.position;
                    it.end = it.start + self.commands;
                    it.state = State::Ready;
                    self.place.position = it.end;
                    self.place.pending += self.commands;
                    self.place.synced = false;
                    sim.access(cpu, end_line(it.start), Access::Write);
                }
            }
            State::Ready => {
                self.make_ready(sim, cpu);
                self.cpus[cpu].state = State::Look;
                sim.access(cpu, RESERVED, Access::Read);
            }
            State::Look => {
                if self.place.synced {
                    sim.shared();
                    self.cpus[cpu].end = self.place.position;
                    self.wait(sim, cpu);
                } else {
                    self.cpus[cpu].expected = self.place;
                    self.cpus[cpu].state = State::ReserveSync;
                    sim.access(cpu, RESERVED, Access::Write);
                }
            }
            State::ReserveSync => {
                if self.exchanged(sim, cpu) {
                    let it = &mut self.cpus[cpu];
                    it.turn = self.place.position - self.place.pending;
                    it.start = self.place.position;
                    it.end = it.start + 1;
                    it.state = State::SyncReady;
                    self.place = Place {
                        position: it.end,
                        pending: 0,
                        synced: true,
                    };
                    sim.access(cpu, end_line(it.start), Access::Write);
                }
            }
            State::SyncReady => {
                self.make_ready(sim, cpu);
                self.cpus[cpu].state = State::Turn;
                sim.access(cpu, PUBLISHED, Access::Read);
            }
            State::Turn => {
                let Cpu { turn, end, .. } = self.cpus[cpu];
                if self.published < turn {
                    sim.watch(cpu, PUBLISHED);
                } else if self.published >= end {
                    self.wait(sim, cpu);
                } else {
                    self.cpus[cpu].scanned = self.published;
                    self.cpus[cpu].state = State::Scan;
                    sim.access(cpu, end_line(self.published), Access::Read);
                }
            }
            State::Scan => self.scan(sim, cpu),
            State::Rung => {
                self.ring(sim, cpu);
                self.cpus[cpu].state = State::Published;
                sim.access(cpu, PUBLISHED, Access::Write);
            }
            State::Published => {
                self.published = self.cpus[cpu].scanned;
                sim.written(PUBLISHED);
                self.wait(sim, cpu);
            }
            State::Poll => {
                self.cpus[cpu].state = State::HaveConsumer;
                sim.read_register(cpu);
            }
            State::HaveConsumer => {
                let it = &mut self.cpus[cpu];
                let passes = self.passes.get(&it.end).copied();
                if passes.is_some_and(|time| time <= sim.now) {
                    it.state = State::Begin;
                    sim.finished(cpu, it.begun, it.waited);
                } else {
                    it.polls += 1;
                    it.state = State::Poll;
                    let pause = PAUSE_NS << it.polls.min(PAUSE_STEPS_MAX);
                    // Whoever waits reads the error register too.
                    let again = sim.now + ps(pause + sim.machine.register_read_ns);
                    // Of a wait that is long, the reads in the middle are left out.
                    let near = passes.map_or(0, |time| time.saturating_sub(LONG));
                    sim.at(again.max(near), cpu);
                }
            }
        }
    }
}
