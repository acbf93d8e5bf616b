//! The flush queue: unmaps now, one invalidation for many of them later.
//!
//! # Protocol
//!
//! Each slot has a ring. Its owner clears the tables, then *pushes* what must
//! not be reused yet; the push ends in a release store of the ring's tail and
//! that is all the hot path pays. A *flusher* is whoever finds its ring full or
//! the time up. Flushers exclude each other by a lock and run outside every
//! section:
//!
//! ```text
//! owner                         flusher (under the lock)
//!   clear table entries           snapshot = every ring's tail   (acquire)
//!   write the entry               invalidate_all
//!   tail += 1        (release)    sync_begin, sync_wait
//!                                 flushed = snapshot, if the sync succeeded
//!                                 release entries below `flushed`
//! ```
//!
//! An entry below the snapshot was pushed before the tail was read, so the
//! tables were cleared before the invalidation began, and the flusher, having
//! acquired the tail, hands that order on to the backend. An entry pushed later
//! stays for the next flush even if it arrives while this one runs. What is queued
//! beside entries (detached tables) is taken, under a lock of its own, before the
//! invalidation, and comes back to the flusher after it. A flush
//! that fails moves nothing, so nothing is released (A11) and the next one
//! covers the same entries.
//!
//! A flusher that acts for a full ring releases the entries of its own ring and
//! leaves those of other slots, now marked as flushed, to their owners, in whose
//! caches they belong; [`poll`](FlushQueue::poll) and
//! [`drain`](FlushQueue::drain) release everybody's.
//!
//! # Time
//!
//! No push reads a clock. `poll(now)` notes the time when it first sees entries,
//! and flushes when that was [`timeout_ns`](QueueConfig::timeout_ns) ago. So an
//! entry waits at most for the timeout, the time between two polls, and one
//! flush (L1).

#[cfg(all(test, loom))]
mod loom_tests;
mod ring;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use alloc::{boxed::Box, sync::Arc as StdArc, vec::Vec};
use core::fmt;

use dmabench_pgtable::DetachedTables;
use dmabench_platform::{
    SlotGuard, Slots, TimeNs, Timeout,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{Late, TlbBackend};
use ring::Ring;

/// Size and timing of a [`FlushQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Entries per slot: a power of two, at least 2. 256 as in Linux
    /// (`IOVA_DEFAULT_FQ_SIZE`), all of which can be used here; Linux uses 255.
    pub entries_per_slot: usize,
    /// How long entries may wait, in nanoseconds. 10 ms as in Linux
    /// (`IOVA_DEFAULT_FQ_TIMEOUT`).
    pub timeout_ns: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig {
            entries_per_slot: 256,
            timeout_ns: 10_000_000,
        }
    }
}

/// Why a queue cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueConfigError {
    /// The size is 0, 1, no power of two, or beyond [`FlushQueue::MAX_ENTRIES`].
    BadSize {
        /// What was asked for.
        entries_per_slot: usize,
    },
}

impl fmt::Display for QueueConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueConfigError::BadSize { entries_per_slot } => write!(
                f,
                "a flush queue of {entries_per_slot} entries cannot be; take a power of two from 2 to {}",
                FlushQueue::<()>::MAX_ENTRIES
            ),
        }
    }
}

impl core::error::Error for QueueConfigError {}

/// What flushers did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushStats {
    /// Flushes that completed.
    pub flushes: u64,
    /// Flushes that failed or were late, and released nothing.
    pub failed: u64,
}

/// What one call to a flusher did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed<X = ()> {
    /// Whether the backend was asked to invalidate everything. `false` if an
    /// earlier flush had covered what was wanted.
    pub flushed: bool,
    /// Entries released.
    pub released: u64,
    /// What was queued [beside entries](Room::push_with) and may be released.
    pub extra: X,
}

/// Something that is queued beside an entry now and then, and needs no place of
/// its own: all of it waits together. Table pages are the case in point.
pub trait Merge: Default + Send {
    /// Adds `other`.
    fn merge(&mut self, other: Self);
}

impl Merge for () {
    fn merge(&mut self, (): ()) {}
}

impl Merge for DetachedTables {
    fn merge(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

/// Things of type `T`, and now and then an `X` beside one, that wait for a flush
/// that begins after they were queued.
///
/// One per address space. See the [module](crate::queue) for the protocol. Dropping the
/// queue drops the entries that are left in it: make that harmless (tokens that
/// leak) or [`drain`](Self::drain) first.
pub struct FlushQueue<T, X = ()> {
    slots: StdArc<Slots>,
    rings: Box<[Ring<T>]>,
    timeout_ns: u64,
    flusher: Mutex<Flusher>,
    /// What was queued beside entries since the last flush began. Seldom used,
    /// so it is one for all.
    extra: Mutex<X>,
    /// Whether there is something in `extra`.
    has_extra: AtomicBool,
    /// Flushes that completed; written under the lock.
    flushes: AtomicU64,
    /// Flushes that failed; written under the lock.
    failed: AtomicU64,
    /// When the next timed flush is due; `NOT_STAMPED` if `poll` has seen no
    /// entries since the last flush began.
    due: AtomicU64,
    /// The latest time `poll` was told.
    polled_at: AtomicU64,
    #[cfg(test)]
    fault: Fault,
}

const NOT_STAMPED: u64 = u64::MAX;

/// What only the holder of the flushers' lock knows.
struct Flusher {
    /// For each ring: entries below are covered by a completed flush.
    flushed: Box<[u64]>,
    /// For each ring: entries below have been released.
    released: Box<[u64]>,
    /// Room for the tails, so that a flush does not allocate.
    snapshot: Box<[u64]>,
}

/// Ways to be wrong, for tests that must notice.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The tail is published without the release.
    PublishRelaxed,
    /// The tails are read after the invalidation instead of before it.
    SnapshotLate,
    /// A failed sync counts as success.
    #[cfg(not(loom))]
    IgnoreFailure,
}

impl<T, X> FlushQueue<T, X> {
    /// The most entries a ring can have: Linux's single queue
    /// (`IOVA_SINGLE_FQ_SIZE`).
    pub const MAX_ENTRIES: usize = 32768;
}

impl<T: Send, X: Merge> FlushQueue<T, X> {
    /// A queue with a ring for each slot of the table.
    ///
    /// # Errors
    ///
    /// [`QueueConfigError::BadSize`].
    pub fn new(config: QueueConfig, slots: StdArc<Slots>) -> Result<Self, QueueConfigError> {
        let size = config.entries_per_slot;
        if size < 2 || !size.is_power_of_two() || size > Self::MAX_ENTRIES {
            return Err(QueueConfigError::BadSize {
                entries_per_slot: size,
            });
        }
        let count = slots.count();
        let rings: Vec<_> = (0..count).map(|_| Ring::new(size)).collect();
        Ok(FlushQueue {
            slots,
            rings: rings.into_boxed_slice(),
            timeout_ns: config.timeout_ns,
            flusher: Mutex::new(Flusher {
                flushed: alloc::vec![0; count].into_boxed_slice(),
                released: alloc::vec![0; count].into_boxed_slice(),
                snapshot: alloc::vec![0; count].into_boxed_slice(),
            }),
            extra: Mutex::new(X::default()),
            has_extra: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            due: AtomicU64::new(NOT_STAMPED),
            polled_at: AtomicU64::new(0),
            #[cfg(test)]
            fault: Fault::None,
        })
    }

    /// # Panics
    ///
    /// If the guard is of another table, as
    /// [`PerSlot::get`](dmabench_platform::PerSlot::get): two threads could
    /// else push to one ring.
    #[inline]
    fn check_table(&self, slot: &SlotGuard<'_>) {
        if !core::ptr::eq(slot.slots(), &*self.slots) {
            wrong_table();
        }
    }

    /// The caller's ring.
    #[inline]
    fn own(&self, slot: &SlotGuard<'_>) -> &Ring<T> {
        self.check_table(slot);
        debug_assert!(slot.index().as_usize() < self.rings.len());
        // SAFETY: an index is made by its table only and is below its `count`,
        // which is the number of rings.
        unsafe { self.rings.get_unchecked(slot.index().as_usize()) }
    }

    #[inline]
    fn publish_ordering(&self) -> Ordering {
        #[cfg(test)]
        if self.fault == Fault::PublishRelaxed {
            return Ordering::Relaxed;
        }
        Ordering::Release
    }

    /// A place for one entry in the caller's ring; `None` if it is full: then
    /// [`flush_own`](Self::flush_own). Ask before the tables are touched, and
    /// nothing can go wrong afterwards.
    ///
    /// # Panics
    ///
    /// If the guard is of another table than the queue's.
    #[inline]
    pub fn room<'q, 'g, 's>(
        &'q self,
        slot: &'g mut SlotGuard<'s>,
    ) -> Option<Room<'q, 'g, 's, T, X>> {
        let ring = self.own(slot);
        Some(Room {
            tail: ring.room()?,
            ring,
            slot,
            queue: self,
        })
    }

    /// Queues `entry` in the [`room`](Self::room) there is.
    ///
    /// # Errors
    ///
    /// The entry, if the slot's ring is full.
    ///
    /// # Panics
    ///
    /// If the guard is of another table than the queue's.
    #[inline]
    pub fn push(&self, slot: &mut SlotGuard<'_>, entry: T) -> Result<(), T> {
        match self.room(slot) {
            Some(room) => {
                room.push(entry);
                Ok(())
            }
            None => Err(entry),
        }
    }

    /// Makes room in the caller's own ring: flushes unless an earlier flush
    /// has covered some of it, and passes what may be reused to `release`,
    /// inside the section. The flush itself runs while the section is paused.
    ///
    /// # Errors
    ///
    /// [`Late`] if the flush failed; nothing was released and the next call
    /// tries again.
    pub fn flush_own<B: TlbBackend>(
        &self,
        slot: &mut SlotGuard<'_>,
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
        mut release: impl FnMut(&mut SlotGuard<'_>, T),
    ) -> Result<Flushed<X>, Late> {
        let index = slot.index().as_usize();
        self.check_table(slot);
        let (mut flusher, flushed, extra) = slot.pause(|| {
            let mut flusher = self.flusher.lock();
            let covered = flusher.flushed[index] > flusher.released[index];
            let extra = if covered {
                X::default()
            } else {
                self.flush(&mut flusher, backend, context, timeout)?
            };
            Ok::<_, Late>((flusher, !covered, extra))
        })?;
        let released = self.release_ring(&mut flusher, index, slot, &mut release);
        Ok(Flushed {
            flushed,
            released,
            extra,
        })
    }

    /// For the caller's timer: notes `now`, and if entries have waited for the
    /// timeout, flushes and releases those of every slot, as
    /// [`flush_own`](Self::flush_own) does for one.
    ///
    /// # Errors
    ///
    /// [`Late`] if the flush failed; nothing was released, and it is due again
    /// after another timeout.
    pub fn poll<B: TlbBackend>(
        &self,
        slot: &mut SlotGuard<'_>,
        now: TimeNs,
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
        release: impl FnMut(&mut SlotGuard<'_>, T),
    ) -> Result<Flushed<X>, Late> {
        let now = TimeNs(
            self.polled_at
                .fetch_max(now.0, Ordering::Relaxed)
                .max(now.0),
        );
        let due = self.due.load(Ordering::Relaxed);
        if due == NOT_STAMPED {
            if self.has_work() {
                let due = now.saturating_add_ns(self.timeout_ns).0;
                self.due.store(due.min(NOT_STAMPED - 1), Ordering::Relaxed);
            }
            return Ok(Flushed::default());
        }
        if now.0 < due {
            return Ok(Flushed::default());
        }
        self.flush_everybody(slot, Some(now), backend, context, timeout, release)
            .inspect_err(|_| {
                let again = now.saturating_add_ns(self.timeout_ns).0;
                self.due
                    .store(again.min(NOT_STAMPED - 1), Ordering::Relaxed);
            })
    }

    /// Flushes now and releases everything that was queued before the call, in
    /// every slot.
    ///
    /// # Errors
    ///
    /// [`Late`] if the flush failed; nothing was released.
    pub fn drain<B: TlbBackend>(
        &self,
        slot: &mut SlotGuard<'_>,
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
        release: impl FnMut(&mut SlotGuard<'_>, T),
    ) -> Result<Flushed<X>, Late> {
        self.flush_everybody(slot, None, backend, context, timeout, release)
    }

    /// When to call [`poll`](Self::poll) next; `None` while nothing is queued. A
    /// time in the past says: now. (Entries that no poll has seen yet have no
    /// time; the answer is then the time of the last poll.)
    pub fn next_deadline(&self) -> Option<TimeNs> {
        let due = self.due.load(Ordering::Relaxed);
        if due != NOT_STAMPED {
            Some(TimeNs(due))
        } else if self.has_work() {
            Some(TimeNs(self.polled_at.load(Ordering::Relaxed)))
        } else {
            None
        }
    }

    /// Entries queued in all slots. Exact while nobody calls.
    pub fn len(&self) -> u64 {
        // The head first: it never passes the tail.
        self.rings
            .iter()
            .map(|ring| {
                let head = ring.head();
                ring.tail() - head
            })
            .sum()
    }

    /// Whether nothing is queued. Exact while nobody calls.
    pub fn is_empty(&self) -> bool {
        !self.has_work()
    }

    /// What flushers did so far.
    pub fn stats(&self) -> FlushStats {
        FlushStats {
            flushes: self.flushes.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    fn has_work(&self) -> bool {
        self.has_extra.load(Ordering::Relaxed)
            || self.rings.iter().any(|ring| ring.head() != ring.tail())
    }

    /// `now` is `None` where the flush is wanted whatever the time.
    fn flush_everybody<B: TlbBackend>(
        &self,
        slot: &mut SlotGuard<'_>,
        now: Option<TimeNs>,
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
        mut release: impl FnMut(&mut SlotGuard<'_>, T),
    ) -> Result<Flushed<X>, Late> {
        self.check_table(slot);
        let (mut flusher, flushed, extra) = slot.pause(|| {
            let mut flusher = self.flusher.lock();
            // Another flusher may have been faster.
            let due = now.is_none_or(|now| now.0 >= self.due.load(Ordering::Relaxed));
            let mut rings = self.rings.iter().zip(&flusher.flushed);
            let wanted = due
                && (self.has_extra.load(Ordering::Relaxed)
                    || rings.any(|(ring, flushed)| ring.tail() > *flushed));
            let mut extra = X::default();
            if wanted {
                extra = self.flush(&mut flusher, backend, context, timeout)?;
            } else if due {
                self.due.store(NOT_STAMPED, Ordering::Relaxed);
            }
            Ok::<_, Late>((flusher, wanted, extra))
        })?;
        let mut released = 0;
        for index in 0..self.rings.len() {
            released += self.release_ring(&mut flusher, index, slot, &mut release);
            // Short sections: somebody may be waiting for this one to end.
            slot.pause(|| ());
        }
        Ok(Flushed {
            flushed,
            released,
            extra,
        })
    }

    /// Invalidates everything, and marks as flushed what had been pushed before.
    /// What had been queued beside it comes back, to be released. On an error
    /// nothing is marked.
    fn flush<B: TlbBackend>(
        &self,
        flusher: &mut Flusher,
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
    ) -> Result<X, Late> {
        // Before the snapshot: a poll that sees an entry pushed after it gives
        // that entry a time, which must last.
        let due = self.due.swap(NOT_STAMPED, Ordering::Relaxed);
        self.take_snapshot(flusher);
        let extra = {
            let mut extra = self.extra.lock();
            self.has_extra.store(false, Ordering::Relaxed);
            core::mem::take(&mut *extra)
        };
        let done = Self::invalidate_and_wait(backend, context, timeout);
        #[cfg(test)]
        let done = match self.fault {
            Fault::SnapshotLate => {
                self.take_snapshot(flusher);
                done
            }
            #[cfg(not(loom))]
            Fault::IgnoreFailure => Ok(()),
            _ => done,
        };
        match done {
            Ok(()) => {
                self.flushes.fetch_add(1, Ordering::Relaxed);
                flusher.flushed.copy_from_slice(&flusher.snapshot);
                Ok(extra)
            }
            Err(late) => {
                self.add_extra(extra);
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.due.fetch_min(due, Ordering::Relaxed);
                Err(late)
            }
        }
    }

    #[cold]
    fn add_extra(&self, more: X) {
        let mut extra = self.extra.lock();
        extra.merge(more);
        self.has_extra.store(true, Ordering::Relaxed);
    }

    fn take_snapshot(&self, flusher: &mut Flusher) {
        for (ring, tail) in self.rings.iter().zip(&mut flusher.snapshot) {
            *tail = ring.tail();
        }
    }

    fn invalidate_and_wait<B: TlbBackend>(
        backend: &B,
        context: &B::Context,
        timeout: Timeout,
    ) -> Result<(), Late> {
        backend.invalidate_all(None, context)?;
        let ticket = backend.sync_begin(None)?;
        let synced = backend.sync_wait(None, ticket, timeout)?;
        // A proof of an earlier point proves nothing here.
        if synced.up_to() < ticket {
            return Err(Late::TimedOut { after: timeout });
        }
        Ok(())
    }

    fn release_ring(
        &self,
        flusher: &mut MutexGuard<'_, Flusher>,
        index: usize,
        slot: &mut SlotGuard<'_>,
        release: &mut impl FnMut(&mut SlotGuard<'_>, T),
    ) -> u64 {
        let first = flusher.released[index];
        let end = flusher.flushed[index];
        for position in first..end {
            // SAFETY: the flushers' lock is held: nobody else pops. `released`
            // counts the pops, as it moves on with each of them; and `flushed`
            // is a tail that the flush of this or an earlier holder has read.
            let entry = unsafe { self.rings[index].pop(position) };
            flusher.released[index] = position + 1;
            release(slot, entry);
        }
        end - first
    }
}

/// A place in the caller's ring. It borrows the guard, so there is one at most,
/// and the section does not end before it is used.
#[must_use = "nothing is queued before `push`"]
pub struct Room<'q, 'g, 's, T, X = ()> {
    queue: &'q FlushQueue<T, X>,
    ring: &'q Ring<T>,
    tail: u64,
    slot: &'g mut SlotGuard<'s>,
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

#[cold]
#[inline(never)]
fn wrong_table() -> ! {
    panic!(
        "slot guard of another table than this queue's: make all parts of a domain from one `Slots`"
    )
}

impl<T, X> fmt::Debug for FlushQueue<T, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushQueue")
            .field("rings", &self.rings.len())
            .field("timeout_ns", &self.timeout_ns)
            .finish_non_exhaustive()
    }
}
