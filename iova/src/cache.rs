//! What happens when the loaded magazine does not answer.
//!
//! Lock order: depot, then space. Nobody waits for sections with either held.
//! Ranges are on their way between index, magazines and depots only inside a
//! section or under a depot's lock; so whoever has the slots to itself
//! ([`Slots::exclusive`](dmabench_platform::Slots::exclusive)) and goes through
//! all of them has seen every cached range.

use dmabench_platform::{Exclusive, SlotGuard};

use crate::{
    AllocError,
    domain::{IovaDomain, Space},
    index::{NoMemory, Place},
    magazine::{CAPACITY, Magazine, Pair},
};

/// Cached classes: 1 to 512 pages.
pub(crate) const CLASSES: usize = 10;

/// Base-2 logarithm of the pages a slot takes at once for classes below it: 8
/// cache lines of leaf entries, which then belong to one slot.
#[cfg(not(any(loom, shuttle)))]
pub(crate) const REFILL_LG2: u32 = 6;
#[cfg(any(loom, shuttle))]
pub(crate) const REFILL_LG2: u32 = 1;

/// Addresses given to the index at once when the depot is full.
const OVERFLOW: usize = CAPACITY / 4 + 1;

/// The magazines of one slot. Their memory comes when first needed.
#[derive(Debug, Default)]
pub(crate) struct SlotCache {
    pub(crate) classes: [Pair; CLASSES],
}

impl SlotCache {
    /// Pages in all magazines.
    pub(crate) fn pages(&self) -> u64 {
        let pages = |(class, pair): (usize, &Pair)| (pair.len() as u64) << class;
        self.classes.iter().enumerate().map(pages).sum()
    }
}

/// A request, checked and in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// What is taken from the index: a cached class rounds up.
    pub(crate) size: u64,
    pub(crate) align_lg2: u32,
    /// The class it may be served from.
    pub(crate) class: Option<u32>,
    /// The last page that may be used.
    pub(crate) last: u64,
}

impl IovaDomain {
    /// Serves a wish that the loaded magazine could not; its first page.
    pub(crate) fn alloc_page(
        &self,
        slot: &mut SlotGuard<'_>,
        wish: Wish,
    ) -> Result<u64, AllocError> {
        if let Some(low) = self.low_first().filter(|&low| low < wish.last) {
            if let Ok(Some(page)) = self.try_once(slot, Wish { last: low, ..wish }) {
                return Ok(page);
            }
            self.open_high();
        }
        // Only the end of the space or of memory leads on.
        if let Ok(Some(page)) = self.try_once(slot, wish) {
            return Ok(page);
        }
        self.drain_and_retry(slot, wish)
    }

    #[inline]
    fn try_once(&self, slot: &mut SlotGuard<'_>, wish: Wish) -> Result<Option<u64>, NoMemory> {
        match wish.class {
            Some(class) => self.take_from_caches(slot, class, wish),
            None => self.take_from_index(wish),
        }
    }

    fn place(&self, wish: Wish) -> Place {
        Place {
            size: wish.size,
            align_lg2: wish.align_lg2,
            last: wish.last,
            policy: self.policy,
        }
    }

    fn take_from_index(&self, wish: Wish) -> Result<Option<u64>, NoMemory> {
        self.space.lock().index.alloc(self.place(wish))
    }

    pub(crate) fn take_from_caches(
        &self,
        slot: &mut SlotGuard<'_>,
        class: u32,
        wish: Wish,
    ) -> Result<Option<u64>, NoMemory> {
        let lg2 = self.granule().lg2();
        let fits = |address: u64| (address >> lg2) + (wish.size - 1) <= wish.last;
        let mut cache = self.caches.get(slot);
        let pair = &mut cache.classes[class as usize];
        if pair.is_empty() {
            let mut depot = self.depots[class as usize].lock();
            if let Some(full) = depot.take_full() {
                depot.put_empty(pair.load(full));
            }
        } else if pair.previous_has_some() && pair.peek().is_none() {
            pair.swap();
        }
        if let Some(address) = pair.pop_fitting(fits) {
            return Ok(Some(address >> lg2));
        }
        if pair.is_empty() {
            self.refill(pair, class, wish)
        } else {
            // Addresses beyond the limit stay for others.
            self.take_from_index(wish)
        }
    }

    /// Takes pages for the empty `pair`; one range of them for the caller.
    fn refill(&self, pair: &mut Pair, class: u32, wish: Wish) -> Result<Option<u64>, NoMemory> {
        if !pair.has_loaded() {
            let Some(magazine) = self.depots[class as usize].lock().take_empty() else {
                return self.take_from_index(wish);
            };
            let none = pair.load(magazine);
            debug_assert!(!none.exists());
        }
        let lg2 = self.granule().lg2();
        let mut space = self.space.lock();
        if class < REFILL_LG2 {
            let block = Place {
                size: 1 << REFILL_LG2,
                align_lg2: REFILL_LG2,
                ..self.place(wish)
            };
            if let Ok(Some(first)) = space.index.alloc(block) {
                drop(space);
                // Pushed downwards, so that they leave upwards.
                for part in (1..1 << (REFILL_LG2 - class)).rev() {
                    let page = first + (part << class);
                    let pushed = pair.push(page << lg2);
                    debug_assert!(pushed, "a block fits into a magazine");
                }
                return Ok(Some(first));
            }
        } else {
            // Large ranges do not share cache lines; a few at once.
            for _ in 1..(1 << REFILL_LG2 >> (class - REFILL_LG2) >> 3) {
                match space.index.alloc(self.place(wish)) {
                    Ok(Some(page)) => {
                        let pushed = pair.push(page << lg2);
                        debug_assert!(pushed, "a few fit into a magazine");
                    }
                    _ => break,
                }
            }
        }
        space.index.alloc(self.place(wish))
    }

    /// Every cached range goes back to the index while nobody else is inside a
    /// section, and the index is asked once more. One heavy fence.
    #[cold]
    fn drain_and_retry(&self, slot: &mut SlotGuard<'_>, wish: Wish) -> Result<u64, AllocError> {
        if self.class_count == 0 {
            return self.final_answer(&mut self.space.lock(), wish);
        }
        let slots = self.caches.slots();
        slots.exclusive(Some(slot), |exclusive| {
            self.drain_all(exclusive);
            self.final_answer(&mut self.space.lock(), wish)
        })
    }

    fn final_answer(&self, space: &mut Space, wish: Wish) -> Result<u64, AllocError> {
        let low = self.low_last_page.filter(|&low| low < wish.last);
        let mut answer = AllocError::NoSpace;
        for last in low.into_iter().chain([wish.last]) {
            match space.index.alloc(self.place(Wish { last, ..wish })) {
                Ok(Some(page)) => return Ok(page),
                Ok(None) => {}
                Err(NoMemory) => answer = AllocError::NoMemory,
            }
        }
        Err(answer)
    }

    /// Gives everything cached to the index: all slots' and the depots'.
    pub(crate) fn drain_all(&self, exclusive: &mut Exclusive<'_>) {
        for slot in self.caches.slots().indices() {
            let mut cache = self.caches.get_exclusive(exclusive, slot);
            for class in 0..self.class_count {
                for magazine in cache.classes[class as usize].unload() {
                    self.empty_to_index(magazine, class);
                }
            }
        }
        for class in 0..self.class_count {
            let mut depot = self.depots[class as usize].lock();
            while let Some(full) = depot.take_full() {
                self.empty_to_index(full, class);
            }
        }
        self.close_high();
    }

    /// Gives what a magazine holds to the index, in parts, so that the lock is
    /// not held for long.
    pub(crate) fn empty_to_index(&self, mut magazine: Magazine, class: u32) {
        while !magazine.is_empty() {
            self.part_to_index(|| magazine.pop(), class);
        }
    }

    fn part_to_index(&self, mut next: impl FnMut() -> Option<u64>, class: u32) {
        let mut space = self.space.lock();
        for _ in 0..OVERFLOW {
            let Some(address) = next() else {
                break;
            };
            space
                .index
                .free(address >> self.granule().lg2(), 1 << class);
        }
    }

    /// Takes a range back that the loaded magazine has no room for.
    pub(crate) fn free_page(&self, slot: &mut SlotGuard<'_>, address: u64, class: u32) {
        let mut cache = self.caches.get(slot);
        let pair = &mut cache.classes[class as usize];
        if pair.previous_has_room() {
            pair.swap();
        } else {
            self.make_room(pair, class);
        }
        if !pair.push(address) {
            // No memory for a magazine; the index needs none.
            let page = address >> self.granule().lg2();
            self.space.lock().index.free(page, 1 << class);
            self.close_high();
        }
    }

    /// Loads a magazine with room into a pair that has none, if it can.
    fn make_room(&self, pair: &mut Pair, class: u32) {
        let mut depot = self.depots[class as usize].lock();
        if !depot.has_room() {
            drop(depot);
            self.part_to_index(|| pair.pop(), class);
            self.close_high();
            return;
        }
        let Some(empty) = depot.take_empty() else {
            return;
        };
        let full = pair.load(empty);
        if full.exists() {
            depot.put_full(full);
            drop(depot);
            self.expect_trim();
        }
    }
}
