//! A ring with many producers and one consumer, whoever holds the flushers'
//! lock.

use alloc::{boxed::Box, vec::Vec};
use core::mem::MaybeUninit;

use dmabench_platform::{
    CachePadded,
    sync::{
        Backoff,
        atomic::{AtomicU64, Ordering},
        cell::UnsafeCell,
    },
};

/// How often a flusher looks at a place whose push is under way before it leaves
/// that entry, and those behind it, to the next flush.
const PATIENCE: u32 = if cfg!(any(loom, shuttle)) { 2 } else { 1000 };

/// Positions only grow; an entry lives at its position modulo the size.
///
/// A producer *takes* a position by compare-exchange, the one locked instruction
/// of a push, and later *fills* it; in between it may find that it has nothing to
/// push, and fills it with nothing. Each place says which position it was last
/// filled for, so that the consumer sees where the filled part ends.
pub(super) struct SharedRing<T> {
    /// Positions taken so far.
    tail: CachePadded<AtomicU64>,
    /// Entries taken out so far; written by the consumer.
    head: CachePadded<AtomicU64>,
    places: Box<[Place<T>]>,
}

struct Place<T> {
    /// One more than the position of what was last put here; 0 before. The
    /// release store publishes the entry and all its producer did before.
    filled: AtomicU64,
    entry: UnsafeCell<MaybeUninit<Option<T>>>,
}

// SAFETY: entries move from the producer that took the position to the consumer
// (the contracts of `fill` and `pop`), with release and acquire between.
unsafe impl<T: Send> Sync for SharedRing<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedRing<T> {}

impl<T> SharedRing<T> {
    /// A ring of `size` places, if there is memory for it; `size` is a power of
    /// two.
    pub(super) fn new(size: usize) -> Option<Self> {
        debug_assert!(size.is_power_of_two());
        let mut places = Vec::new();
        places.try_reserve_exact(size).ok()?;
        places.extend((0..size).map(|_| Place {
            filled: AtomicU64::new(0),
            entry: UnsafeCell::new(MaybeUninit::uninit()),
        }));
        Some(SharedRing {
            tail: CachePadded::new(AtomicU64::new(0)),
            head: CachePadded::new(AtomicU64::new(0)),
            places: places.into_boxed_slice(),
        })
    }

    #[inline]
    fn place(&self, position: u64) -> &Place<T> {
        let index = position as usize & (self.places.len() - 1);
        // SAFETY: the length is a power of two, so masking with one less gives
        // an index below it.
        unsafe { self.places.get_unchecked(index) }
    }

    /// Takes the next position, if there is a place for it.
    #[inline]
    pub(super) fn take(&self) -> Option<u64> {
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            // Acquire: what was in the place has been moved out. An old `tail`
            // may lie below the head; then the exchange fails.
            let head = self.head.load(Ordering::Acquire);
            if tail.saturating_sub(head) >= self.places.len() as u64 {
                return None;
            }
            let taken = self.tail.compare_exchange_weak(
                tail,
                tail + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match taken {
                Ok(position) => return Some(position),
                Err(now) => tail = now,
            }
        }
    }

    /// Puts an entry, or nothing, where it belongs. `publish` is `Release`; the
    /// checkers also try what must fail.
    ///
    /// # Safety
    ///
    /// `take` has returned `position` to the caller, who fills it once.
    #[inline]
    pub(super) unsafe fn fill(&self, position: u64, entry: Option<T>, publish: Ordering) {
        let place = self.place(position);
        // SAFETY: the position is the caller's alone. The one before it in this
        // place lay below the head that `take` saw, so its entry has been moved
        // out; and the consumer reads here only after the store below.
        place
            .entry
            .with_mut(|place| unsafe { (*place).write(entry) });
        place.filled.store(position + 1, publish);
    }

    /// Below it every position, from `from` on, is filled. Waits a little for
    /// those that are taken and not filled yet: their producers are inside a
    /// section, and not waiting for anybody.
    pub(super) fn filled(&self, from: u64) -> u64 {
        let tail = self.tail.load(Ordering::Relaxed);
        let mut position = from;
        let mut backoff = Backoff::new();
        let mut patience = PATIENCE;
        while position < tail {
            if self.place(position).filled.load(Ordering::Acquire) == position + 1 {
                position += 1;
            } else if patience == 0 {
                break;
            } else {
                patience -= 1;
                backoff.wait();
            }
        }
        position
    }

    /// Positions taken so far.
    #[inline]
    pub(super) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Entries taken out so far.
    #[inline]
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Takes out what is at `position`.
    ///
    /// # Safety
    ///
    /// * Nobody else calls `pop` on this ring at the same time.
    /// * `position` is the number of entries taken out before.
    /// * It is less than a value that [`filled`](Self::filled) has returned to
    ///   the caller, or to one whose work the caller has seen.
    pub(super) unsafe fn pop(&self, position: u64) -> Option<T> {
        // SAFETY: `filled` has passed it, so the entry was written and published
        // to us, and no producer takes this place again before `head` has
        // passed it. It is read once: the next call is for the next position.
        let entry = self
            .place(position)
            .entry
            .with(|place| unsafe { (*place).assume_init_read() });
        self.head.store(position + 1, Ordering::Release);
        entry
    }
}

impl<T> Drop for SharedRing<T> {
    fn drop(&mut self) {
        for position in self.head()..self.tail() {
            // A `Room` that was forgotten has left its place as it was.
            if self.place(position).filled.load(Ordering::Acquire) == position + 1 {
                let place = self.place(position);
                // SAFETY: `&mut self`: nobody else is here. The place was filled
                // for this position, which lies above the head, so its entry
                // was not moved out.
                drop(
                    place
                        .entry
                        .with(|place| unsafe { (*place).assume_init_read() }),
                );
            }
        }
    }
}
