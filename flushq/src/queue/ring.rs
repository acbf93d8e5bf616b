//! A ring with one producer, the owner of a slot, and one consumer, whoever
//! holds the flushers' lock.

use alloc::{boxed::Box, vec::Vec};
use core::mem::MaybeUninit;

use dmabench_platform::{
    CachePadded,
    sync::{
        atomic::{AtomicU64, Ordering},
        cell::UnsafeCell,
    },
};

/// Positions only grow; an entry lives at its position modulo the size. So
/// `tail - head` is the number of entries, and all places can be used.
pub(super) struct Ring<T> {
    owner: CachePadded<OwnerSide>,
    consumer: CachePadded<ConsumerSide>,
    entries: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

/// Written by the owner.
struct OwnerSide {
    /// Entries pushed so far. The release store publishes the entry and all the
    /// owner did before, such as clearing the tables. The owner never reads
    /// it: loom 0.7 forgets another thread's read of an atomic when the writer
    /// reads it too, and would then not try the order of the two.
    tail: AtomicU64,
    /// The owner's own copy of `tail`.
    pushed: AtomicU64,
    /// What the owner last saw in `head`, to leave that line alone. Only the
    /// owner looks at it.
    head_seen: AtomicU64,
}

/// Written by the consumer.
struct ConsumerSide {
    /// Entries taken out so far. The consumer keeps a copy and never reads it.
    head: AtomicU64,
}

// SAFETY: entries move from the owner to the consumer, at most one of each at a
// time (the contracts of `push` and `pop`), with release and acquire between.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    /// A ring of `size` places, if there is memory for it; `size` is a power of
    /// two.
    pub(super) fn new(size: usize) -> Option<Self> {
        debug_assert!(size.is_power_of_two());
        let mut entries = Vec::new();
        entries.try_reserve_exact(size).ok()?;
        entries.extend((0..size).map(|_| UnsafeCell::new(MaybeUninit::uninit())));
        Some(Ring {
            owner: CachePadded::new(OwnerSide {
                tail: AtomicU64::new(0),
                pushed: AtomicU64::new(0),
                head_seen: AtomicU64::new(0),
            }),
            consumer: CachePadded::new(ConsumerSide {
                head: AtomicU64::new(0),
            }),
            entries: entries.into_boxed_slice(),
        })
    }

    #[inline]
    fn place(&self, position: u64) -> &UnsafeCell<MaybeUninit<T>> {
        let index = position as usize & (self.entries.len() - 1);
        // SAFETY: the length is a power of two, so masking with one less gives
        // an index below it.
        unsafe { self.entries.get_unchecked(index) }
    }

    /// Entries pushed so far, and with it a view of all their owner had done.
    #[inline]
    pub(super) fn tail(&self) -> u64 {
        self.owner.tail.load(Ordering::Acquire)
    }

    /// Entries taken out so far.
    #[inline]
    pub(super) fn head(&self) -> u64 {
        self.consumer.head.load(Ordering::Acquire)
    }

    /// The position of the next entry, if there is a place for it. For the owner;
    /// the answer stays true until it pushes.
    #[inline]
    pub(super) fn room(&self) -> Option<u64> {
        let tail = self.owner.pushed.load(Ordering::Relaxed);
        let size = self.entries.len() as u64;
        if tail - self.owner.head_seen.load(Ordering::Relaxed) < size || self.look_again(tail) {
            Some(tail)
        } else {
            None
        }
    }

    #[cold]
    fn look_again(&self, tail: u64) -> bool {
        // Acquire: the consumer has moved out what was there.
        let head = self.consumer.head.load(Ordering::Acquire);
        self.owner.head_seen.store(head, Ordering::Relaxed);
        tail - head < self.entries.len() as u64
    }

    /// Adds `entry` at `tail`. `publish` is `Release`; the checkers also try
    /// what must fail.
    ///
    /// # Safety
    ///
    /// * `room` has returned `tail`, and no entry was pushed since.
    /// * Nobody else calls `push` on this ring at the same time.
    #[inline(always)]
    pub(super) unsafe fn push(&self, tail: u64, entry: T, publish: Ordering) {
        // SAFETY: at most `size - 1` entries lie between the consumer's head and
        // the tail, so this place is outside what the consumer may read, and
        // its last content was moved out before the `head` we saw was stored.
        self.place(tail)
            .with_mut(|place| unsafe { (*place).write(entry) });
        self.owner.pushed.store(tail + 1, Ordering::Relaxed);
        self.owner.tail.store(tail + 1, publish);
    }

    /// Takes out the entry at `position`.
    ///
    /// # Safety
    ///
    /// * Nobody else calls `pop` on this ring at the same time.
    /// * `position` is the number of entries taken out before.
    /// * It is less than a value that [`tail`](Self::tail) has returned to the
    ///   caller, or to one whose work the caller has seen.
    #[inline]
    pub(super) unsafe fn pop(&self, position: u64) -> T {
        // SAFETY: head = position < tail, so the entry was written and published
        // to us, and the owner does not write this place before `head` has
        // passed it. It is read once: the next call is for the next position.
        let entry = self
            .place(position)
            .with(|place| unsafe { (*place).assume_init_read() });
        self.consumer.head.store(position + 1, Ordering::Release);
        entry
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        for position in self.head()..self.tail() {
            // SAFETY: `&mut self`: nobody else is here; the positions are those
            // from `head` on, each below the tail.
            drop(unsafe { self.pop(position) });
        }
    }
}
