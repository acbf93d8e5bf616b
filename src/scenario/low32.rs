//! A 32-bit space that is nearly full: churn, and when it first refuses.

use dmabench_iova::{Align, AllocError, AllocRequest, CachedSizes, IovaConfig, IovaRange, Policy};
use dmabench_platform::Iova;

use super::{ANYWHERE, Random, ScenarioOptions, ScenarioRow, Times, domain, nodes};

pub(super) const PUBLISHED: &str = "Linux 7.2's own code built in user space, churn of powers of \
     two: p99 111 us; first refusal at 67 % occupancy";

const LAST: u64 = u32::MAX as u64;
const PAGES: u64 = 1 << 20;

pub(super) fn run(options: ScenarioOptions) -> Option<Vec<ScenarioRow>> {
    let rounds = if options.quick { 500 } else { 50_000 };
    let churned = [50, 80, 90, 95]
        .into_iter()
        .map(|percent| churn(percent, rounds, options.seed));
    let filled = [
        (
            "powers of two, aligned, fill",
            Sizes::PowersOfTwo,
            Align::Natural,
            Policy::HighestFirst,
            0,
        ),
        (
            "1 to 512 pages, aligned, fill",
            Sizes::Uniform,
            Align::Natural,
            Policy::HighestFirst,
            0,
        ),
        (
            "1 to 512 pages, unaligned, best fit, churn at 90 % before",
            Sizes::Uniform,
            Align::None,
            Policy::BestFit,
            rounds,
        ),
    ]
    .into_iter()
    // The best fit of a whole space takes seconds without optimisation.
    .take(if options.quick { 2 } else { 3 })
    .map(|(case, sizes, align, policy, churn)| {
        first_refusal(case, sizes, align, policy, churn, options.seed)
    });
    churned.chain(filled).collect()
}

#[derive(Clone, Copy)]
enum Sizes {
    PowersOfTwo,
    Uniform,
}

impl Sizes {
    fn next(self, random: &mut Random) -> u64 {
        match self {
            Sizes::PowersOfTwo => 1 << random.below(10),
            Sizes::Uniform => 1 + random.below(512),
        }
    }
}

/// Allocates and frees at random around an occupancy.
fn churn(percent: u64, rounds: u64, seed: u64) -> Option<ScenarioRow> {
    let domain = domain(1, LAST, |config: IovaConfig| config)?;
    let mut random = Random::new(seed);
    let mut live: Vec<IovaRange> = Vec::new();
    let mut pages = 0;
    let mut times = Times::default();
    let mut refused = 0u64;
    let before = domain.stats();
    {
        let mut slot = domain.slots().enter_fallback();
        let mut left = rounds;
        while left > 0 {
            let filled = pages * 100 >= PAGES * percent;
            if filled {
                let at = random.below(live.len() as u64) as usize;
                let range = live.swap_remove(at);
                pages -= range.size_pages();
                domain.free(&mut slot, range).ok()?;
            }
            let size = Sizes::PowersOfTwo.next(&mut random);
            let result = if filled || left < rounds {
                left -= 1;
                times.time(|| domain.alloc(&mut slot, size, &ANYWHERE))
            } else {
                domain.alloc(&mut slot, size, &ANYWHERE)
            };
            match result {
                Ok(range) => {
                    pages += size;
                    live.push(range);
                }
                Err(AllocError::NoSpace) => {
                    refused += 1;
                    // Room for the next; the share stays about the same.
                    let at = random.below(live.len() as u64) as usize;
                    let range = live.swap_remove(at);
                    pages -= range.size_pages();
                    domain.free(&mut slot, range).ok()?;
                }
                Err(_) => return None,
            }
        }
    }
    let after = domain.stats();
    Some(ScenarioRow {
        case: format!("powers of two, 1 to 512 pages, {percent} % full"),
        operations: rounds,
        ns: times.figures(),
        nodes: nodes(&before, &after),
        note: format!(
            "{refused} refused, {:.1} % full at the end",
            pages as f64 * 100.0 / PAGES as f64
        ),
    })
}

/// Fills the space until a request is refused.
fn first_refusal(
    case: &str,
    sizes: Sizes,
    align: Align,
    policy: Policy,
    churn: u64,
    seed: u64,
) -> Option<ScenarioRow> {
    let domain = domain(1, LAST, |config| {
        config.policy(policy).cached(CachedSizes::None)
    })?;
    let request = AllocRequest {
        limit: Iova(LAST),
        align,
    };
    let mut random = Random::new(seed);
    let mut live: Vec<IovaRange> = Vec::new();
    let mut pages = 0;
    let mut times = Times::default();
    let before = domain.stats();
    {
        let mut slot = domain.slots().enter_fallback();
        let mut left = churn;
        loop {
            if left > 0 && pages * 10 >= PAGES * 9 {
                left -= 1;
                let at = random.below(live.len() as u64) as usize;
                let range = live.swap_remove(at);
                pages -= range.size_pages();
                domain.free(&mut slot, range).ok()?;
                continue;
            }
            let size = sizes.next(&mut random);
            match times.time(|| domain.alloc(&mut slot, size, &request)) {
                Ok(range) => {
                    pages += size;
                    live.push(range);
                }
                Err(_) => break,
            }
        }
    }
    let after = domain.stats();
    Some(ScenarioRow {
        case: case.to_owned(),
        operations: times.0.len() as u64,
        ns: times.figures(),
        nodes: nodes(&before, &after),
        note: format!(
            "first refusal at {:.1} % full",
            pages as f64 * 100.0 / PAGES as f64
        ),
    })
}
