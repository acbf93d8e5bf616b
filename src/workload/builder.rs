//! Making a workload step by step.

use super::{Direction, Request, Segment, Step, Workload};
use crate::report::{ParseStats, Source};

/// Collects requests and steps; keeps each request to one map and one unmap.
#[derive(Debug, Default)]
pub struct Builder {
    requests: Vec<Request>,
    steps: Vec<Step>,
    segments: Vec<Segment>,
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
        let first = self.segments.len();
        self.segments
            .extend(segments.into_iter().filter(|p| p.len_bytes > 0));
        let bytes = self.segments[first..].iter().map(|p| p.len_bytes).sum();
        let place = self.free_places.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        });
        let narrow = |n: usize| u32::try_from(n).expect("at most 2^32 requests and segments");
        let number = narrow(self.requests.len());
        self.requests.push(Request {
            device,
            direction,
            place,
            first_segment: narrow(first),
            segments: narrow(self.segments.len()) - narrow(first),
            bytes,
        });
        self.mapped.push(true);
        self.steps.push(Step::Map(number));
        number
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
        Workload {
            name,
            description,
            source,
            parse,
            devices,
            live_max: self.places,
            requests: self.requests,
            steps: self.steps,
            segments: self.segments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmabench_platform::PhysAddr;

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
