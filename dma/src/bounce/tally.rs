//! What goes which way, counted by slot.

use alloc::{boxed::Box, vec::Vec};

use dmabench_platform::{
    CachePadded, SlotGuard, Slots,
    sync::atomic::{AtomicU64, Ordering},
};

use super::layout::{Layout, Way};

/// Lists that were mapped, since the domain was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BounceCounts {
    /// Lists that the device was given copies of.
    pub copied_lists: u64,
    /// Lists that were mapped in place, but for granules they do not fill.
    pub in_place_lists: u64,
    /// Bytes of buffers in slots, of both kinds of lists.
    pub slot_bytes: u64,
    /// Bytes of buffers that the device was given in place.
    pub in_place_bytes: u64,
}

#[derive(Default)]
struct Counters {
    copied_lists: AtomicU64,
    in_place_lists: AtomicU64,
    slot_bytes: AtomicU64,
    in_place_bytes: AtomicU64,
}

pub(super) struct Tally(Box<[CachePadded<Counters>]>);

impl Tally {
    pub(super) fn new(slots: &Slots) -> Self {
        let counters: Vec<_> = (0..slots.count()).map(|_| CachePadded::default()).collect();
        Tally(counters.into_boxed_slice())
    }

    /// A list was mapped.
    pub(super) fn add(&self, slot: &SlotGuard<'_>, layout: &Layout) {
        // Every guard that the domain enters is of the table this was made for.
        let Some(own) = self.0.get(slot.index().as_usize()) else {
            return;
        };
        // The owner alone writes: load and store lose nothing.
        let add = |counter: &AtomicU64, more: u64| {
            let value = counter.load(Ordering::Relaxed).wrapping_add(more);
            counter.store(value, Ordering::Relaxed);
        };
        match layout.way {
            Way::Copied => add(&own.copied_lists, 1),
            Way::InPlace => add(&own.in_place_lists, 1),
        }
        add(&own.slot_bytes, layout.len_bytes - layout.in_place_bytes);
        add(&own.in_place_bytes, layout.in_place_bytes);
    }

    pub(super) fn sum(&self) -> BounceCounts {
        let mut sum = BounceCounts::default();
        for own in &self.0 {
            sum.copied_lists += own.copied_lists.load(Ordering::Relaxed);
            sum.in_place_lists += own.in_place_lists.load(Ordering::Relaxed);
            sum.slot_bytes += own.slot_bytes.load(Ordering::Relaxed);
            sum.in_place_bytes += own.in_place_bytes.load(Ordering::Relaxed);
        }
        sum
    }
}
