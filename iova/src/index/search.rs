//! Where a range could lie.

use super::{
    Index,
    bits::{aligned_runs, at_least, below, multiples, span},
    node::{Node, child_lg2, child_of},
};
use crate::config::Policy;

/// Where a range may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// At least 1.
    pub(crate) size: u64,
    /// Below 52.
    pub(crate) align_lg2: u32,
    /// The last page that may be used.
    pub(crate) last: u64,
    pub(crate) policy: Policy,
}

/// Free runs looked at before a search settles for a place that is certain.
/// More finds tighter places and costs more; `runs_tried_*` in the docs.
const TRIES: u32 = 4;
/// As above for `Policy::BestFit`, which is for small spaces.
const TRIES_BEST_FIT: u32 = 256;

/// What one walk down looks for: an aligned free block of `1 << order` pages
/// that starts at a multiple of `1 << align_lg2` (at least `order`) and lies in
/// `from..end`.
#[derive(Clone, Copy)]
struct Wanted {
    order: u32,
    align_lg2: u32,
    from: u64,
    end: u64,
    policy: Policy,
}

impl Wanted {
    /// One bit of the set `bits`, which is not empty.
    #[inline]
    fn pick(&self, bits: u64) -> u32 {
        if self.policy == Policy::HighestFirst {
            bits.ilog2()
        } else {
            bits.trailing_zeros()
        }
    }

    /// Of aligned positions `bits`, units of `1 << lg2` pages from `base` on,
    /// those at multiples of the alignment.
    #[inline]
    fn aligned(&self, bits: u64, lg2: u32, base: u64) -> u64 {
        let units_lg2 = self.align_lg2.saturating_sub(lg2);
        if units_lg2 > 6 && base & below(self.align_lg2) != 0 {
            return 0;
        }
        bits & multiples(units_lg2)
    }

    /// The children, `1 << lg2` pages each from `base` on, that overlap
    /// `from..end`.
    #[inline]
    fn overlapped(&self, lg2: u32, base: u64) -> u64 {
        let low = (self.from.saturating_sub(base) >> lg2).min(64) as u32;
        let high = (((self.end - base - 1) >> lg2) + 1).min(64) as u32;
        span(low.min(high), high)
    }

    /// Those that lie inside.
    #[inline]
    fn inside(&self, lg2: u32, base: u64) -> u64 {
        let low = ((self.from.saturating_sub(base) + below(lg2)) >> lg2).min(64) as u32;
        let high = ((self.end - base) >> lg2).min(64) as u32;
        span(low.min(high), high)
    }
}

/// Of `bits`, where each stands for a block of `1 << order` set units in `set`,
/// those whose surroundings are the smallest.
fn tightest_runs(set: u64, order: u32, bits: u64) -> u64 {
    for larger in order + 1..=6 {
        let mut covered = aligned_runs(set, larger);
        for step in 0..larger {
            covered |= covered << (1 << step);
        }
        if bits & !covered != 0 {
            return bits & !covered;
        }
    }
    bits
}

impl Index {
    /// The first page of a free range as asked for.
    pub(super) fn find(&mut self, place: Place) -> Option<u64> {
        if let Some(refused) = self.refused
            && place.size >= refused.size
            && place.align_lg2 >= refused.align_lg2
            && place.last <= refused.last
        {
            core::hint::cold_path();
            return None;
        }
        let mut visited = 0;
        let end = place.last.saturating_add(1).min(self.end());
        let order = ceil_lg2(place.size);
        let found = if place.size.is_power_of_two() && place.align_lg2 == order {
            // Any block of this order will do, and no other place.
            self.block(
                Wanted {
                    order,
                    align_lg2: order,
                    from: 0,
                    end,
                    policy: place.policy,
                },
                &mut visited,
            )
        } else {
            self.find_among_runs(place, end, &mut visited)
        };
        self.effort.searches += 1;
        self.effort.nodes_visited += visited;
        self.effort.nodes_visited_max = self.effort.nodes_visited_max.max(visited);
        if found.is_none() {
            self.refused = Some(place);
        }
        found
    }

    /// Any size, any alignment: looks at free runs, first a few, then at blocks
    /// large enough for certain, then at all runs that are left.
    fn find_among_runs(&self, place: Place, end: u64, visited: &mut u64) -> Option<u64> {
        let Place {
            size,
            align_lg2,
            policy,
            ..
        } = place;
        let floor = size.ilog2();
        // Any place that fits contains a free block of this order.
        let order = if align_lg2 >= floor {
            floor
        } else {
            (size + (1 << align_lg2)).ilog2() - 1
        };
        let block_lg2 = order.max(if align_lg2 >= floor { align_lg2 } else { 0 });
        // Runs are gone through in order of address.
        let order_of_runs = match policy {
            Policy::HighestFirst => Policy::HighestFirst,
            _ => Policy::LowestFirst,
        };
        let mut wanted = Wanted {
            order,
            align_lg2: block_lg2,
            from: 0,
            end,
            policy: order_of_runs,
        };
        let tries = if policy == Policy::BestFit {
            TRIES_BEST_FIT
        } else {
            TRIES
        };
        if let Some(start) = self.some_run(place, &mut wanted, end, tries, visited) {
            return Some(start);
        }
        // A block of this order has room for certain.
        let certain = ceil_lg2(size).max(align_lg2);
        let block = Wanted {
            order: certain,
            align_lg2: certain,
            from: 0,
            end,
            policy,
        };
        if let Some(start) = self.block(block, visited) {
            return Some(match policy {
                Policy::HighestFirst => (start + (1 << certain) - size) >> align_lg2 << align_lg2,
                _ => start,
            });
        }
        self.some_run(place, &mut wanted, end, u32::MAX, visited)
    }

    /// Goes through free runs with a block as `wanted`, `tries` at most, and
    /// moves `wanted` past them.
    fn some_run(
        &self,
        place: Place,
        wanted: &mut Wanted,
        end: u64,
        tries: u32,
        visited: &mut u64,
    ) -> Option<u64> {
        let Place {
            size,
            align_lg2,
            policy,
            ..
        } = place;
        let window = size + below(align_lg2);
        let mut best: Option<(u64, u64)> = None;
        for _ in 0..tries {
            if wanted.from >= wanted.end {
                break;
            }
            let Some(block) = self.block(*wanted, visited) else {
                break;
            };
            let after = block + (1 << wanted.order);
            let high = self.run_end(after, end.min(after.saturating_add(window)));
            let low = self.run_start(block, block.saturating_sub(window));
            if policy == Policy::HighestFirst {
                wanted.end = low;
            } else {
                wanted.from = high;
            }
            if high - low < size {
                continue;
            }
            let upper = (high - size) >> align_lg2 << align_lg2;
            let lower = (low + below(align_lg2)) >> align_lg2 << align_lg2;
            if upper < low {
                continue;
            }
            match policy {
                Policy::HighestFirst => return Some(upper),
                Policy::LowestFirst => return Some(lower),
                Policy::BestFit => {
                    let spare = high - low - size;
                    if best.is_none_or(|(least, _)| spare < least) {
                        best = Some((spare, lower));
                    }
                    if spare == 0 {
                        break;
                    }
                }
            }
        }
        best.map(|(_, start)| start)
    }

    /// The first page of an aligned free block, or none if there is none.
    #[inline]
    pub(super) fn first_block(&self, order: u32, from: u64, end: u64) -> Option<u64> {
        let wanted = Wanted {
            order,
            align_lg2: order,
            from,
            end,
            policy: Policy::LowestFirst,
        };
        self.block(wanted, &mut 0)
    }

    #[inline]
    fn block(&self, wanted: Wanted, visited: &mut u64) -> Option<u64> {
        if wanted.align_lg2 > child_lg2(self.height + 1) || wanted.from >= wanted.end {
            return None;
        }
        self.block_below(
            self.root(),
            self.height,
            0,
            wanted,
            self.path_low <= 1,
            visited,
        )
    }

    /// Searches `node`, whose first page is `base` and which overlaps the
    /// wanted range. `on_path`: the remembered path leads through it.
    fn block_below(
        &self,
        node: &Node,
        height: u32,
        base: u64,
        wanted: Wanted,
        on_path: bool,
        visited: &mut u64,
    ) -> Option<u64> {
        *visited += 1;
        let lg2 = child_lg2(height);
        let order = wanted.order;
        if order >= lg2 {
            let free = node.whole_children(height) & wanted.inside(lg2, base);
            let mut runs = wanted.aligned(aligned_runs(free, order - lg2), lg2, base);
            if runs == 0 {
                return None;
            }
            if wanted.policy == Policy::BestFit {
                runs = tightest_runs(free, order - lg2, runs);
            }
            return Some(base + (u64::from(wanted.pick(runs)) << lg2));
        }
        let least = order as u8 + 1;
        let mut fits = at_least(&node.orders, least) & wanted.overlapped(lg2, base);
        while fits != 0 {
            let at = if wanted.policy == Policy::BestFit {
                tightest_child(node, least, fits)
            } else {
                wanted.pick(fits)
            };
            fits &= !(1 << at);
            let first = base + (u64::from(at) << lg2);
            let found = if height == 1 {
                block_in_word(node.word(at as usize), first, wanted)
            } else {
                let on_path = on_path && at as usize == child_of(self.path_page, height);
                // Two loads that do not wait for each other, instead of one
                // that waits for the node above.
                let child = if on_path {
                    self.path[height as usize - 1]
                } else {
                    core::hint::cold_path();
                    node.child(at as usize)
                };
                if child.is_null() {
                    block_in_nothing(first, lg2, wanted)
                } else {
                    let child = self.node(child);
                    self.block_below(child, height - 1, first, wanted, on_path, visited)
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// Of the children `fits`, whose bytes are at least `least`, one with the
/// smallest byte.
fn tightest_child(node: &Node, mut least: u8, fits: u64) -> u32 {
    loop {
        let exact = fits & !at_least(&node.orders, least + 1);
        if exact != 0 {
            return exact.trailing_zeros();
        }
        least += 1;
    }
}

/// Searches the 64 pages from `first` on, free where set.
#[inline]
fn block_in_word(pages: u64, first: u64, wanted: Wanted) -> Option<u64> {
    let pages = pages & wanted.overlapped(0, first);
    let mut runs = wanted.aligned(aligned_runs(pages, wanted.order), 0, first);
    if runs == 0 {
        return None;
    }
    if wanted.policy == Policy::BestFit {
        runs = tightest_runs(pages, wanted.order, runs);
    }
    Some(first + u64::from(wanted.pick(runs)))
}

/// Searches a wholly free child, `1 << lg2` pages from `first` on.
fn block_in_nothing(first: u64, lg2: u32, wanted: Wanted) -> Option<u64> {
    let low = wanted.from.max(first);
    let high = wanted.end.min(first + (1 << lg2));
    let align = below(wanted.align_lg2);
    let size = 1 << wanted.order;
    let start = if wanted.policy == Policy::HighestFirst {
        high.checked_sub(size)? & !align
    } else {
        (low + align) & !align
    };
    (start >= low && start + size <= high).then_some(start)
}

/// Base-2 logarithm, rounded up; `size` is not 0.
#[inline]
pub(crate) fn ceil_lg2(size: u64) -> u32 {
    u64::BITS - (size - 1).leading_zeros()
}
