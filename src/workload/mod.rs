//! What to run: requests, each mapped once and unmapped once, in an order.
//!
//! A workload is data, the same for every mode. Traces and [generators](generate)
//! make one through a [`Builder`], which lays the requests out so that a run
//! walks them without looking anything up.

mod builder;
mod crew;
pub mod generate;
mod host;
mod queue;

pub use builder::{Builder, Lists};
pub use crew::Crew;
pub use dmabench_dma::{Direction, Segment};
pub use host::HostLimits;
pub(crate) use queue::Queue;

use crate::report::{ParseStats, SizeCount, Source};

/// One map call and its unmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Index into [`Workload::devices`].
    pub device: u16,
    /// Who may touch it.
    pub direction: Direction,
    /// Where a run keeps its mapping meanwhile: below [`Workload::live_max`],
    /// and nobody else's while it is mapped.
    pub place: u32,
    first_segment: u32,
    segments: u32,
    /// All its bytes.
    pub bytes: u64,
}

/// What happens next. The number is an index into [`Workload::requests`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The request is mapped, then the device works on it.
    Map(u32),
    /// The device is done with it, then it is unmapped.
    Unmap(u32),
}

/// Requests in the order in which they are mapped and unmapped. Every request
/// is mapped once and later unmapped once, so that a workload can be repeated.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name in tables and reports.
    pub name: String,
    /// What it is, in one sentence.
    pub description: String,
    /// Where it comes from.
    pub source: Source,
    /// What reading it met, where it was read.
    pub parse: Option<ParseStats>,
    /// Names of the devices; each has an address space of its own.
    pub devices: Vec<String>,
    /// Most requests mapped at once.
    pub live_max: u32,
    /// Who plays it, if not one thread.
    pub crew: Option<Box<Crew>>,
    requests: Vec<Request>,
    steps: Vec<Step>,
    segments: Vec<Segment>,
    idle_us: Vec<u32>,
}

impl Workload {
    /// Its requests, in the order of their map calls.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// What happens, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The scatter list of `request`, which is one of this workload's.
    #[inline]
    pub fn segments(&self, request: &Request) -> &[Segment] {
        let first = request.first_segment as usize;
        &self.segments[first..first + request.segments as usize]
    }

    /// Whether the steps number `at` and the next both unmap, for one device: both
    /// requests were done at the same moment.
    #[inline]
    pub fn more_done(&self, at: usize) -> bool {
        let device = |at: usize| match *self.steps.get(at)? {
            Step::Unmap(number) => Some(self.requests[number as usize].device),
            Step::Map(_) => None,
        };
        device(at).is_some_and(|one| device(at + 1) == Some(one))
    }

    /// How long nothing happens before that request is mapped, in nanoseconds:
    /// nobody asks for anything and nothing is under way.
    #[inline]
    pub fn idle_ns(&self, number: u32) -> u64 {
        (self.idle_us.get(number as usize)).map_or(0, |us| u64::from(*us) * 1000)
    }

    /// A number that is the same for two workloads of the same requests, steps
    /// and pauses, and hardly ever else: on every machine, of every build.
    pub fn digest(&self) -> u64 {
        // FNV-1a over 64-bit words instead of bytes.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3);
            hash ^= hash >> 32;
        };
        for (number, request) in self.requests.iter().enumerate() {
            add(u64::from(request.device));
            add(match request.direction {
                Direction::ToDevice => 1,
                Direction::FromDevice => 2,
                Direction::Bidirectional => 3,
            });
            add(self.idle_ns(number as u32));
            for segment in self.segments(request) {
                add(segment.phys.0);
                add(segment.len_bytes);
            }
        }
        for step in &self.steps {
            match *step {
                Step::Map(number) => add(u64::from(number) << 1),
                Step::Unmap(number) => add(u64::from(number) << 1 | 1),
            }
        }
        hash
    }

    /// Entries of the longest scatter list.
    pub fn segments_max(&self) -> usize {
        (self.requests.iter()).fold(0, |max, r| max.max(r.segments as usize))
    }

    /// Bytes of one pass.
    pub fn bytes(&self) -> u64 {
        self.requests.iter().map(|r| r.bytes).sum()
    }

    /// How often each size occurs, smallest first.
    pub fn sizes(&self) -> Vec<SizeCount> {
        let mut counts = std::collections::BTreeMap::new();
        for request in &self.requests {
            *counts.entry(request.bytes).or_insert(0) += 1;
        }
        (counts.into_iter())
            .map(|(bytes, requests)| SizeCount { bytes, requests })
            .collect()
    }

    /// The report's description of it.
    pub fn summary(&self) -> crate::report::Workload {
        let count = |direction| {
            (self.requests.iter())
                .filter(|r| r.direction == direction || r.direction == Direction::Bidirectional)
                .count() as u64
        };
        crate::report::Workload {
            name: self.name.clone(),
            description: self.description.clone(),
            source: self.source.clone(),
            requests: self.requests.len() as u64,
            bytes: self.bytes(),
            to_device: count(Direction::ToDevice),
            from_device: count(Direction::FromDevice),
            live_max: u64::from(self.live_max),
            sizes: self.sizes(),
            parse: self.parse.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmabench_platform::PhysAddr;

    /// Two requests, with one thing changed.
    fn digest(changed: u32) -> u64 {
        let mut builder = Builder::new();
        let page = |phys, len_bytes| Segment {
            phys: PhysAddr(phys),
            len_bytes,
        };
        let is = |what| changed == what;
        let direction = if is(1) {
            Direction::ToDevice
        } else {
            Direction::FromDevice
        };
        let list = [
            page(if is(2) { 0x9000 } else { 0x8000 }, 4096),
            page(0x1000, if is(3) { 2048 } else { 4096 }),
        ];
        let a = builder.map(u16::from(is(4)), direction, list);
        builder.idle(u32::from(is(5)));
        let b = builder.map(0, Direction::FromDevice, [page(0, 512)]);
        let (first, second) = if is(6) { (b, a) } else { (a, b) };
        builder.unmap(first);
        builder.unmap(second);
        let source = Source::Generated {
            generator: String::new(),
        };
        let name = if is(7) { "another name" } else { "" };
        builder
            .finish(name.to_owned(), String::new(), source, None, vec![])
            .digest()
    }

    /// A million requests are 44 MB: see `docs/workloads.md`.
    #[test]
    fn a_request_takes_44_bytes_whatever_its_size() {
        let request = size_of::<Request>() + 2 * size_of::<Step>() + size_of::<u32>();
        assert_eq!(request, 44);
    }

    #[test]
    fn the_digest_sees_every_change_of_what_happens() {
        let same = digest(0);
        assert_eq!(digest(7), same, "a name is not what happens");
        let mut seen = vec![same];
        for changed in 1..=6 {
            let digest = digest(changed);
            assert!(!seen.contains(&digest), "{changed}");
            seen.push(digest);
        }
    }
}
