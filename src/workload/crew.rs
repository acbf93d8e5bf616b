//! A workload for several threads.

use super::{Builder, Direction, Lists, Step, Workload};
use crate::report::Source;

/// Threads that play a workload together, on one address space.
#[derive(Debug, Clone)]
pub struct Crew {
    /// What each thread, or pair of threads, does; all on device 0.
    pub streams: Vec<Workload>,
    /// Whether each stream is a pair: one thread maps, another unmaps.
    pub pairs: bool,
}

impl Crew {
    /// `2 threads` or `2 pairs`.
    pub fn name(&self) -> String {
        let what = if self.pairs { "pair" } else { "thread" };
        let many = if self.streams.len() == 1 { "" } else { "s" };
        format!("{} {what}{many}", self.streams.len())
    }

    /// The workload of all streams: a step of each by turns, which is what an
    /// exposure run and the description of the workload are made of. Pauses are
    /// left out: where one thread waits, another goes on.
    pub fn workload(self) -> Option<Workload> {
        let first = self.streams.first()?;
        let (name, description) = (first.name.clone(), first.description.clone());
        let source = match &first.source {
            Source::Generated { generator } => Source::Generated {
                generator: format!("{generator} x {}", self.name()),
            },
            other => other.clone(),
        };
        let devices = first.devices.clone();
        let mut merged = Merged::default();
        let longest = self.streams.iter().map(|s| s.steps.len()).max()?;
        let entries: Vec<Lists> = (self.streams.iter())
            .map(|s| merged.builder.lists(s.segments.iter().copied()))
            .collect();
        merged.numbers = vec![Vec::new(); self.streams.len()];
        for at in 0..longest {
            for (index, stream) in self.streams.iter().enumerate() {
                if let Some(step) = stream.steps.get(at) {
                    merged.step(index, stream, entries[index], *step);
                }
            }
        }
        let name = format!("{name}, {}", self.name());
        let mut workload = (merged.builder).finish(name, description, source, None, devices);
        workload.crew = Some(Box::new(self));
        Some(workload)
    }
}

#[derive(Default)]
struct Merged {
    builder: Builder,
    /// For each stream, what its requests are called here.
    numbers: Vec<Vec<u32>>,
}

impl Merged {
    fn step(&mut self, index: usize, stream: &Workload, entries: Lists, step: Step) {
        match step {
            Step::Map(number) => {
                let request = &stream.requests[number as usize];
                let list = entries.slice(request.first_segment, request.segments);
                let direction: Direction = request.direction;
                let number = self.builder.map_list(0, direction, list);
                self.numbers[index].push(number);
            }
            Step::Unmap(number) => {
                self.builder.unmap(self.numbers[index][number as usize]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generate::{Generator, NvmeContend};

    #[test]
    fn the_workload_of_a_crew_is_all_of_its_streams_by_turns() {
        let streams = [1, 2, 3].map(|seed| {
            NvmeContend {
                requests: 50 * seed as u32,
                depth: 4,
                ..NvmeContend::DEFAULT
            }
            .generate(seed)
        });
        let crew = Crew {
            streams: streams.to_vec(),
            pairs: true,
        };
        let workload = crew.workload().unwrap();
        assert_eq!(workload.name, "nvme-contend, 3 pairs");
        assert_eq!(workload.requests().len(), 300);
        assert_eq!(workload.live_max, 12);
        assert_eq!(workload.bytes(), 300 * 4096);
        let list = |w: &Workload, r: usize| w.segments(&w.requests()[r]).to_vec();
        // The first three requests are the first of each.
        for (index, stream) in streams.iter().enumerate() {
            assert_eq!(list(&workload, index), list(stream, 0));
        }
        let empty = Crew {
            streams: vec![],
            pairs: false,
        };
        assert!(empty.workload().is_none());
    }
}
