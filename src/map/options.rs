//! The options of `map`: those of Linux's `dma_map_benchmark` by their letters,
//! with its defaults, limits and order of checks, and what its users asked for.

use std::fs;

use clap::Args;

use super::MapError;
use crate::size;

/// `DMA_MAP_MAX_THREADS` of Linux.
const THREADS_MAX: i64 = 1024;
/// `DMA_MAP_MAX_SECONDS` of Linux.
const SECONDS_MAX: i64 = 300;
/// `DMA_MAP_MAX_TRANS_DELAY` of Linux: 10 ms.
const TRANSFER_NS_MAX: i64 = 10_000_000;
/// Pages of one mapping, in Linux as here.
const PAGES_MAX: i64 = 1024;
/// Mappings in flight.
const DEPTH_MAX: u32 = 1024;

const PAGE: u64 = 4096;

/// Options of `map`. Numbers are signed where Linux's are, so that the refusals
/// are the same.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MapArgs {
    /// Threads on the one address space, 1 to 1024
    #[arg(
        short = 't',
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    pub threads: i64,

    /// Seconds to run in each mode, 1 to 300
    #[arg(
        short = 's',
        long,
        value_name = "N",
        default_value_t = 20,
        allow_negative_numbers = true
    )]
    pub seconds: i64,

    /// NUMA node whose processors the threads run on; -1: any
    #[arg(short = 'n', long, value_name = "NODE", default_value_t = -1, allow_negative_numbers = true)]
    pub node: i64,

    /// Address bits of the device (its DMA mask), 20 to 64
    #[arg(
        short = 'b',
        long,
        value_name = "BITS",
        default_value_t = 32,
        allow_negative_numbers = true
    )]
    pub bits: i64,

    /// 0: both ways, 1: to the device, 2: from the device
    #[arg(
        short = 'd',
        long,
        value_name = "DIR",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub direction: i64,

    /// Nanoseconds that each mapping lives at least, 0 to 10000000
    #[arg(
        short = 'x',
        long,
        value_name = "NS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub transfer_ns: i64,

    /// Pages of 4 KiB of each mapping, 1 to 1024; with -m 1 the entries of the list
    #[arg(
        short = 'g',
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    pub pages: i64,

    /// 0: one buffer, 1: a scatter list of single pages
    #[arg(
        short = 'm',
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub map_mode: i64,

    /// Mappings in flight per thread, unmapped oldest first; with --pairs, those
    /// that wait for the unmapper
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: u32,

    /// Pairs of threads: one maps, the other unmaps
    #[arg(long, value_name = "N", conflicts_with = "threads", value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX / 2))]
    pub pairs: Option<u32>,

    /// Mix of sizes instead of -g, each with its weight: 4k:70,64k:20,512k:10
    #[arg(long, value_name = "SIZE[:WEIGHT],...", conflicts_with = "pages", value_delimiter = ',', value_parser = size)]
    pub sizes: Vec<Size>,

    /// Stop each thread after so many requests, if that is before -s
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Milliseconds of an interval of --hdr-log
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=300_000))]
    pub hdr_interval_ms: u64,
}

/// One size of a mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of a request.
    pub bytes: u64,
    /// How often, against the other sizes.
    pub weight: u32,
}

fn size(text: &str) -> Result<Size, String> {
    let wants = || {
        format!(
            "give a size from 1 to {}m and a weight from 1 to 1000000, as in 64k:20",
            (PAGES_MAX as u64 * PAGE) >> 20
        )
    };
    let (bytes, weight) = size::split_weight(text);
    let bytes = size::bytes(bytes)
        .filter(|n| (1..=PAGES_MAX as u64 * PAGE).contains(n))
        .ok_or_else(wants)?;
    let weight = size::weight(weight).ok_or_else(wants)?;
    Ok(Size { bytes, weight })
}

impl MapArgs {
    /// Checks the options of Linux's tool as it does, in its order.
    pub(super) fn check(&self) -> Result<(), MapError> {
        let within = |option, what, value: i64, from: i64, to: i64| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(MapError::Option {
                    option,
                    what,
                    value,
                    from,
                    to,
                })
            }
        };
        within("-m", "the kind of mapping", self.map_mode, 0, 1)?;
        within("-t", "the number of threads", self.threads, 1, THREADS_MAX)?;
        within("-s", "the number of seconds", self.seconds, 1, SECONDS_MAX)?;
        within(
            "-x",
            "the time of a transfer",
            self.transfer_ns,
            0,
            TRANSFER_NS_MAX,
        )?;
        within("-b", "the number of address bits", self.bits, 20, 64)?;
        within("-d", "the direction", self.direction, 0, 2)?;
        within("-g", "the number of pages", self.pages, 1, PAGES_MAX)
    }

    /// The sizes of the requests: the mix, or the one of `-g`.
    pub(super) fn mix(&self) -> Vec<Size> {
        if self.sizes.is_empty() {
            vec![Size {
                bytes: self.pages as u64 * PAGE,
                weight: 1,
            }]
        } else {
            self.sizes.clone()
        }
    }

    /// Whether each mapping is a scatter list.
    pub(super) fn lists(&self) -> bool {
        self.map_mode == 1
    }

    /// Threads, however they are asked for.
    pub(super) fn threads_all(&self) -> u64 {
        self.pairs
            .map_or(self.threads as u64, |pairs| 2 * u64::from(pairs))
    }

    /// The processors of the node asked for; `None`: any.
    pub(super) fn cpus(&self) -> Result<Option<Vec<usize>>, MapError> {
        if self.node == -1 {
            return Ok(None);
        }
        let all = "/sys/devices/system/node";
        let Ok(online) = fs::read_to_string(format!("{all}/online")) else {
            return Err(MapError::NoNuma);
        };
        let online = list(&online).unwrap_or_default();
        let node = usize::try_from(self.node)
            .ok()
            .filter(|n| online.contains(n));
        let cpus = node
            .and_then(|n| fs::read_to_string(format!("{all}/node{n}/cpulist")).ok())
            .and_then(|text| list(&text))
            .filter(|cpus| !cpus.is_empty());
        cpus.map(Some).ok_or(MapError::Node {
            node: self.node,
            online,
        })
    }
}

/// The numbers of a kernel list such as `0-3,8`.
fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > 1 << 20 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_weights() {
        let of = |text| size(text).map(|s| (s.bytes, s.weight));
        assert_eq!(of("4k"), Ok((4096, 1)));
        assert_eq!(of("512K:10"), Ok((512 << 10, 10)));
        assert_eq!(of("4m:1"), Ok((4 << 20, 1)));
        assert_eq!(of("513"), Ok((513, 1)));
        for bad in [
            "",
            "k",
            "0",
            "5m",
            "4k:",
            "4k:0",
            "4k:x",
            "-1",
            "99999999999999999999k",
            "ä",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kernel_lists_are_read() {
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("\n"), Some(vec![]));
        assert_eq!(list("3-1"), None);
        assert_eq!(list("0-99999999"), None);
        assert_eq!(list("x"), None);
    }
}
