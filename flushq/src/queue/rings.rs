//! Where entries wait: a ring for each slot, or one for all.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use dmabench_platform::SlotIndex;

use super::{ring::Ring, shared::SharedRing};

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for super::PerSlotRings<T> {}
    impl<T> Sealed for super::OneRing<T> {}
}

/// What a flusher needs of the rings. Sealed: [`PerSlotRings`] or [`OneRing`].
///
/// Positions in a ring only grow. All but `pop` may be called by anybody at any
/// time; `pop` belongs to the holder of the flushers' lock.
pub trait Rings<T>: sealed::Sealed + Send + Sync {
    #[doc(hidden)]
    fn with_size(entries: usize, slots: usize) -> Option<Self>
    where
        Self: Sized;
    #[doc(hidden)]
    fn count(&self) -> usize;
    /// The ring that a slot pushes to.
    #[doc(hidden)]
    fn of_slot(&self, slot: SlotIndex) -> usize;
    /// Below it every entry is there, with a view of all that its pusher had
    /// done before. `from` is what an earlier call has returned.
    #[doc(hidden)]
    fn filled(&self, ring: usize, from: u64) -> u64;
    /// Entries pushed, and those whose push is under way.
    #[doc(hidden)]
    fn tail(&self, ring: usize) -> u64;
    #[doc(hidden)]
    fn head(&self, ring: usize) -> u64;
    /// The entry at `position`; `None` if its place was given up.
    ///
    /// # Safety
    ///
    /// * Nobody else calls `pop` at the same time.
    /// * `ring` is below `count`, and `position` is the number of entries taken
    ///   out of it before.
    /// * It is less than what `filled` has returned to the caller, or to one
    ///   whose work the caller has seen.
    #[doc(hidden)]
    unsafe fn pop(&self, ring: usize, position: u64) -> Option<T>;
}

/// A ring for each slot: a push is plain stores and a release store.
pub struct PerSlotRings<T>(pub(super) Box<[Ring<T>]>);

impl<T: Send> Rings<T> for PerSlotRings<T> {
    fn with_size(entries: usize, slots: usize) -> Option<Self> {
        let mut rings = Vec::new();
        rings.try_reserve_exact(slots).ok()?;
        for _ in 0..slots {
            rings.push(Ring::new(entries)?);
        }
        Some(PerSlotRings(rings.into_boxed_slice()))
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn of_slot(&self, slot: SlotIndex) -> usize {
        slot.as_usize()
    }

    fn filled(&self, ring: usize, _from: u64) -> u64 {
        self.0[ring].tail()
    }

    fn tail(&self, ring: usize) -> u64 {
        self.0[ring].tail()
    }

    fn head(&self, ring: usize) -> u64 {
        self.0[ring].head()
    }

    unsafe fn pop(&self, ring: usize, position: u64) -> Option<T> {
        // SAFETY: as promised by the caller.
        Some(unsafe { self.0[ring].pop(position) })
    }
}

/// One ring for all slots: a push has one locked instruction, and who fills it
/// flushes for everybody. Linux: `IOMMU_DMA_OPTS_SINGLE_QUEUE`.
pub struct OneRing<T>(pub(super) SharedRing<T>);

impl<T: Send> Rings<T> for OneRing<T> {
    fn with_size(entries: usize, _slots: usize) -> Option<Self> {
        SharedRing::new(entries).map(OneRing)
    }

    fn count(&self) -> usize {
        1
    }

    fn of_slot(&self, _slot: SlotIndex) -> usize {
        0
    }

    fn filled(&self, _ring: usize, from: u64) -> u64 {
        self.0.filled(from)
    }

    fn tail(&self, _ring: usize) -> u64 {
        self.0.tail()
    }

    fn head(&self, _ring: usize) -> u64 {
        self.0.head()
    }

    unsafe fn pop(&self, _ring: usize, position: u64) -> Option<T> {
        // SAFETY: as promised by the caller.
        unsafe { self.0.pop(position) }
    }
}

impl<T> fmt::Debug for PerSlotRings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerSlotRings").field(&self.0.len()).finish()
    }
}

impl<T> fmt::Debug for OneRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneRing")
    }
}
