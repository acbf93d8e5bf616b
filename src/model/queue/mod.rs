//! The command queue under contention: a discrete-event simulation of many CPUs
//! that unmap strictly through one queue, with Linux's algorithm, with a published
//! change of it, and with this project's.
//!
//! What is simulated is what the CPUs fight for: cache lines. Each word that
//! several CPUs write is a line that one CPU at a time can have; getting it takes
//! [`Machine::line_ns`], or [`Machine::far_line_ns`] from another node, and while
//! it is on its way the others wait, and one of them, any, is next. (With a queue
//! in order of arrival a compare-exchange would fail once for every CPU that
//! waits, and the published success rate of 1 in 12 with 64 CPUs would be 1 in 64;
//! with a random one it is about 1 in the root of their number.) Whoever spins on a
//! line reads it anew each time somebody writes to it; who has a copy reads that
//! while others get theirs. The SMMU works on one command after the other.
//!
//! Left out: the entries of the queue itself, memory bandwidth, interrupts, and
//! everything outside of the queue, which is one number,
//! [`Machine::work_ns`].

mod engine;
mod linux;
mod ours;

use engine::Sim;

/// Most CPUs of a simulation.
pub const CPUS_MAX: usize = 128;

/// Which algorithm inserts commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Linux since 5.4 (`arm_smmu_cmdq_issue_cmdlist`): space by a
    /// compare-exchange, one `CMD_SYNC` for each caller, the first of a group
    /// publishes for all.
    Linux,
    /// The same with an atomic addition in place of the compare-exchange: John
    /// Garry's series of 2020, which was not merged.
    LinuxWithAdd,
    /// `dmabench_smmu`'s `CommandQueue`: one addition takes the places of the
    /// commands and their sync, and a baton says who publishes.
    Ours,
    /// What it was before: two compare-exchanges, the sync is shared with whoever
    /// has put one behind the commands already, and everybody waits for its turn to
    /// publish.
    OursBefore,
    /// As `Ours`, but everybody waits for its turn. Not built.
    OursInTurn,
    /// As `Ours`, with a compare-exchange in place of the addition. Not built.
    OursWithExchange,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Linux,
        Self::LinuxWithAdd,
        Self::Ours,
        Self::OursBefore,
        Self::OursInTurn,
        Self::OursWithExchange,
    ];
}

/// Where the threads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the first CPUs: one node is filled before the next.
    Packed,
    /// Evenly over so many nodes.
    Spread(usize),
}

/// Times of a machine, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// A contended cache line from one CPU of a node to another.
    pub line_ns: u64,
    /// The same from another node.
    pub far_line_ns: u64,
    /// An access to a line that the CPU has.
    pub hit_ns: u64,
    /// CPUs of a node.
    pub cpus_per_node: usize,
    /// Where the threads run.
    pub placement: Placement,
    /// One command, in the SMMU. A sync is one.
    pub command_ns: u64,
    /// The processor's part of writing the producer index.
    pub doorbell_ns: u64,
    /// From there to the SMMU's first fetch.
    pub fetch_ns: u64,
    /// From a completed sync to the CPU that waits for its message (Linux).
    pub message_ns: u64,
    /// A read of the consumer index (ours, which polls it).
    pub register_read_ns: u64,
    /// How long such a read keeps others from reading.
    pub register_busy_ns: u64,
    /// Everything a CPU does between two insertions.
    pub work_ns: u64,
}

impl Machine {
    fn bounded(self) -> Self {
        let ns = |ns: u64| ns.min(20_000);
        Machine {
            line_ns: ns(self.line_ns),
            far_line_ns: ns(self.far_line_ns),
            hit_ns: ns(self.hit_ns),
            cpus_per_node: self.cpus_per_node,
            placement: self.placement,
            command_ns: ns(self.command_ns),
            doorbell_ns: ns(self.doorbell_ns),
            fetch_ns: ns(self.fetch_ns),
            message_ns: ns(self.message_ns),
            register_read_ns: ns(self.register_read_ns),
            register_busy_ns: ns(self.register_busy_ns),
            work_ns: ns(self.work_ns),
        }
    }
}

/// What a simulation found, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Insertions per second of each CPU.
    pub per_cpu_per_second: f64,
    /// Nanoseconds of an insertion and its sync.
    pub latency_ns: f64,
    /// Nanoseconds of it that were spent waiting for the sync.
    pub sync_ns: f64,
    /// Compare-exchanges or additions for each insertion.
    pub attempts: f64,
    /// Insertions that were covered by another CPU's sync.
    pub shared: f64,
}

/// Insertions before anything counts.
const WARM_UP: u64 = 1_500;
/// Insertions that count.
const COUNTED: u64 = 6_000;

/// Lets `cpus` CPUs unmap `commands` entries each, again and again.
///
/// CPUs beyond [`CPUS_MAX`] and commands beyond 4096 are left out, and none is
/// one. Times are at most 20 us: no line, register or command takes that long.
/// The same arguments give the same outcome.
pub fn simulate(algorithm: Algorithm, machine: &Machine, cpus: usize, commands: u64) -> Outcome {
    let cpus = cpus.clamp(1, CPUS_MAX);
    let commands = commands.clamp(1, 4096);
    let sim = Sim::new(machine.bounded(), cpus);
    let ours = |how| ours::Ours::new(cpus, commands, how);
    let built = ours::Reservation {
        add: true,
        together: true,
        baton: true,
        one_tells: true,
    };
    match algorithm {
        Algorithm::Linux => sim.run(linux::Linux::new(cpus, commands, false)),
        Algorithm::LinuxWithAdd => sim.run(linux::Linux::new(cpus, commands, true)),
        Algorithm::Ours => sim.run(ours(built)),
        Algorithm::OursBefore => sim.run(ours(ours::Reservation {
            add: false,
            together: false,
            baton: false,
            one_tells: false,
        })),
        Algorithm::OursInTurn => sim.run(ours(ours::Reservation {
            baton: false,
            ..built
        })),
        Algorithm::OursWithExchange => sim.run(ours(ours::Reservation {
            add: false,
            ..built
        })),
    }
}

#[cfg(test)]
mod tests;
