//! This project's insertion (smmu/src/queue): the protocol in the words of its
//! module, and what it was before.
//!
//! Lines: the word of reservations, the published position, what is known of the
//! consumer, and the ends of batches, 8 of which share a line. The position of the
//! consumer itself is a register. The queue is never full here: 128 CPUs with a pair
//! each are its 256 entries.

use std::collections::{HashMap, VecDeque};

use super::engine::{Access, Cpus, Sim, Time, ps};

const RESERVED: usize = 0;
const PUBLISHED: usize = 1;
const CONSUMED: usize = 2;
const ENDS: usize = 3;
/// Lines of a queue of 256 entries.
const END_LINES: usize = 32;

fn end_line(position: u64) -> usize {
    ENDS + (position / 8) as usize % END_LINES
}

/// Whoever finds the consumer so far ahead of what is known says so: a quarter of
/// 256 entries.
const TELL_FROM: u64 = 64;

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
    /// Sees whether there is room; with an exchange before it, with an addition
    /// behind it.
    Room,
    Reserve,
    /// The commands are ready.
    Ready,
    /// Sees whether a sync lies behind them.
    Look,
    /// Sees whether there is room for the sync, as above.
    RoomForSync,
    ReserveSync,
    /// The sync is ready.
    SyncReady,
    Turn,
    /// Looks for batches that are ready.
    Scan,
    Rung,
    Published,
    /// Lays the baton down.
    LayDown,
    /// Sees whether somebody has told that its sync is complete.
    Known,
    Poll,
    HaveConsumer,
    /// Looks again at what was known, now that it has read the register.
    KnownStill,
    /// Has told where the consumer is.
    Told,
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
    /// Where it saw the consumer.
    seen: u64,
    begun: Time,
    waited: Time,
}

/// How positions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reservation {
    /// By an addition; else by a compare-exchange.
    pub(super) add: bool,
    /// For the commands and their sync together; else one for each, unless another
    /// CPU's sync lies behind the commands.
    pub(super) together: bool,
    /// Who publishes has the baton, and nobody waits for it; else everybody waits
    /// for its turn or until it is published.
    pub(super) baton: bool,
    /// One CPU for each quarter of a lap tells where the consumer is; else everybody
    /// who sees that nobody has.
    pub(super) one_tells: bool,
}

#[derive(Debug)]
pub(super) struct Ours {
    how: Reservation,
    commands: u64,
    cpus: Vec<Cpu>,
    place: Place,
    /// Where the baton is.
    baton: u64,
    published: u64,
    /// Start of each batch that is ready and not published: its end.
    ready: HashMap<u64, u64>,
    /// When the consumer passes the end of a batch.
    passes: HashMap<u64, Time>,
    /// The same in order, from the one that it passed last.
    ahead: VecDeque<(Time, u64)>,
    /// What is known of the consumer.
    consumed: u64,
}

impl Ours {
    pub(super) fn new(cpus: usize, commands: u64, how: Reservation) -> Self {
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
            seen: 0,
            begun: 0,
            waited: 0,
        };
        Ours {
            how,
            commands,
            cpus: vec![cpu; cpus],
            place,
            baton: 0,
            published: 0,
            ready: HashMap::new(),
            passes: HashMap::new(),
            ahead: VecDeque::new(),
            consumed: 0,
        }
    }

    /// Whether an exchange or addition takes effect; else it is tried again.
    fn exchanged(&mut self, sim: &mut Sim, cpu: usize) -> bool {
        sim.attempted();
        let it = &mut self.cpus[cpu];
        if self.how.add || it.expected == self.place {
            return true;
        }
        it.expected = self.place;
        it.state = match it.state {
            State::Reserve => State::Room,
            _ => State::RoomForSync,
        };
        sim.access(cpu, CONSUMED, Access::Read);
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
        it.state = State::Known;
        sim.access(cpu, CONSUMED, Access::Read);
    }

    /// Where the consumer is.
    fn consumer(&mut self, now: Time) -> u64 {
        while let Some(&(time, _)) = self.ahead.get(1)
            && time <= now
        {
            self.ahead.pop_front();
        }
        match self.ahead.front() {
            Some(&(time, end)) if time <= now => end,
            _ => 0,
        }
    }

    /// Has read the register, and nobody else told more meanwhile.
    fn judge(&mut self, sim: &mut Sim, cpu: usize) {
        let it = &mut self.cpus[cpu];
        if it.seen >= it.end {
            it.state = State::Begin;
            sim.finished(cpu, it.begun, it.waited);
            return;
        }
        it.polls += 1;
        it.state = State::Known;
        let pause = PAUSE_NS << it.polls.min(PAUSE_STEPS_MAX);
        // Whoever waits reads the error register too.
        let again = sim.now + ps(pause + sim.machine.register_read_ns);
        // Of a wait that is long, the reads in the middle are left out.
        let passes = self.passes.get(&it.end).copied();
        let near = passes.map_or(0, |time| time.saturating_sub(LONG));
        sim.at(again.max(near), cpu);
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
        // Or there is more in the next line.
        let unready = end_line(at) == line;
        let done = if self.how.baton { unready } else { at >= end };
        if done {
            self.cpus[cpu].state = State::Rung;
            sim.after(sim.machine.doorbell_ns, cpu);
        } else if unready {
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
            self.ahead.push_back((time, batch_end));
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
                if self.how.add {
                    self.cpus[cpu].state = State::Reserve;
                    sim.access(cpu, RESERVED, Access::Write);
                } else {
                    self.cpus[cpu].state = State::HavePlace;
                    sim.access(cpu, RESERVED, Access::Read);
                }
            }
            State::HavePlace => {
                self.cpus[cpu].expected = self.place;
                self.cpus[cpu].state = State::Room;
                sim.access(cpu, CONSUMED, Access::Read);
            }
            State::Room if self.how.add => {
                self.cpus[cpu].state = State::Ready;
                sim.access(cpu, end_line(self.cpus[cpu].start), Access::Write);
            }
            State::Room => {
                self.cpus[cpu].state = State::Reserve;
                sim.access(cpu, RESERVED, Access::Write);
            }
            State::Reserve => {
                if self.exchanged(sim, cpu) {
                    let count = self.commands + u64::from(self.how.together);
                    let it = &mut self.cpus[cpu];
                    it.start = self.place.position;
                    it.turn = it.start;
                    it.end = it.start + count;
                    self.place.position = it.end;
                    self.place.pending += count;
                    self.place.synced = false;
                    if self.how.add {
                        it.state = State::Room;
                        sim.access(cpu, CONSUMED, Access::Read);
                    } else {
                        it.state = State::Ready;
                        sim.access(cpu, end_line(it.start), Access::Write);
                    }
                }
            }
            State::Ready => {
                self.make_ready(sim, cpu);
                let it = &mut self.cpus[cpu];
                if self.how.baton && self.baton == it.start {
                    it.scanned = it.start;
                    it.state = State::Scan;
                    self.scan(sim, cpu);
                } else if self.how.baton {
                    self.wait(sim, cpu);
                } else if self.how.together {
                    self.cpus[cpu].state = State::Turn;
                    sim.access(cpu, PUBLISHED, Access::Read);
                } else {
                    self.cpus[cpu].state = State::Look;
                    sim.access(cpu, RESERVED, Access::Read);
                }
            }
            State::Look => {
                if self.place.synced {
                    sim.shared();
                    self.cpus[cpu].end = self.place.position;
                    self.wait(sim, cpu);
                } else if self.how.add {
                    self.cpus[cpu].state = State::ReserveSync;
                    sim.access(cpu, RESERVED, Access::Write);
                } else {
                    self.cpus[cpu].expected = self.place;
                    self.cpus[cpu].state = State::RoomForSync;
                    sim.access(cpu, CONSUMED, Access::Read);
                }
            }
            State::RoomForSync if self.how.add => {
                self.cpus[cpu].state = State::SyncReady;
                sim.access(cpu, end_line(self.cpus[cpu].start), Access::Write);
            }
            State::RoomForSync => {
                self.cpus[cpu].state = State::ReserveSync;
                sim.access(cpu, RESERVED, Access::Write);
            }
            State::ReserveSync => {
                if self.exchanged(sim, cpu) {
                    let it = &mut self.cpus[cpu];
                    it.turn = self.place.position - self.place.pending;
                    it.start = self.place.position;
                    it.end = it.start + 1;
                    self.place = Place {
                        position: it.end,
                        pending: 0,
                        synced: true,
                    };
                    if self.how.add {
                        it.state = State::RoomForSync;
                        sim.access(cpu, CONSUMED, Access::Read);
                    } else {
                        it.state = State::SyncReady;
                        sim.access(cpu, end_line(it.start), Access::Write);
                    }
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
                if self.how.baton {
                    self.cpus[cpu].state = State::LayDown;
                    sim.access(cpu, end_line(self.published), Access::Write);
                } else {
                    self.wait(sim, cpu);
                }
            }
            State::LayDown => {
                if self.ready.contains_key(&self.published) {
                    self.cpus[cpu].state = State::Scan;
                    self.scan(sim, cpu);
                } else {
                    self.baton = self.published;
                    self.wait(sim, cpu);
                }
            }
            State::Known => {
                let it = &mut self.cpus[cpu];
                if self.consumed >= it.end {
                    it.state = State::Begin;
                    sim.finished(cpu, it.begun, it.waited);
                } else {
                    it.state = State::Poll;
                    sim.after(0, cpu);
                }
            }
            State::Poll => {
                self.cpus[cpu].state = State::HaveConsumer;
                sim.read_register(cpu);
            }
            State::HaveConsumer => {
                self.cpus[cpu].seen = self.consumer(sim.now);
                self.cpus[cpu].state = State::KnownStill;
                sim.access(cpu, CONSUMED, Access::Read);
            }
            State::KnownStill => {
                let Cpu { seen, end, .. } = self.cpus[cpu];
                let ahead = seen.saturating_sub(self.consumed);
                let mine = !self.how.one_tells || end % TELL_FROM < 2;
                if ahead >= TELL_FROM && mine || ahead >= 2 * TELL_FROM {
                    self.cpus[cpu].state = State::Told;
                    sim.access(cpu, CONSUMED, Access::Write);
                } else {
                    self.judge(sim, cpu);
                }
            }
            State::Told => {
                self.consumed = self.consumed.max(self.cpus[cpu].seen);
                self.judge(sim, cpu);
            }
        }
    }
}
