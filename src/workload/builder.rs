//! Making a workload step by step.

use super::{Direction, Request, Segment, Step, Workload};

/// Entries of a builder from which several requests may be made, so that a
/// million requests need not hold a million lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    first: u32,
    len: u32,
}

impl Lists {
    /// Entries.
    #[expect(clippy::len_without_is_empty, reason = "a list to map is never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// `len` entries from number `first` on.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn slice(&self, first: u32, len: u32) -> Self {
        let fits = first.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(fits, "{len} entries from {first} on, of {}", self.len);
        Lists {
            first: self.first + first,
            len,
        }
    }
}
use crate::report::{ParseStats, Source};

/// Collects requests and steps; keeps each request to one map and one unmap.
#[derive(Debug, Default)]
pub struct Builder {
    requests: Vec<Request>,
    steps: Vec<Step>,
    segments: Vec<Segment>,
    /// Pauses before requests, in microseconds; shorter than `requests` where
    /// the last have none.
    idle_us: Vec<u32>,
    mapped: Vec<bool>,
    free_places: Vec<u32>,
    places: u32,
}

impl Builder {
    /// A workload without requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps a new request and returns its number. Segments of no length are left
    /// out.
    ///
    /// # Panics
    ///
    /// With 2^32 requests or segments: more than the memory of the steps.
    pub fn map(
        &mut self,
        device: u16,
        direction: Direction,
        segments: impl IntoIterator<Item = Segment>,
    ) -> u32 {
        let list = self.lists(segments);
        self.map_list(device, direction, list)
    }

    /// Entries for [`map_list`](Self::map_list). Those of no length are left out.
    ///
    /// # Panics
    ///
    /// With 2^32 entries.
    pub fn lists(&mut self, segments: impl IntoIterator<Item = Segment>) -> Lists {
        let first = self.segments.len();
        self.segments
            .extend(segments.into_iter().filter(|p| p.len_bytes > 0));
        Lists {
            first: narrow(first),
            len: narrow(self.segments.len()) - narrow(first),
        }
    }

    /// Maps a new request made of entries that are there already, and returns
    /// its number.
    ///
    /// # Panics
    ///
    /// With 2^32 requests.
    pub fn map_list(&mut self, device: u16, direction: Direction, list: Lists) -> u32 {
        let first = list.first as usize;
        let entries = &self.segments[first..first + list.len as usize];
        let bytes = entries.iter().map(|p| p.len_bytes).sum();
        let place = self.free_places.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        });
        let number = narrow(self.requests.len());
        self.requests.push(Request {
            device,
            direction,
            place,
            first_segment: list.first,
            segments: list.len,
            bytes,
        });
        self.mapped.push(true);
        self.steps.push(Step::Map(number));
        number
    }

    /// Nothing happens for so long before the next request is mapped. Times of
    /// several calls add up, to at most 2^32 microseconds.
    pub fn idle(&mut self, us: u32) {
        if us > 0 {
            let next = self.requests.len();
            self.idle_us.resize(next + 1, 0);
            self.idle_us[next] = self.idle_us[next].saturating_add(us);
        }
    }

    /// Unmaps a request; false if it is not mapped.
    pub fn unmap(&mut self, request: u32) -> bool {
        let Some(mapped) = self.mapped.get_mut(request as usize) else {
            return false;
        };
        if !std::mem::take(mapped) {
            return false;
        }
        self.free_places.push(self.requests[request as usize].place);
        self.steps.push(Step::Unmap(request));
        true
    }

    /// Bytes of a request that was mapped.
    pub(crate) fn bytes(&self, request: u32) -> u64 {
        self.requests[request as usize].bytes
    }

    /// Requests so far.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is no request yet.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Unmaps what is still mapped, oldest first, and says how many that were.
    pub fn unmap_rest(&mut self) -> u64 {
        let rest: Vec<u32> = (0..self.requests.len() as u32)
            .filter(|&r| self.mapped[r as usize])
            .collect();
        for &request in &rest {
            self.unmap(request);
        }
        rest.len() as u64
    }

    /// The workload. What is still mapped is unmapped at its end.
    pub fn finish(
        mut self,
        name: String,
        description: String,
        source: Source,
        parse: Option<ParseStats>,
        devices: Vec<String>,
    ) -> Workload {
        self.unmap_rest();
        // A pause with nothing behind it.
        self.idle_us.truncate(self.requests.len());
        Workload {
            name,
            description,
            source,
            parse,
            devices,
            live_max: self.places,
            crew: None,
            requests: self.requests,
            steps: self.steps,
            segments: self.segments,
            idle_us: self.idle_us,
        }
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("at most 2^32 requests and segments")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmabench_platform::PhysAddr;

    #[test]
    fn requests_share_lists_and_wait_for_their_time() {
        let mut builder = Builder::new();
        let pages = builder.lists((0..4).map(|page| Segment {
            phys: PhysAddr(page << 12),
            len_bytes: if page == 3 { 0 } else { 4096 },
        }));
        assert_eq!(pages.len(), 3, "an entry of no length is none");
        let a = builder.map_list(0, Direction::ToDevice, pages.slice(1, 2));
        builder.idle(7);
        builder.idle(u32::MAX);
        let b = builder.map_list(0, Direction::ToDevice, pages);
        builder.idle(9);
        let source = Source::Generated {
            generator: String::new(),
        };
        let workload = builder.finish(String::new(), String::new(), source, None, vec![]);
        let phys = |r: u32| {
            let request = &workload.requests()[r as usize];
            let list = workload.segments(request);
            list.iter().map(|s| s.phys.0 >> 12).collect::<Vec<_>>()
        };
        assert_eq!((phys(a), phys(b)), (vec![1, 2], vec![0, 1, 2]));
        assert_eq!(workload.bytes(), 5 * 4096);
        assert_eq!(workload.idle_ns(a), 0);
        assert_eq!(workload.idle_ns(b), u64::from(u32::MAX) * 1000);
        assert_eq!(workload.idle_ns(99), 0);
    }

    #[test]
    #[should_panic(expected = "4 entries from 0 on, of 3")]
    fn more_entries_than_there_are_cannot_be_taken() {
        let page = |phys| Segment {
            phys: PhysAddr(phys),
            len_bytes: 4096,
        };
        Builder::new().lists([1, 2, 3].map(page)).slice(0, 4);
    }

    #[test]
    fn places_are_reused_and_every_request_ends_unmapped() {
        let mut builder = Builder::new();
        let page = |phys| Segment {
            phys: PhysAddr(phys),
            len_bytes: 4096,
        };
        let a = builder.map(0, Direction::ToDevice, [page(0)]);
        let b = builder.map(0, Direction::ToDevice, [page(4096), page(0)]);
        assert!(builder.unmap(a));
        assert!(!builder.unmap(a), "a second unmap is refused");
        assert!(!builder.unmap(99));
        let c = builder.map(0, Direction::FromDevice, [page(0)]);
        let source = Source::Generated {
            generator: String::new(),
        };
        let workload = builder.finish(String::new(), String::new(), source, None, vec![]);
        assert_eq!(workload.live_max, 2);
        assert_eq!(workload.bytes(), 4 * 4096);
        assert_eq!(workload.segments(&workload.requests()[1]).len(), 2);
        assert_eq!(
            workload.steps(),
            [
                Step::Map(a),
                Step::Map(b),
                Step::Unmap(a),
                Step::Map(c),
                Step::Unmap(b),
                Step::Unmap(c)
            ]
        );
    }
}
