//! What seven Android applications ask of a phone's storage: the distributions
//! of `mobile-block-io.json`, made ready to draw from.
//!
//! The file holds statistics of 1,370,389 block requests on a Pixel 6a (UFS),
//! computed from the public MobileBlockIOTraces set of acsl-technion. For each
//! application and direction it lists the twelve most frequent sizes; what they
//! leave, 0.2 to 14 % of the requests, is filled with the sizes it does not list:
//! whole pages to 128 KiB, and from 132 to 512 KiB as many as the file says are
//! larger than 128 KiB, both with a frequency of one over the size. (The few
//! larger than 512 KiB, 0.1 % of all, are taken for smaller ones.) Of the time
//! between requests it gives percentiles from 5 to 99; between two of them the
//! logarithm is uniform, below the first it goes down to 1 us, and no gap is
//! longer than the last.
//!
//! All drawing is in integers, and the tables are made with operations that
//! IEEE 754 fixes, so that a seed gives the same on every machine.

use std::sync::LazyLock;

use serde::Deserialize;

use super::{PAGES_MAX, Random};
use crate::workload::Direction;

const JSON: &str = include_str!("mobile-block-io.json");

/// Pages of 128 KiB, where the file's classes "larger than 128 KiB" begin.
const KNEE: u32 = 32;

/// Equal steps of the table of gaps.
const STEPS: usize = 4096;

#[derive(Debug, Deserialize)]
struct File {
    apps: std::collections::BTreeMap<String, Published>,
}

#[derive(Debug, Deserialize)]
struct Published {
    requests: u64,
    read_fraction: f64,
    read_sizes_kib_pct: Vec<(u32, f64)>,
    write_sizes_kib_pct: Vec<(u32, f64)>,
    p_read_after_read: f64,
    p_write_after_write: f64,
    interarrival_us_percentiles: std::collections::BTreeMap<u32, f64>,
    pct_reads_gt128k: f64,
    pct_writes_gt128k: f64,
}

/// One application.
#[derive(Debug)]
pub struct App {
    /// Its name in the file.
    pub name: String,
    /// Requests it made: its weight among the others.
    pub requests: u64,
    /// Of 2^32 first requests, those that are reads.
    reads: u64,
    /// Of 2^32 requests behind one of the same direction, those that keep it.
    read_after_read: u64,
    write_after_write: u64,
    read_sizes: Sizes,
    write_sizes: Sizes,
    /// Nanoseconds between requests, at equal steps of probability.
    gaps_ns: Vec<u64>,
}

impl App {
    /// The direction behind `last`, or the first one.
    pub fn direction(&self, last: Option<Direction>, random: &mut Random) -> Direction {
        let chance = random.below(1 << 32);
        let read = match last {
            None => chance < self.reads,
            Some(Direction::ToDevice) => chance >= self.write_after_write,
            Some(_) => chance < self.read_after_read,
        };
        if read {
            Direction::FromDevice
        } else {
            Direction::ToDevice
        }
    }

    /// The pages of a request.
    pub fn pages(&self, direction: Direction, random: &mut Random) -> u32 {
        match direction {
            Direction::ToDevice => self.write_sizes.draw(random),
            _ => self.read_sizes.draw(random),
        }
    }

    /// Nanoseconds from one request to the next.
    pub fn gap_ns(&self, random: &mut Random) -> u64 {
        let bits = random.next_u64();
        let step = (bits >> 52) as usize;
        let within = u128::from(bits & 0xffff_ffff);
        let (from, to) = (self.gaps_ns[step], self.gaps_ns[step + 1]);
        from + ((u128::from(to - from) * within) >> 32) as u64
    }

    fn new(name: String, published: &Published) -> Self {
        let read_sizes = Sizes::new(&published.read_sizes_kib_pct, published.pct_reads_gt128k);
        let write_sizes = Sizes::new(&published.write_sizes_kib_pct, published.pct_writes_gt128k);
        App {
            name,
            requests: published.requests,
            reads: of_2_to_32(published.read_fraction),
            read_after_read: of_2_to_32(published.p_read_after_read),
            write_after_write: of_2_to_32(published.p_write_after_write),
            read_sizes,
            write_sizes,
            gaps_ns: gaps(&published.interarrival_us_percentiles),
        }
    }
}

fn of_2_to_32(fraction: f64) -> u64 {
    (fraction * (1_u64 << 32) as f64) as u64
}

/// The applications of the file, by name.
pub fn apps() -> &'static [App] {
    static APPS: LazyLock<Vec<App>> = LazyLock::new(|| {
        let file: File = serde_json::from_str(JSON).expect("the file is part of the program");
        (file.apps.into_iter())
            .map(|(name, published)| App::new(name, &published))
            .collect()
    });
    &APPS
}

/// A distribution of request sizes: for each, in pages, the sum of the weights up
/// to it.
#[derive(Debug)]
struct Sizes(Vec<(u32, u64)>);

impl Sizes {
    /// Weight of 0.01 %: the unlisted sizes get parts of it.
    const UNIT: u64 = 1 << 32;

    fn new(listed: &[(u32, f64)], larger_percent: f64) -> Self {
        let hundredths = |percent: f64| (percent * 100.0).round() as u64;
        let mut weights = vec![0; PAGES_MAX as usize + 1];
        let (mut rest, mut larger) = (10_000_u64, hundredths(larger_percent));
        for &(kib, percent) in listed {
            let pages = (kib / 4).clamp(1, PAGES_MAX);
            let share = hundredths(percent);
            weights[pages as usize] += share * Self::UNIT;
            // The percentages are rounded: their sum may be a little above.
            rest = rest.saturating_sub(share);
            if pages > KNEE {
                larger = larger.saturating_sub(share);
            }
        }
        let larger = larger.min(rest);
        fill(&mut weights, 1..=KNEE, (rest - larger) * Self::UNIT);
        fill(&mut weights, KNEE + 1..=PAGES_MAX, larger * Self::UNIT);
        let mut sum = 0;
        let cumulated = (0..).zip(weights).filter(|(_, weight)| *weight > 0);
        Sizes(
            cumulated
                .map(|(pages, weight)| {
                    sum += weight;
                    (pages, sum)
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let &(largest, total) = self.0.last().expect("every list has sizes");
        let at = random.below(total);
        let index = self.0.partition_point(|(_, sum)| *sum <= at);
        self.0.get(index).map_or(largest, |(pages, _)| *pages)
    }
}

/// Spreads `weight` over the sizes of `range` that have none, each in proportion
/// to one over its size.
fn fill(weights: &mut [u64], range: std::ops::RangeInclusive<u32>, weight: u64) {
    const ONE: u64 = 1 << 32;
    let free: Vec<u32> = range.filter(|p| weights[*p as usize] == 0).collect();
    let inverse = |pages: u32| u128::from(ONE / u64::from(pages));
    let sum: u128 = free.iter().map(|p| inverse(*p)).sum();
    for pages in free {
        weights[pages as usize] = (u128::from(weight) * inverse(pages) / sum) as u64;
    }
}

/// The gap at each step of probability.
fn gaps(percentiles: &std::collections::BTreeMap<u32, f64>) -> Vec<u64> {
    let mut points = vec![(0.0, 1.0)];
    points.extend(percentiles.iter().map(|(p, us)| (f64::from(*p), *us)));
    points.push((100.0, points[points.len() - 1].1));
    (0..=STEPS)
        .map(|step| {
            let percent = step as f64 * 100.0 / STEPS as f64;
            let above = points.partition_point(|(p, _)| *p < percent).max(1);
            let ((p0, us0), (p1, us1)) = (points[above - 1], points[above]);
            let us = geometric(us0, us1, (percent - p0) / (p1 - p0));
            (us * 1000.0) as u64
        })
        .collect()
}

/// The number whose logarithm lies at `part` between those of `low` and `high`.
/// Halving by square roots, which every machine rounds alike; logarithms are
/// rounded as the library likes.
fn geometric(low: f64, high: f64, part: f64) -> f64 {
    let (mut low, mut high, mut part) = (low, high, part);
    for _ in 0..12 {
        let middle = (low * high).sqrt();
        part *= 2.0;
        if part >= 1.0 {
            low = middle;
            part -= 1.0;
        } else {
            high = middle;
        }
    }
    low + (high - low) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> File {
        serde_json::from_str(JSON).unwrap()
    }

    const DRAWS: u32 = 200_000;

    #[test]
    fn the_file_is_the_one_described() {
        let apps = apps();
        assert_eq!(apps.len(), 7);
        assert_eq!(apps.iter().map(|a| a.requests).sum::<u64>(), 1_370_389);
    }

    /// Every size the file lists, in both directions, within three standard
    /// deviations or 0.02 %, and as many beyond 128 KiB as it says.
    #[test]
    fn sizes_have_the_published_frequencies() {
        let file = published();
        for (seed, app) in apps().iter().enumerate() {
            let published = &file.apps[&app.name];
            for (direction, listed, larger) in [
                (
                    Direction::FromDevice,
                    &published.read_sizes_kib_pct,
                    published.pct_reads_gt128k,
                ),
                (
                    Direction::ToDevice,
                    &published.write_sizes_kib_pct,
                    published.pct_writes_gt128k,
                ),
            ] {
                let mut random = Random::new(seed as u64);
                let mut counts = vec![0_u32; PAGES_MAX as usize + 1];
                for _ in 0..DRAWS {
                    counts[app.pages(direction, &mut random) as usize] += 1;
                }
                let percent = |count: u32| f64::from(count) * 100.0 / f64::from(DRAWS);
                let near = |drawn: f64, told: f64, what: &str| {
                    let deviation = (told * (100.0 - told) / f64::from(DRAWS)).sqrt();
                    assert!(
                        (drawn - told).abs() < 4.0 * deviation + 0.02,
                        "{} {direction:?} {what}: {drawn} instead of {told}",
                        app.name
                    );
                };
                for &(kib, told) in listed {
                    near(
                        percent(counts[kib as usize / 4]),
                        told,
                        &format!("{kib} KiB"),
                    );
                }
                let beyond = counts[KNEE as usize + 1..].iter().sum();
                near(percent(beyond), larger, "beyond 128 KiB");
                assert_eq!(counts[0], 0);
                // The tail has every size, the frequent ones more often.
                let unlisted = |range: std::ops::RangeInclusive<usize>| -> u32 {
                    range
                        .filter(|p| !listed.iter().any(|(kib, _)| *kib as usize == 4 * p))
                        .map(|p| counts[p])
                        .sum()
                };
                let rest = 100.0 - listed.iter().map(|(_, p)| p).sum::<f64>();
                near(percent(unlisted(1..=128)), rest.max(0.0), "unlisted");
                assert!(unlisted(17..=24) >= unlisted(25..=32), "{}", app.name);
            }
        }
    }

    /// Over all applications, the classes of sizes published with the file
    /// (percent of reads and of writes, up to 4, 8, 16, ... 256 KiB and beyond),
    /// exactly as the tables draw them.
    #[test]
    fn the_classes_of_sizes_are_the_published_ones() {
        let file = published();
        let reads = [33.4, 7.2, 9.8, 6.8, 6.3, 35.4, 0.7, 0.55];
        let writes = [77.4, 6.3, 5.5, 4.2, 1.4, 1.1, 0.9, 3.25];
        for (read, told) in [(true, reads), (false, writes)] {
            let mut classes = [0.0; 8];
            for app in apps() {
                let part = file.apps[&app.name].read_fraction;
                let (sizes, part) = if read {
                    (&app.read_sizes, part)
                } else {
                    (&app.write_sizes, 1.0 - part)
                };
                let total = sizes.0.last().unwrap().1 as f64;
                let mut before = 0;
                for &(pages, sum) in &sizes.0 {
                    let class = pages.next_power_of_two().ilog2() as usize;
                    classes[class] += app.requests as f64 * part * (sum - before) as f64 / total;
                    before = sum;
                }
            }
            let all: f64 = classes.iter().sum();
            for (class, told) in classes.iter().zip(told) {
                let drawn = class * 100.0 / all;
                assert!((drawn - told).abs() < 0.3, "read {read}: {drawn} {told}");
            }
        }
    }

    #[test]
    fn the_bytes_beyond_128_kib_are_about_the_published_ones() {
        // The unlisted sizes beyond 128 KiB carry many bytes, and nobody knows
        // which they are: within five points of a hundred.
        let file: serde_json::Value = serde_json::from_str(JSON).unwrap();
        for app in apps() {
            let mut random = Random::new(1);
            let (mut beyond, mut all) = (0, 0);
            let mut last = None;
            for _ in 0..DRAWS {
                let direction = app.direction(last, &mut random);
                last = Some(direction);
                let pages = u64::from(app.pages(direction, &mut random));
                all += pages;
                beyond += if pages > u64::from(KNEE) { pages } else { 0 };
            }
            let told = file["apps"][&app.name]["pct_bytes_gt128k"]
                .as_f64()
                .unwrap();
            let drawn = beyond as f64 * 100.0 / all as f64;
            assert!((drawn - told).abs() < 5.0, "{}: {drawn} {told}", app.name);
        }
    }

    #[test]
    fn directions_come_in_the_published_runs() {
        let file = published();
        for (seed, app) in apps().iter().enumerate() {
            let published = &file.apps[&app.name];
            let mut random = Random::new(seed as u64);
            // After a read and after a write: all, and those that kept on.
            let (mut reads, mut kept_reads, mut writes, mut kept_writes) = (0, 0, 0, 0);
            let mut last = app.direction(None, &mut random);
            for _ in 0..DRAWS {
                let next = app.direction(Some(last), &mut random);
                let kept = u32::from(next == last);
                if last == Direction::FromDevice {
                    (reads, kept_reads) = (reads + 1, kept_reads + kept);
                } else {
                    (writes, kept_writes) = (writes + 1, kept_writes + kept);
                }
                last = next;
            }
            let near = |part: u32, all: u32, told: f64, tolerance: f64| {
                let drawn = f64::from(part) / f64::from(all);
                assert!(
                    (drawn - told).abs() < tolerance,
                    "{}: {drawn} {told}",
                    app.name
                );
            };
            near(kept_reads, reads, published.p_read_after_read, 0.01);
            near(kept_writes, writes, published.p_write_after_write, 0.01);
            // The chain's own share of reads; the file's probabilities are
            // rounded to three digits.
            near(reads, DRAWS, published.read_fraction, 0.03);
        }
    }

    #[test]
    fn gaps_have_the_published_percentiles() {
        let file = published();
        for (seed, app) in apps().iter().enumerate() {
            let mut random = Random::new(seed as u64);
            let mut gaps: Vec<u64> = (0..DRAWS).map(|_| app.gap_ns(&mut random)).collect();
            gaps.sort_unstable();
            for (&percent, &told) in &file.apps[&app.name].interarrival_us_percentiles {
                // The value lies between those of neighbouring percentiles: half
                // a point of a hundred to each side, a tenth at the ends.
                let slack = if (10..=90).contains(&percent) {
                    0.5
                } else {
                    0.15
                };
                let at = |p: f64| gaps[(p / 100.0 * f64::from(DRAWS)) as usize] as f64 / 1000.0;
                let (low, high) = (f64::from(percent) - slack, f64::from(percent) + slack);
                assert!(
                    at(low) <= told * 1.001 && told <= at(high) * 1.001,
                    "{} p{percent}: {} to {} instead of {told}",
                    app.name,
                    at(low),
                    at(high)
                );
            }
            assert!(gaps[0] >= 1000, "no shorter than 1 us");
            let longest = file.apps[&app.name].interarrival_us_percentiles[&99];
            assert!(gaps[gaps.len() - 1] as f64 <= longest * 1000.0);
        }
    }

    #[test]
    fn between_two_percentiles_the_logarithm_is_uniform() {
        for (part, told) in [(0.0, 10.0), (0.25, 31.62), (0.5, 100.0), (0.9, 630.96)] {
            let value = geometric(10.0, 1000.0, part);
            assert!((value / told - 1.0).abs() < 0.001, "{part}: {value}");
        }
    }
}
