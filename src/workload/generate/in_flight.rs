//! A device that always has work and completes its requests in any order.

use super::Random;
use crate::workload::Builder;

/// Keeps `depth` requests mapped until `requests` have been; `map` makes one.
/// One completes, any of those in flight, and another takes its place.
pub(super) fn keep(
    builder: &mut Builder,
    random: &mut Random,
    requests: u32,
    depth: u32,
    mut map: impl FnMut(&mut Builder, &mut Random) -> u32,
) {
    let depth = depth.max(1) as usize;
    let mut flying = Vec::with_capacity(depth);
    for _ in 0..requests {
        if flying.len() == depth {
            let done = random.below(depth as u64) as usize;
            builder.unmap(flying.swap_remove(done));
        }
        flying.push(map(builder, random));
    }
    // Those still in flight complete at the end, oldest first.
}
