//! What the command line changes about a generated workload, and how a
//! generator refuses what it has no use for.

use std::{borrow::Cow, fmt, str::FromStr};

use super::Random;
use crate::size;

/// Bytes of a page: sizes are whole pages, as the page cache and `O_DIRECT`
/// buffers are.
pub(super) const PAGE: u64 = 4096;

/// Pages of the largest request: 512 KiB, an SD host's `max_req_size`.
pub const PAGES_MAX: u32 = 128;

/// Options of a generated workload; `None` leaves the generator's own value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Requests of one pass.
    pub requests: Option<u32>,
    /// Requests mapped at once.
    pub depth: Option<u32>,
    /// Sizes of the requests.
    pub sizes: Option<SizeMix>,
    /// Threads, or pairs of them, that share the work.
    pub players: Option<u32>,
}

impl Shape {
    /// Refuses `--depth`.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it was given.
    pub(super) fn no_depth(
        &self,
        generator: &'static str,
        reason: &'static str,
    ) -> Result<(), Refused> {
        refuse_if(self.depth.is_some(), generator, "--depth", reason)
    }

    /// Refuses `--sizes`.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it was given.
    pub(super) fn no_sizes(
        &self,
        generator: &'static str,
        reason: &'static str,
    ) -> Result<(), Refused> {
        refuse_if(self.sizes.is_some(), generator, "--sizes", reason)
    }
}

pub(super) fn refuse_if(
    given: bool,
    generator: &'static str,
    option: &'static str,
    reason: &'static str,
) -> Result<(), Refused> {
    if given {
        return Err(Refused {
            generator,
            option,
            reason,
        });
    }
    Ok(())
}

/// An option that does not apply to a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{option} does not apply to {generator}: {reason}; choose other workloads with --workload")]
pub struct Refused {
    /// The generator's name.
    pub generator: &'static str,
    /// The option as the command line spells it.
    pub option: &'static str,
    /// Why not.
    pub reason: &'static str,
}

/// Request sizes and how often each is drawn: `4K:70,64K:20,512K:10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeMix {
    /// Pages and weight, as given.
    parts: Cow<'static, [(u32, u32)]>,
    total: u64,
}

impl SizeMix {
    /// One page each time.
    pub const K4: SizeMix = Self::fixed(&[(1, 1)], 1);
    /// 512 KiB each time, an SD host's largest.
    pub const K512: SizeMix = Self::fixed(&[(PAGES_MAX, 1)], 1);

    /// Pages and weight of each size; `total` is the sum of the weights.
    pub(super) const fn fixed(parts: &'static [(u32, u32)], total: u64) -> Self {
        SizeMix {
            parts: Cow::Borrowed(parts),
            total,
        }
    }

    /// Pages of the largest size.
    pub fn largest(&self) -> u32 {
        self.parts
            .iter()
            .map(|(pages, _)| *pages)
            .max()
            .unwrap_or(1)
    }

    /// Draws a size, in pages. A single size takes no random number.
    pub fn draw(&self, random: &mut Random) -> u32 {
        let [(only, _)] = self.parts[..] else {
            let mut at = random.below(self.total);
            for &(pages, weight) in self.parts.iter() {
                if at < u64::from(weight) {
                    return pages;
                }
                at -= u64::from(weight);
            }
            return self.parts[0].0;
        };
        only
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (pages, weight)) in self.parts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}K:{weight}", u64::from(*pages) * PAGE / 1024)?;
        }
        Ok(())
    }
}

impl FromStr for SizeMix {
    type Err = String;

    /// Reads `SIZE[:WEIGHT],...`; sizes in bytes, or with K or M.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut total: u64 = 0;
        for part in text.split(',') {
            let (size, weight) = size::split_weight(part);
            let bytes = size::bytes(size).ok_or_else(|| {
                format!("`{size}` is no size: give bytes, or a number with K or M")
            })?;
            let pages = bytes / PAGE;
            if bytes % PAGE != 0 || !(1..=u64::from(PAGES_MAX)).contains(&pages) {
                return Err(format!(
                    "`{size}` is not a number of whole pages from 4K to 512K, the most an SD host takes at once"
                ));
            }
            let weight = size::weight(weight).ok_or_else(|| {
                format!("`{weight}` is no weight: give a number from 1 to 1000000")
            })?;
            total += u64::from(weight);
            parts.push((pages as u32, weight));
        }
        Ok(SizeMix {
            parts: parts.into(),
            total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_drawn_and_printed() {
        let mix: SizeMix = "4K:70,65536:20,512k:10".parse().unwrap();
        assert_eq!(mix.to_string(), "4K:70,64K:20,512K:10");
        let mut random = Random::new(2);
        let mut counts = [0_u32; 3];
        for _ in 0..10_000 {
            let index = match mix.draw(&mut random) {
                1 => 0,
                16 => 1,
                128 => 2,
                other => panic!("{other}"),
            };
            counts[index] += 1;
        }
        // Three standard deviations are 137, 120 and 90.
        assert!(counts[0].abs_diff(7000) < 137 && counts[1].abs_diff(2000) < 120);
        assert_eq!("8K".parse::<SizeMix>().unwrap().draw(&mut random), 2);
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for bad in [
            "",
            "4",
            "4K,",
            "3K",
            "0",
            "1M",
            "4K:0",
            "4K:x",
            "4K:-1",
            "K",
            "4K:1:2",
            "99999999999999999999K",
            "18446744073709551615M",
            "4K:4294967296",
            "é",
            "4é",
        ] {
            assert!(bad.parse::<SizeMix>().is_err(), "{bad}");
        }
    }
}
