//! Random histories against a model that knows every page, in spaces small
//! enough to fill completely.

use std::sync::Arc;

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs};
use proptest::prelude::*;

const PAGE: u64 = 4096;

#[derive(Clone, Debug)]
enum Step {
    Alloc {
        slot: usize,
        size: u64,
        align: Align,
        limit: u64,
    },
    Free {
        slot: usize,
        which: usize,
    },
    Export {
        which: usize,
    },
    FreeRaw {
        slot: usize,
        which: usize,
        wrong_size: bool,
    },
    FreeTwice,
    Reserve {
        first: u64,
        pages: u64,
    },
    Drain,
    Trim,
}

/// What a page is, as the model sees it. Cached is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Free,
    Live,
    Reserved,
}

struct World {
    domain: IovaDomain,
    first: u64,
    pages: Vec<Page>,
    live: Vec<IovaRange>,
    raw: Vec<(Iova, u64)>,
    freed_raw: Option<(Iova, u64)>,
    now: u64,
}

impl World {
    fn new(first: u64, last: u64, policy: Policy, cached: CachedSizes) -> Self {
        let slots = Arc::new(Slots::new(2, Fences::Symmetric).unwrap());
        let config = IovaConfig::new(
            Granule::K4,
            Iova(first * PAGE),
            Iova(last * PAGE + PAGE - 1),
        )
        .policy(policy)
        .cached(cached);
        World {
            domain: IovaDomain::new(config, slots).unwrap(),
            first,
            pages: vec![Page::Free; (last - first + 1) as usize],
            live: Vec::new(),
            raw: Vec::new(),
            freed_raw: None,
            now: 0,
        }
    }

    /// What a size occupies.
    fn footprint(&self, size: u64) -> u64 {
        if size <= self.domain.cached_up_to_pages() {
            size.next_power_of_two()
        } else {
            size
        }
    }

    fn mark(&mut self, first: u64, size: u64, from: Page, to: Page) {
        let at = (first - self.first) as usize;
        for page in &mut self.pages[at..at + size as usize] {
            assert_eq!(*page, from);
            *page = to;
        }
    }

    /// Whether a place exists, by looking at every one.
    fn has_place(&self, size: u64, align_lg2: u32, last: u64) -> bool {
        let mut run = 0;
        let end = (last + 1 - self.first).min(self.pages.len() as u64);
        (0..end).rev().any(|at| {
            run = if self.pages[at as usize] == Page::Free {
                run + 1
            } else {
                0
            };
            run >= size && (at + self.first).is_multiple_of(1 << align_lg2)
        })
    }

    fn with_slot<R>(
        &self,
        slot: usize,
        f: impl FnOnce(&IovaDomain, &mut dmabench_platform::SlotGuard<'_>) -> R,
    ) -> R {
        // SAFETY: one thread runs the test.
        let mut guard = unsafe { self.domain.slots().enter(Some(slot)).unwrap() };
        f(&self.domain, &mut guard)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Alloc {
                slot,
                size,
                align,
                limit,
            } => {
                let last = self.first + limit % self.pages.len() as u64;
                let req = AllocRequest {
                    limit: Iova(last * PAGE + PAGE - 1),
                    align,
                };
                let result = self.with_slot(slot, |d, s| d.alloc(s, size, &req));
                let footprint = self.footprint(size);
                let natural = footprint.next_power_of_two().trailing_zeros();
                let align_lg2 = match align {
                    Align::Natural => natural,
                    Align::None => 0,
                    Align::Lg2Pages(n) => u32::from(n),
                };
                // A cached class is aligned by itself.
                let align_lg2 = if size <= self.domain.cached_up_to_pages() {
                    align_lg2.max(natural)
                } else {
                    align_lg2
                };
                match result {
                    Ok(range) => {
                        let page = range.iova().0 / PAGE;
                        assert_eq!(range.size_pages(), size);
                        assert_eq!(page % (1 << align_lg2), 0, "A3: aligned as promised");
                        assert!(range.last() <= req.limit, "A3: within the limit");
                        self.mark(page, footprint, Page::Free, Page::Live);
                        self.live.push(range);
                    }
                    Err(AllocError::NoSpace) => {
                        assert!(
                            !self.has_place(footprint, align_lg2, last)
                                || size > last - self.first + 1,
                            "refused {size} pages, align {align:?}, last {last}"
                        );
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Free { slot, which } => {
                if !self.live.is_empty() {
                    let range = self.live.swap_remove(which % self.live.len());
                    let footprint = self.footprint(range.size_pages());
                    self.mark(range.iova().0 / PAGE, footprint, Page::Live, Page::Free);
                    self.with_slot(slot, |d, s| d.free(s, range)).unwrap();
                }
            }
            Step::Export { which } => {
                if !self.live.is_empty() {
                    let range = self.live.swap_remove(which % self.live.len());
                    self.raw.push(self.domain.into_raw(range).unwrap());
                }
            }
            Step::FreeRaw {
                slot,
                which,
                wrong_size,
            } => {
                if !self.raw.is_empty() {
                    let at = which % self.raw.len();
                    let (iova, size) = self.raw[at];
                    if wrong_size {
                        let result = self.with_slot(slot, |d, s| d.free_raw(s, iova, size + 1));
                        assert_eq!(
                            result,
                            Err(RawError::WrongSize {
                                exported_pages: size
                            })
                        );
                    } else {
                        self.raw.swap_remove(at);
                        self.with_slot(slot, |d, s| d.free_raw(s, iova, size))
                            .unwrap();
                        self.mark(iova.0 / PAGE, self.footprint(size), Page::Live, Page::Free);
                        self.freed_raw = Some((iova, size));
                    }
                }
            }
            Step::FreeTwice => {
                if let Some((iova, size)) = self.freed_raw
                    && !self.raw.iter().any(|raw| raw.0 == iova)
                {
                    let result = self.with_slot(0, |d, s| d.free_raw(s, iova, size));
                    let reserved =
                        self.pages[(iova.0 / PAGE - self.first) as usize] == Page::Reserved;
                    let error = if reserved {
                        RawError::Reserved
                    } else {
                        RawError::NotExported
                    };
                    assert_eq!(result, Err(error));
                }
            }
            Step::Reserve { first, pages } => {
                let at = first % self.pages.len() as u64;
                let end = (at + pages).min(self.pages.len() as u64);
                let (low, high) = (self.first + at, self.first + end - 1);
                let result = self
                    .domain
                    .reserve(Iova(low * PAGE), Iova(high * PAGE + PAGE - 1));
                let inside = &self.pages[at as usize..end as usize];
                match result {
                    Ok(()) => self.mark(low, end - at, Page::Free, Page::Reserved),
                    Err(ReserveError::Busy) => assert!(inside.contains(&Page::Live)),
                    Err(ReserveError::Overlap { .. }) => {
                        assert!(inside.contains(&Page::Reserved));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Drain => self.domain.drain(),
            Step::Trim => {
                self.now += 100_000_000;
                self.domain.trim(TimeNs(self.now));
            }
        }
        let count = |what| self.pages.iter().filter(|&&page| page == what).count() as u64 * PAGE;
        let stats = self.domain.stats();
        assert_eq!(stats.live_bytes, count(Page::Live), "A10");
        assert_eq!(stats.reserved_bytes, count(Page::Reserved), "A10");
        assert_eq!(
            stats.cached_bytes + stats.free_bytes,
            count(Page::Free),
            "A10"
        );
        assert_eq!(stats.exported_ranges, self.raw.len() as u64);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![
        4 => 1u64..5,
        2 => (0u32..8).prop_map(|n| 1 << n),
        1 => 1u64..200,
    ];
    let align = prop_oneof![
        3 => Just(Align::Natural),
        2 => Just(Align::None),
        1 => (0u8..9).prop_map(Align::Lg2Pages),
    ];
    let limit = prop_oneof![2 => Just(u64::MAX - 1), 1 => 0u64..5000];
    let slot = 0usize..3;
    let step = prop_oneof![
        12 => (slot.clone(), size, align, limit)
            .prop_map(|(slot, size, align, limit)| Step::Alloc { slot, size, align, limit }),
        8 => (slot.clone(), any::<usize>())
            .prop_map(|(slot, which)| Step::Free { slot, which }),
        1 => any::<usize>().prop_map(|which| Step::Export { which }),
        2 => (slot, any::<usize>(), any::<bool>())
            .prop_map(|(slot, which, wrong_size)| Step::FreeRaw { slot, which, wrong_size }),
        1 => Just(Step::FreeTwice),
        1 => (0u64..5000, 1u64..20).prop_map(|(first, pages)| Step::Reserve { first, pages }),
        1 => Just(Step::Drain),
        1 => Just(Step::Trim),
    ];
    prop::collection::vec(step, 1..400)
}

fn space() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![
        (0u64..9, 1u64..80),
        (0u64..70, 60u64..200),
        (4000u64..4100, 10u64..300),
        (0u64..5000, 4000u64..5000),
    ]
    .prop_map(|(first, pages)| (first, first + pages - 1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn a3_a10_every_history_agrees_with_the_model(
        (first, last) in space(),
        policy in prop_oneof![
            Just(Policy::HighestFirst), Just(Policy::LowestFirst), Just(Policy::BestFit)
        ],
        cached in prop_oneof![
            Just(CachedSizes::None),
            (0u8..9).prop_map(CachedSizes::UpToLg2Pages)
        ],
        steps in steps(),
    ) {
        let mut world = World::new(first, last, policy, cached);
        for step in steps {
            world.step(step);
        }
        let live: Vec<IovaRange> = world.live.drain(..).collect();
        for range in live {
            world.with_slot(2, |d, s| d.free(s, range)).unwrap();
        }
        for (iova, size) in world.raw.clone() {
            world.with_slot(1, |d, s| d.free_raw(s, iova, size)).unwrap();
        }
        prop_assert_eq!(world.domain.stats().live_bytes, 0);
    }
}

/// The model itself must see a wrong answer.
#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn the_model_sees_a_page_with_two_owners() {
    let mut world = World::new(0, 9, Policy::HighestFirst, CachedSizes::None);
    world.mark(3, 2, Page::Free, Page::Live);
    world.mark(4, 1, Page::Free, Page::Live);
}
