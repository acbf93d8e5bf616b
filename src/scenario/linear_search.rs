//! Peng Zhang's recipe (linux-iommu, 2022-09-22), and the same beyond the caches.

use dmabench_iova::{CachedSizes, IovaRange};

use super::{ANYWHERE, Random, ScenarioOptions, ScenarioRow, Times, domain, nodes};

pub(super) const PUBLISHED: &str = "Peng Zhang, 2022-09-22: Linux 3164 ns on average, 494 of 1000 \
     allocations slow, worst 4 to 8 ms, about 100,000 nodes visited by a slow one; with his \
     augmented tree (not merged) 661 ns, worst 4 to 8 us";

const LIVE: usize = 300_000;

pub(super) fn run(options: ScenarioOptions) -> Option<Vec<ScenarioRow>> {
    let scale = if options.quick { 100 } else { 1 };
    let cases = [
        ("1 page, caches off", 1, CachedSizes::None),
        ("1 page", 1, CachedSizes::Auto),
        ("64 pages, caches off", 64, CachedSizes::None),
        ("1024 pages, beyond the caches", 1024, CachedSizes::Auto),
    ];
    let row = |(case, size, cached)| {
        one(
            case,
            size,
            cached,
            LIVE / scale,
            10_000 / scale,
            options.seed,
        )
    };
    cases.into_iter().map(row).collect()
}

fn one(
    case: &str,
    size: u64,
    cached: CachedSizes,
    live_count: usize,
    rounds: usize,
    seed: u64,
) -> Option<ScenarioRow> {
    let domain = domain(1, (1 << 48) - 1, |config| config.cached(cached))?;
    let mut random = Random::new(seed);
    let mut live: Vec<IovaRange> = Vec::with_capacity(live_count);
    let mut times = Times::default();
    {
        let mut slot = domain.slots().enter_fallback();
        for _ in 0..live_count {
            live.push(domain.alloc(&mut slot, size, &ANYWHERE).ok()?);
        }
    }
    let before = domain.stats();
    {
        let mut slot = domain.slots().enter_fallback();
        for _ in 0..rounds {
            let at = random.below(live.len() as u64) as usize;
            domain.free(&mut slot, live.swap_remove(at)).ok()?;
            live.push(
                times
                    .time(|| domain.alloc(&mut slot, size, &ANYWHERE))
                    .ok()?,
            );
        }
    }
    let after = domain.stats();
    let memory = after.memory_bytes as f64 / live_count as f64;
    Some(ScenarioRow {
        case: format!("{case}, {live_count} live"),
        operations: rounds as u64,
        ns: times.figures(),
        nodes: nodes(&before, &after),
        note: format!("{memory:.2} bytes per live range"),
    })
}
