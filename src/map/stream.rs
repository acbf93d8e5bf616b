//! The requests of one thread.

use dmabench_platform::PhysAddr;

use super::options::{MapArgs, Size};
use crate::{
    report::Source,
    workload::{Builder, Direction, Segment, Workload, generate::Random},
};

const PAGE: u64 = 4096;
/// Where the buffers lie: anywhere in 1 GiB from 2 GiB on.
const RAM_START: u64 = 0x8000_0000;
const RAM_PAGES: u64 = (1 << 30) / PAGE;

/// Requests of one pass, at least: the few that are still in flight at its end
/// must not matter.
const REQUESTS: u64 = 2048;

/// Entries of all lists of one pass, about at most: they take 16 bytes each.
const SEGMENTS: u64 = 1 << 20;

/// One pass of requests: `depth` in flight, unmapped oldest first. The seed
/// decides sizes and places.
pub(super) fn stream(args: &MapArgs, depth: u32, seed: u64) -> Workload {
    let mix = args.mix();
    let direction = match args.direction {
        1 => Direction::ToDevice,
        2 => Direction::FromDevice,
        _ => Direction::Bidirectional,
    };
    let longest = if args.lists() {
        mix.iter()
            .map(|s| s.bytes.div_ceil(PAGE))
            .max()
            .unwrap_or(1)
    } else {
        1
    };
    let depth = u64::from(depth);
    let requests = REQUESTS
        .max(8 * depth)
        .min(SEGMENTS / longest)
        .max(2 * depth);

    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    let mut in_flight = std::collections::VecDeque::new();
    for _ in 0..requests {
        let bytes = pick(&mix, &mut random);
        let request = if args.lists() {
            let pages = (0..bytes.div_ceil(PAGE)).map(|page| Segment {
                phys: PhysAddr(RAM_START + random.below(RAM_PAGES) * PAGE),
                len_bytes: (bytes - page * PAGE).min(PAGE),
            });
            builder.map(0, direction, pages)
        } else {
            let buffer = Segment {
                phys: PhysAddr(RAM_START + random.below(RAM_PAGES) * PAGE),
                len_bytes: bytes,
            };
            builder.map(0, direction, [buffer])
        };
        in_flight.push_back(request);
        if in_flight.len() as u64 >= depth
            && let Some(oldest) = in_flight.pop_front()
        {
            builder.unmap(oldest);
        }
    }
    let source = Source::Generated {
        generator: format!("map depth={depth} requests={requests} seed={seed}"),
    };
    builder.finish(
        "map".to_owned(),
        "map and unmap as Linux's dma_map_benchmark".to_owned(),
        source,
        None,
        vec!["map".to_owned()],
    )
}

/// One size of the mix, by weight.
fn pick(mix: &[Size], random: &mut Random) -> u64 {
    let sum: u64 = mix.iter().map(|s| u64::from(s.weight)).sum();
    let mut at = random.below(sum);
    for size in mix {
        match at.checked_sub(u64::from(size.weight)) {
            Some(rest) => at = rest,
            None => return size.bytes,
        }
    }
    mix[mix.len() - 1].bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MapArgs,
    }

    fn args(line: &str) -> MapArgs {
        Line::parse_from(std::iter::once("map").chain(line.split_whitespace())).args
    }

    #[test]
    fn depth_pages_and_lists_are_as_asked_for() {
        let workload = stream(&args("-g 32 -m 1 -d 2"), 4, 1);
        assert_eq!(workload.live_max, 4);
        assert_eq!(workload.requests().len(), 2048);
        let request = &workload.requests()[7];
        assert_eq!(workload.segments(request).len(), 32);
        assert_eq!(request.direction, Direction::FromDevice);
        let single = stream(&args("-g 32"), 1, 1);
        assert_eq!((single.live_max, single.segments_max()), (1, 1));
        assert_eq!(single.requests()[0].bytes, 32 * PAGE);
        assert_eq!(single.requests()[0].direction, Direction::Bidirectional);
    }

    #[test]
    fn the_mix_follows_its_weights() {
        let workload = stream(&args("--sizes 4k:70,64k:20,513:10 -m 1"), 1, 3);
        let sizes = workload.sizes();
        let share = |bytes| {
            let size = sizes.iter().find(|s| s.bytes == bytes).unwrap();
            size.requests as f64 / workload.requests().len() as f64
        };
        assert!((share(4096) - 0.7).abs() < 0.05);
        assert!((share(64 << 10) - 0.2).abs() < 0.05);
        assert!((share(513) - 0.1).abs() < 0.05);
    }

    #[test]
    fn long_lists_do_not_fill_the_memory() {
        let workload = stream(&args("-g 1024 -m 1"), 64, 1);
        assert_eq!(workload.requests().len(), 1024);
        assert_eq!(workload.live_max, 64);
    }
}
