//! Generated workloads: one file each, listed in [`ALL`].
//!
//! A new one implements [`Generator`] in a file of its own and adds itself to
//! the list; command line, report and tests find it there. What each stands for
//! and where its numbers come from: `docs/workloads.md`.

mod cqe;
mod dd_direct;
mod dd_seq;
mod ext4_fsync;
mod fio_rand;
mod in_flight;
mod memory;
mod mobile_apps;
mod mobile_mix;
mod nvme_contend;
mod random;
mod shape;
mod sqlite_sync;

pub use cqe::Cqe;
pub use dd_direct::DdDirect;
pub use dd_seq::DdSeq;
pub use ext4_fsync::Ext4Fsync;
pub use fio_rand::FioRand;
pub use mobile_apps::{App, apps};
pub use mobile_mix::MobileMix;
pub use nvme_contend::NvmeContend;
pub use random::Random;
pub use shape::{PAGES_MAX, Refused, Shape, SizeMix};
pub use sqlite_sync::SqliteSync;

use super::{Builder, Crew, Workload};
use crate::report::Source;

/// Makes a workload out of a seed.
pub trait Generator: Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// What it stands for, in one sentence.
    fn description(&self) -> &'static str;

    /// The same seed gives the same workload on every machine.
    fn generate(&self, seed: u64) -> Workload;

    /// The same generator with the options of `shape`.
    ///
    /// # Errors
    ///
    /// [`Refused`] for an option that does not apply to it.
    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused>;
}

/// Every generator.
pub const ALL: &[&dyn Generator] = &[
    &DdSeq::DEFAULT,
    &DdDirect::DEFAULT,
    &FioRand::DEFAULT,
    &MobileMix::DEFAULT,
    &SqliteSync::DEFAULT,
    &Ext4Fsync::DEFAULT,
    &NvmeContend::DEFAULT,
    &Cqe::DEFAULT,
];

/// Who plays the streams of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Players {
    /// So many threads, each with a stream of its own.
    Threads(u32),
    /// So many pairs of threads: one maps the requests of a stream, the other
    /// unmaps them.
    Pairs(u32),
}

/// The workload of all players: of one thread what [`Generator::generate`] gives,
/// else that of their [`streams`] together.
pub fn played_by(generator: &dyn Generator, seed: u64, players: Players) -> Workload {
    let pairs = match players {
        Players::Threads(count) if count <= 1 => return generator.generate(seed),
        Players::Threads(_) => false,
        Players::Pairs(_) => true,
    };
    let crew = Crew {
        streams: streams(generator, seed, players),
        pairs,
    };
    (crew.workload()).unwrap_or_else(|| generator.generate(seed))
}

/// One workload for each thread or pair, all on the same device. The first is
/// what [`Generator::generate`] gives; the others have seeds that follow from
/// `seed`. Each has the generator's number of requests.
pub fn streams(generator: &dyn Generator, seed: u64, players: Players) -> Vec<Workload> {
    let (Players::Threads(count) | Players::Pairs(count)) = players;
    let mut seeds = Random::new(seed);
    (0..count)
        .map(|index| generator.generate(if index == 0 { seed } else { seeds.next_u64() }))
        .collect()
}

/// What a generator has built, for one device of that kind. `parameters` are, with
/// the seed, all that makes the workload what it is.
fn finish(
    generator: &dyn Generator,
    builder: Builder,
    parameters: &str,
    seed: u64,
    device: &str,
) -> Workload {
    let source = Source::Generated {
        generator: format!("{} {parameters} seed={seed}", generator.name()),
    };
    builder.finish(
        generator.name().to_owned(),
        generator.description().to_owned(),
        source,
        None,
        vec![device.to_owned()],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_a_stream_of_its_own_on_the_same_device() {
        let generator = Cqe {
            requests: 64,
            ..Cqe::DEFAULT
        };
        let alone = played_by(&generator, 1, Players::Threads(1));
        assert_eq!(alone.name, "cqe");
        assert!(alone.crew.is_none());
        assert_eq!(alone.digest(), generator.generate(1).digest());
        for (players, name) in [
            (Players::Threads(3), "cqe, 3 threads"),
            (Players::Pairs(3), "cqe, 3 pairs"),
            (Players::Pairs(1), "cqe, 1 pair"),
        ] {
            let together = played_by(&generator, 1, players);
            assert_eq!(together.name, name);
            let crew = together.crew.unwrap();
            let digests: Vec<u64> = crew.streams.iter().map(Workload::digest).collect();
            assert_eq!(digests[0], alone.digest());
            let mut apart = digests.clone();
            apart.sort_unstable();
            apart.dedup();
            assert_eq!(apart.len(), digests.len());
            assert!(crew.streams.iter().all(|w| w.devices == ["cqhci"]));
        }
    }
}
