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

/// Free runs a best fit is chosen from.
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
    #[inline]
    pub(super) fn find(&mut self, place: Place) -> Option<u64> {
        let end = if place.last >= self.last {
            self.end()
        } else {
            place.last + 1
        };
        if self.refused.is_some() && self.is_refused(&place) {
            return None;
        }
        let mut visited = 0;
        let certain = ceil_lg2(place.size).max(place.align_lg2);
        let found = if place.policy == Policy::HighestFirst
            && let Some(block) = self.top_block(certain, end, &mut visited)
        {
            // The highest place in the block.
            Some((block + (1 << certain) - place.size) >> place.align_lg2 << place.align_lg2)
        } else {
            self.find_settled(place, end, &mut visited)
        };
        self.effort.searches += 1;
        self.effort.nodes_visited += visited;
        self.effort.nodes_visited_max = self.effort.nodes_visited_max.max(visited);
        found
    }

    #[cold]
    fn is_refused(&self, place: &Place) -> bool {
        self.refused.is_some_and(|refused| {
            place.size >= refused.size
                && place.align_lg2 >= refused.align_lg2
                && place.last <= refused.last
        })
    }

    /// As [`find`](Self::find), by a walk from the root.
    #[inline(never)]
    fn find_settled(&mut self, place: Place, end: u64, visited: &mut u64) -> Option<u64> {
        self.settle();
        let order = ceil_lg2(place.size);
        let found = if !place.size.is_power_of_two() || place.align_lg2 != order {
            self.find_among_runs(place, end, visited)
        } else if place.policy == Policy::BestFit {
            let wanted = Wanted {
                order,
                align_lg2: order,
                from: 0,
                end,
                policy: place.policy,
            };
            self.block(&wanted, visited)
        } else {
            self.aligned_block(order, end, place.policy, visited)
        };
        if found.is_none() {
            self.refused = Some(place);
        }
        found
    }

    /// Any size, any alignment: takes a block large enough for certain, and only
    /// where there is none goes through all free runs. (A best fit looks at
    /// runs first.)
    fn find_among_runs(&self, place: Place, end: u64, visited: &mut u64) -> Option<u64> {
        let Place {
            size,
            align_lg2,
            policy,
            ..
        } = place;
        let floor = size.ilog2();
        // Any place that fits contains a free block of this order, at its start
        // if the alignment is larger.
        let (order, block_lg2) = if align_lg2 >= floor {
            (floor, align_lg2)
        } else {
            let order = (size + (1 << align_lg2)).ilog2() - 1;
            (order, order)
        };
        // Runs are gone through in order of address.
        let runs_policy = match policy {
            Policy::HighestFirst => Policy::HighestFirst,
            _ => Policy::LowestFirst,
        };
        let mut wanted = Wanted {
            order,
            align_lg2: block_lg2,
            from: 0,
            end,
            policy: runs_policy,
        };
        if policy == Policy::BestFit
            && let Some(start) = self.some_run(place, &mut wanted, end, TRIES_BEST_FIT, visited)
        {
            return Some(start);
        }
        let certain = ceil_lg2(size).max(align_lg2);
        if let Some(start) = self.aligned_block(certain, end, runs_policy, visited) {
            return Some(match policy {
                Policy::HighestFirst => (start + (1 << certain) - size) >> align_lg2 << align_lg2,
                _ => start,
            });
        }
        core::hint::cold_path();
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
            let Some(block) = self.block(wanted, visited) else {
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
        self.block(&wanted, &mut 0)
    }

    /// The highest (or lowest) aligned free block of `1 << order` pages below
    /// `end`. One walk down; at most one more where `end` cuts a node.
    #[inline]
    fn aligned_block(
        &self,
        order: u32,
        end: u64,
        policy: Policy,
        visited: &mut u64,
    ) -> Option<u64> {
        if order > child_lg2(self.height + 1) {
            return None;
        }
        let highest = policy == Policy::HighestFirst;
        let pick = |bits: u64| {
            if highest {
                bits.ilog2()
            } else {
                bits.trailing_zeros()
            }
        };
        let least = order as u8 + 1;
        let (mut node, mut height, mut base) = (self.root(), self.height, 0);
        let mut on_path = self.path_low <= 1;
        // Where to go on if the child that `end` cuts has no such block below it.
        let mut instead: Option<(&Node, u32, u64, u64)> = None;
        loop {
            *visited += 1;
            let lg2 = child_lg2(height);
            let room = end - base;
            let found = if order >= lg2 {
                let allowed = below((room >> lg2).min(64) as u32);
                let runs = aligned_runs(node.whole_children(height) & allowed, order - lg2);
                if runs != 0 {
                    return Some(base + (u64::from(pick(runs)) << lg2));
                }
                None
            } else {
                let mut fits = at_least(&node.orders, least);
                if room >> lg2 < 64 {
                    let cut = (room >> lg2) as u32;
                    let uncut = fits & below(cut);
                    let in_cut = room & below(lg2) != 0 && fits >> cut & 1 != 0;
                    if in_cut && highest && uncut != 0 {
                        instead = Some((node, height, base, uncut));
                    }
                    fits = uncut | u64::from(in_cut) << cut;
                }
                (fits != 0).then_some(fits)
            };
            let mut fits = match (found, instead.take_if(|_| found.is_none())) {
                (Some(fits), _) => fits,
                (None, Some((other, at_height, at_base, fits))) => {
                    (node, height, base) = (other, at_height, at_base);
                    on_path = false;
                    fits
                }
                (None, None) => return None,
            };
            loop {
                let at = pick(fits) as usize;
                let lg2 = child_lg2(height);
                let first = base + ((at as u64) << lg2);
                let block = if height == 1 {
                    let pages = node.word(at) & below((end - first).min(64) as u32);
                    let runs = aligned_runs(pages, order);
                    (runs != 0).then(|| first + u64::from(pick(runs)))
                } else {
                    on_path = on_path && at == child_of(self.path_page, height);
                    // Two loads that do not wait for each other, instead of one
                    // that waits for the node above.
                    let child = if on_path {
                        self.path[height as usize - 1]
                    } else {
                        core::hint::cold_path();
                        node.child(at)
                    };
                    if !child.is_null() {
                        (node, height, base) = (self.node(child), height - 1, first);
                        break;
                    }
                    let high = end.min(first + (1 << lg2));
                    let start = if highest {
                        (high >> order << order).saturating_sub(1 << order)
                    } else {
                        first
                    };
                    (start >= first && start + (1 << order) <= high).then_some(start)
                };
                if block.is_some() {
                    return block;
                }
                // Only below the cut can the bytes have promised too much.
                let (other, at_height, at_base, left) = instead.take()?;
                (node, height, base, fits) = (other, at_height, at_base, left);
                on_path = false;
            }
        }
    }

    #[inline]
    fn block(&self, wanted: &Wanted, visited: &mut u64) -> Option<u64> {
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
        wanted: &Wanted,
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
fn block_in_word(pages: u64, first: u64, wanted: &Wanted) -> Option<u64> {
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
fn block_in_nothing(first: u64, lg2: u32, wanted: &Wanted) -> Option<u64> {
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
