//! Which memory is registered, and where devices find it: a sorted array that
//! readers search without a lock. A writer puts a new array in its place and
//! waits until nobody reads the old one.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::ptr;

use dmabench_platform::{
    Iova, PhysAddr, SlotGuard, Slots,
    sync::{
        Mutex,
        atomic::{AtomicPtr, Ordering},
        cell::UnsafeCell,
    },
};

use super::search::Search;
use crate::{Direction, Segment};

/// One registered region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first: PhysAddr,
    pub(super) last: PhysAddr,
    /// Where devices find `first`.
    pub(super) iova: Iova,
    pub(super) direction: Direction,
}

impl Entry {
    /// Whether all of `segment` lies in it.
    #[inline]
    pub(super) fn holds(&self, segment: &Segment) -> bool {
        let last = segment.phys.last_byte(segment.len_bytes);
        segment.phys >= self.first && last.is_some_and(|last| last <= self.last)
    }
}

/// An array, sorted by address, without overlaps. Never changed once readers can
/// see it.
struct Entries {
    all: Vec<Entry>,
    search: Search,
    /// For the checker, which follows cells and not boxes: read by readers,
    /// written by the drop. No bytes.
    alive: UnsafeCell<()>,
}

impl Entries {
    fn new(all: Vec<Entry>) -> Self {
        Entries {
            search: Search::new(all.iter().map(|entry| entry.first).collect()),
            all,
            alive: UnsafeCell::new(()),
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        self.alive.with_mut(|_| ());
    }
}

pub(super) struct Table {
    /// Never null.
    entries: AtomicPtr<Entries>,
    /// Serialises writers.
    writer: Mutex<()>,
    slots: Arc<Slots>,
    /// The variant that must fail: nobody waits for readers.
    #[cfg(all(test, loom))]
    careless: bool,
}

/// What a region overlaps with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap(pub(super) Segment);

impl Table {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        let first = Box::new(Entries::new(Vec::new()));
        Table {
            entries: AtomicPtr::new(Box::into_raw(first)),
            writer: Mutex::new(()),
            slots,
            #[cfg(all(test, loom))]
            careless: false,
        }
    }

    /// The array, as long as the section is open.
    #[inline]
    fn entries<'s>(&'s self, slot: &'s SlotGuard<'_>) -> &'s Entries {
        debug_assert!(ptr::eq(slot.slots(), &*self.slots));
        // Acquire: pairs with the release of `publish`.
        let entries = self.entries.load(Ordering::Acquire);
        // SAFETY: it came from `Box::into_raw`. It is freed by a writer only
        // after `Slots::synchronize`, which waits for every section of this
        // table's slots that was open when the pointer was replaced; this
        // section, which the result borrows, is one of them or began later and
        // read the newer pointer. (The caller passes a guard of these slots: it
        // is the domain that enters them.)
        let entries = unsafe { &*entries };
        entries.alive.with(|_| ());
        entries
    }

    /// The entry that holds all of `segment`.
    #[inline]
    pub(super) fn find(&self, slot: &SlotGuard<'_>, segment: &Segment) -> Option<Entry> {
        let entries = self.entries(slot);
        let entry = entries.all.get(entries.search.last_before(segment.phys)?)?;
        entry.holds(segment).then_some(*entry)
    }

    /// Adds entries, all or none. Waits for readers: no guard of these slots may
    /// be alive on this thread.
    pub(super) fn insert(&self, new: &[Entry]) -> Result<(), Overlap> {
        self.change(|all| {
            all.extend_from_slice(new);
            all.sort_unstable_by_key(|entry| entry.first);
            let clash = all
                .array_windows()
                .find(|[one, next]| next.first <= one.last);
            match clash {
                Some([one, _]) => Err(Overlap(Segment {
                    phys: one.first,
                    len_bytes: one.last.0 - one.first.0 + 1,
                })),
                None => Ok(()),
            }
        })
    }

    /// Removes the entry that begins at `first`. When this returns, nobody finds
    /// it any more.
    pub(super) fn remove(&self, first: PhysAddr) {
        let removed = self.change(|all| {
            all.retain(|entry| entry.first != first);
            Ok(())
        });
        debug_assert!(removed.is_ok());
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<(), Overlap>,
    ) -> Result<(), Overlap> {
        let writer = self.writer.lock();
        let old = self.entries.load(Ordering::Relaxed);
        // SAFETY: the pointer is never null, and only a writer frees what it
        // points to: that is this one, under the lock.
        let mut all = unsafe { &*old }.all.clone();
        change(&mut all)?;
        let new = Box::into_raw(Box::new(Entries::new(all)));
        // Release: the array is there before the pointer to it.
        self.entries.store(new, Ordering::Release);
        #[cfg(all(test, loom))]
        if self.careless {
            // SAFETY: not freed, so that the checker can name the fault.
            unsafe { &*old }.alive.with_mut(|_| ());
            return Ok(());
        }
        self.slots.synchronize();
        drop(writer);
        // SAFETY: it came from `Box::into_raw`, was replaced above, so it is
        // freed once; every reader that can have it has ended its section.
        drop(unsafe { Box::from_raw(old) });
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let entries = self.entries.load(Ordering::Relaxed);
        // SAFETY: `&mut self`: no reader is left; it came from `Box::into_raw`
        // and was not replaced.
        drop(unsafe { Box::from_raw(entries) });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use dmabench_platform::Fences;
    use loom::{model::Builder, thread};

    const ENTRY: Entry = Entry {
        first: PhysAddr(0x1000),
        last: PhysAddr(0x1fff),
        iova: Iova(0x7000),
        direction: Direction::ToDevice,
    };

    /// A reader looks something up while a writer removes it.
    fn model(careless: bool) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(move || {
            let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
            let mut table = Table::new(slots.clone());
            table.insert(&[ENTRY]).unwrap();
            table.careless = careless;
            let table = Arc::new(table);
            let reader = {
                let (table, slots) = (table.clone(), slots.clone());
                thread::spawn(move || {
                    // SAFETY: this thread alone uses slot 0.
                    let slot = unsafe { slots.enter(Some(0)) }.unwrap();
                    let segment = Segment {
                        phys: PhysAddr(0x1800),
                        len_bytes: 8,
                    };
                    match table.find(&slot, &segment) {
                        Some(entry) => assert_eq!(entry, ENTRY),
                        None => {}
                    }
                })
            };
            table.remove(ENTRY.first);
            reader.join().unwrap();
        });
    }

    #[test]
    fn loom_a_reader_never_sees_a_table_that_is_gone() {
        model(false);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_without_the_wait_it_does() {
        model(true);
    }
}
