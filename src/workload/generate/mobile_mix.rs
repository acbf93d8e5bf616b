//! A phone in use: seven Android applications by turns, each with its own sizes,
//! runs of reads and writes, and times between requests (`mobile_apps.rs`).
//!
//! The applications take turns of 256 requests, drawn by how many requests each
//! made in the recording; within a turn one request leads to the next by the
//! application's probabilities, and the gaps are drawn independently. The
//! recording is of a UFS phone; here it meets the eMMC of the exposure run: a
//! request that finds the host full waits, and the gap to the next counts from
//! when it was taken.

use super::{App, Generator, Random, Refused, Shape, apps, finish, memory::Scattered, shape::PAGE};
use crate::workload::{Builder, Direction, Queue, Workload};

/// Requests of one application in a row.
const TURN: u32 = 256;

/// Applications by turns.
#[derive(Debug, Clone)]
pub struct MobileMix {
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once.
    pub depth: u32,
    /// Only the application of that name.
    pub only: Option<String>,
}

impl MobileMix {
    /// 16,384 requests, two mapped at once: an SD host without a queue
    /// (`pre_req`).
    pub const DEFAULT: MobileMix = MobileMix {
        requests: 16_384,
        depth: 2,
        only: None,
    };
}

impl Generator for MobileMix {
    fn name(&self) -> &'static str {
        "mobile-mix"
    }

    fn description(&self) -> &'static str {
        "seven Android applications by turns: their sizes, runs of reads and writes, and pauses; 2 mapped at once"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        // 11 pages are the mean.
        let pages_used = u64::from(self.requests) * 16;
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        // Each goes on where it stopped when its turn comes again.
        let mut apps: Vec<(&App, Option<Direction>)> = (apps().iter())
            .filter(|a| self.only.as_ref().is_none_or(|only| *only == a.name))
            .map(|app| (app, None))
            .collect();
        let weight: u64 = apps.iter().map(|(app, _)| app.requests).sum();
        let mut host = Queue::new(self.depth as usize);
        let (mut now, mut current) = (0, 0);
        for number in 0..self.requests {
            if number % TURN == 0 {
                let mut at = random.below(weight);
                current = (apps.iter())
                    .position(|(app, _)| {
                        let here = at < app.requests;
                        at = at.saturating_sub(app.requests);
                        here
                    })
                    .unwrap_or(0);
            }
            let Some((app, last)) = apps.get_mut(current) else {
                break;
            };
            let direction = app.direction(*last, &mut random);
            *last = Some(direction);
            let pages = app.pages(direction, &mut random);
            now = host.take(&mut builder, now + app.gap_ns(&mut random));
            let request = builder.map_list(0, direction, memory.take(pages));
            host.issue(request, now, u64::from(pages) * PAGE);
        }
        let only = (self.only.as_ref()).map_or(String::new(), |only| format!(" only={only}"));
        let parameters = format!("requests={} depth={}{only}", self.requests, self.depth);
        finish(self, builder, &parameters, seed, "mmc")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        shape.no_sizes(self.name(), "its sizes are those of the applications")?;
        Ok(Box::new(MobileMix {
            requests: shape.requests.unwrap_or(self.requests),
            depth: shape.depth.unwrap_or(self.depth),
            ..self.clone()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Step;

    #[test]
    fn the_applications_take_turns_by_their_weight() {
        let workload = MobileMix {
            requests: 400_000,
            ..MobileMix::DEFAULT
        }
        .generate(1);
        assert_eq!(workload.requests().len(), 400_000);
        assert_eq!(workload.live_max, 2);
        // 73.3 % of all recorded requests are reads; a turn is of one
        // application, so the deviation is that of some 1,560 draws.
        let reads = (workload.requests().iter())
            .filter(|r| r.direction == Direction::FromDevice)
            .count();
        assert!(reads.abs_diff(293_200) < 12_000, "{reads}");
        let at_most = |kib: u64| {
            (workload.sizes().iter())
                .filter(|s| s.bytes <= kib * 1024)
                .map(|s| s.requests)
                .sum::<u64>()
        };
        // Of all requests 45.2 % are of 4 KiB and 98 % of at most 128 KiB:
        // reads 33.4 and 98.8, writes 77.4 and 95.9.
        assert!(at_most(4).abs_diff(180_800) < 12_000, "{}", at_most(4));
        assert!(at_most(128).abs_diff(392_000) < 2_000, "{}", at_most(128));
    }

    /// A phone that waits for its user most of the time, but never longer than
    /// the longest gap, and never while a request is under way.
    #[test]
    fn pauses_fall_where_nothing_is_under_way() {
        let workload = MobileMix::DEFAULT.generate(1);
        let mut live = 0;
        let mut pauses = 0;
        for step in workload.steps() {
            match *step {
                Step::Map(request) => {
                    let idle = workload.idle_ns(request);
                    assert!(idle == 0 || live == 0);
                    assert!(idle <= 4_375_622_000);
                    pauses += u32::from(idle > 0);
                    live += 1;
                }
                Step::Unmap(_) => live -= 1,
            }
        }
        let all = workload.requests().len() as u32;
        assert!(pauses > all / 10 && pauses < all, "{pauses}");
    }

    #[test]
    fn one_application_alone_keeps_to_itself() {
        let of = |only: &str| {
            MobileMix {
                requests: 20_000,
                only: Some(only.to_owned()),
                ..MobileMix::DEFAULT
            }
            .generate(3)
        };
        // 88.4 % of you_cut's reads are of 128 KiB; 9.6 % of telegram's requests
        // are reads, and they come in long runs.
        let video = of("you_cut");
        let large = (video.sizes().iter())
            .find(|s| s.bytes == 131_072)
            .map_or(0, |s| s.requests);
        assert!((14_000..16_500).contains(&large), "{large}");
        let reads = (of("telegram").requests().iter())
            .filter(|r| r.direction == Direction::FromDevice)
            .count();
        assert!((900..3_500).contains(&reads), "{reads}");
        assert!(of("nobody").requests().is_empty());
    }
}
