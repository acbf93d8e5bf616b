//! A place that an owner has found and not used yet.

use core::fmt;

use dmabench_platform::SlotGuard;

use super::{FlushQueue, Merge, OneRing, ring::Ring};

/// A place in the caller's ring. It borrows the guard, so there is one at most,
/// and the section does not end before it is used.
#[must_use = "nothing is queued before `push`"]
pub struct Room<'q, 'g, 's, T, X = ()> {
    pub(super) queue: &'q FlushQueue<T, X>,
    pub(super) ring: &'q Ring<T>,
    pub(super) tail: u64,
    pub(super) slot: &'g mut SlotGuard<'s>,
}

impl<'g, 's, T: Send, X: Merge> Room<'_, 'g, 's, T, X> {
    /// The guard, for what is to be done between finding room and queueing.
    #[inline]
    pub fn slot(&self) -> &SlotGuard<'s> {
        self.slot
    }

    /// Queues `entry` until a flush that begins after this call has completed.
    /// Everything the caller did before, such as clearing table entries, is
    /// visible to that flush. The guard back.
    #[inline(always)]
    pub fn push(self, entry: T) -> &'g mut SlotGuard<'s> {
        // SAFETY: the guard is the only one of its slot and has been borrowed
        // since `ring.room()` returned `tail`; rings are pushed to through a
        // `Room` of their slot only. So nobody pushed meanwhile, and nobody
        // else is doing it.
        unsafe {
            let publish = self.queue.publish_ordering();
            self.ring.push(self.tail, entry, publish);
        }
        self.slot
    }

    /// As [`push`](Self::push), with something that waits for the same flush.
    #[cold]
    pub fn push_with(self, entry: T, extra: X) -> &'g mut SlotGuard<'s> {
        self.queue.add_extra(extra);
        self.push(entry)
    }
}

impl<T, X> fmt::Debug for Room<'_, '_, '_, T, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

/// A place in the [one ring](OneRing) there is, taken: nobody else's, and filled
/// with nothing if this is dropped. It borrows the guard, as [`Room`] does.
#[must_use = "nothing is queued before `push`"]
pub struct SharedRoom<'q, 'g, 's, T: Send, X: Merge = ()> {
    queue: &'q FlushQueue<T, X, OneRing<T>>,
    position: u64,
    slot: Option<&'g mut SlotGuard<'s>>,
}

impl<'q, 'g, 's, T: Send, X: Merge> SharedRoom<'q, 'g, 's, T, X> {
    #[inline]
    pub(super) fn new(
        queue: &'q FlushQueue<T, X, OneRing<T>>,
        position: u64,
        slot: &'g mut SlotGuard<'s>,
    ) -> Self {
        SharedRoom {
            queue,
            position,
            slot: Some(slot),
        }
    }

    /// As [`Room::slot`].
    #[inline]
    pub fn slot(&self) -> &SlotGuard<'s> {
        match &self.slot {
            Some(slot) => slot,
            None => unreachable!("the guard leaves in `push` only, which takes the room"),
        }
    }

    /// As [`Room::push`].
    #[inline]
    pub fn push(mut self, entry: T) -> &'g mut SlotGuard<'s> {
        let slot = self.slot.take();
        self.fill(Some(entry));
        core::mem::forget(self);
        match slot {
            Some(slot) => slot,
            None => unreachable!("the guard leaves in `push` only, which takes the room"),
        }
    }

    /// As [`Room::push_with`].
    #[cold]
    pub fn push_with(self, entry: T, extra: X) -> &'g mut SlotGuard<'s> {
        self.queue.add_extra(extra);
        self.push(entry)
    }

    #[inline]
    fn fill(&mut self, entry: Option<T>) {
        let publish = self.queue.publish_ordering();
        // SAFETY: `take` returned the position to the maker of this room, which
        // fills it once: `push` forgets the room, and a drop ends it.
        unsafe { self.queue.rings.0.fill(self.position, entry, publish) };
    }
}

impl<T: Send, X: Merge> Drop for SharedRoom<'_, '_, '_, T, X> {
    fn drop(&mut self) {
        self.fill(None);
    }
}

impl<T: Send, X: Merge> fmt::Debug for SharedRoom<'_, '_, '_, T, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRoom")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
