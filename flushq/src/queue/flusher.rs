//! The queue itself: who pushes, who flushes, what is released when.

use alloc::{boxed::Box, sync::Arc as StdArc, vec::Vec};
use core::{fmt, marker::PhantomData};

use dmabench_platform::{
    SlotGuard, Slots, TimeNs, Timeout,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    FlushStats, Flushed, Merge, OneRing, PerSlotRings, QueueConfig, QueueConfigError, Room,
    SharedRoom, rings::Rings,
};
use crate::{Late, TlbBackend};

/// Things of type `T`, and now and then an `X` beside one, that wait for a flush
/// that begins after they were queued.
///
/// One per address space, with a ring for each slot, or [one for
/// all](super::SingleQueue). See the [module](crate::queue) for the protocol. Dropping the
/// queue drops the entries that are left in it: make that harmless (tokens that
/// leak) or [`drain`](Self::drain) first.
pub struct FlushQueue<T, X = (), R = PerSlotRings<T>> {
    slots: StdArc<Slots>,
    pub(super) rings: R,
    config: QueueConfig,
    /// Entries one call releases at most.
    at_once: u64,
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
    pub(super) fault: Fault,
    entries: PhantomData<fn(T)>,
}

const NOT_STAMPED: u64 = u64::MAX;

/// Entries released in one section: who needs the slot waits no longer.
const IN_ONE_SECTION: u64 = 256;

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

impl<T: Send, X: Merge, R: Rings<T>> FlushQueue<T, X, R> {
    /// A queue for the slots of the table.
    ///
    /// # Errors
    ///
    /// [`QueueConfigError`].
    pub fn new(config: QueueConfig, slots: StdArc<Slots>) -> Result<Self, QueueConfigError> {
        let size = config.entries_per_slot;
        let max = FlushQueue::<T, X>::MAX_ENTRIES;
        if size < 2 || !size.is_power_of_two() || size > max {
            return Err(QueueConfigError::BadSize {
                entries_per_slot: size,
            });
        }
        let rings = R::with_size(size, slots.count()).ok_or(QueueConfigError::NoMemory)?;
        let count = rings.count();
        Ok(FlushQueue {
            slots,
            rings,
            config,
            at_once: u64::MAX,
            flusher: Mutex::new(Flusher {
                flushed: zeros(count)?,
                released: zeros(count)?,
                snapshot: zeros(count)?,
            }),
            extra: Mutex::new(X::default()),
            has_extra: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            due: AtomicU64::new(NOT_STAMPED),
            polled_at: AtomicU64::new(0),
            #[cfg(test)]
            fault: Fault::None,
            entries: PhantomData,
        })
    }

    /// Lets each call release `entries` at most, for a `release` that has no
    /// room for more: [`release_covered`](Self::release_covered) has the rest.
    #[must_use]
    pub fn releasing_at_most(mut self, entries: u64) -> Self {
        self.at_once = entries.max(1);
        self
    }

    /// What the queue was made with.
    pub fn config(&self) -> QueueConfig {
        self.config
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

    #[inline]
    pub(super) fn publish_ordering(&self) -> Ordering {
        #[cfg(test)]
        if self.fault == Fault::PublishRelaxed {
            return Ordering::Relaxed;
        }
        Ordering::Release
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
        self.check_table(slot);
        let index = self.rings.of_slot(slot.index());
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
        let released = self.release_ring(&mut flusher, index, self.at_once, slot, &mut release);
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
                let due = now.saturating_add_ns(self.config.timeout_ns).0;
                self.due.store(due.min(NOT_STAMPED - 1), Ordering::Relaxed);
            }
            return Ok(Flushed::default());
        }
        if now.0 < due {
            return Ok(Flushed::default());
        }
        self.flush_everybody(slot, Some(now), backend, context, timeout, release)
            .inspect_err(|_| {
                let again = now.saturating_add_ns(self.config.timeout_ns).0;
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
        let queued = |ring| {
            let head = self.rings.head(ring);
            self.rings.tail(ring).saturating_sub(head)
        };
        (0..self.rings.count()).map(queued).sum()
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
            || (0..self.rings.count()).any(|ring| self.rings.head(ring) != self.rings.tail(ring))
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
            let stamp = self.due.load(Ordering::Relaxed);
            let due = now.is_none_or(|now| now.0 >= stamp);
            let mut flushed = flusher.flushed.iter().enumerate();
            let wanted = due
                && (self.has_extra.load(Ordering::Relaxed)
                    || flushed.any(|(ring, flushed)| self.rings.tail(ring) > *flushed));
            let mut extra = X::default();
            if wanted {
                extra = self.flush(&mut flusher, backend, context, timeout)?;
            } else if due {
                // Not a time that a poll gave to something that came meanwhile.
                let _ = self.due.compare_exchange(
                    stamp,
                    NOT_STAMPED,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            Ok::<_, Late>((flusher, wanted, extra))
        })?;
        let released = self.release_all(&mut flusher, slot, &mut release);
        Ok(Flushed {
            flushed,
            released,
            extra,
        })
    }

    /// Releases what completed flushes have covered, in every slot, without
    /// another flush, and says how many entries that were: for a queue that
    /// [releases few at once](Self::releasing_at_most). 0: no more.
    ///
    /// # Panics
    ///
    /// If the guard is of another table than the queue's.
    pub fn release_covered(
        &self,
        slot: &mut SlotGuard<'_>,
        mut release: impl FnMut(&mut SlotGuard<'_>, T),
    ) -> u64 {
        self.check_table(slot);
        let mut flusher = slot.pause(|| self.flusher.lock());
        self.release_all(&mut flusher, slot, &mut release)
    }

    fn release_all(
        &self,
        flusher: &mut MutexGuard<'_, Flusher>,
        slot: &mut SlotGuard<'_>,
        release: &mut impl FnMut(&mut SlotGuard<'_>, T),
    ) -> u64 {
        let mut released = 0;
        for ring in 0..self.rings.count() {
            released += self.release_ring(flusher, ring, self.at_once - released, slot, release);
            // Short sections: somebody may be waiting for this one to end.
            slot.pause(|| ());
        }
        released
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
        let mut taken = Taken {
            extra: None,
            due,
            from: self,
        };
        self.take_snapshot(flusher);
        taken.extra = Some({
            let mut extra = self.extra.lock();
            self.has_extra.store(false, Ordering::Relaxed);
            core::mem::take(&mut *extra)
        });
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
        done?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        flusher.flushed.copy_from_slice(&flusher.snapshot);
        Ok(taken.extra.take().unwrap_or_default())
    }

    #[cold]
    pub(super) fn add_extra(&self, more: X) {
        let mut extra = self.extra.lock();
        extra.merge(more);
        self.has_extra.store(true, Ordering::Relaxed);
    }

    fn take_snapshot(&self, flusher: &mut Flusher) {
        let Flusher {
            flushed, snapshot, ..
        } = flusher;
        for (ring, (tail, from)) in snapshot.iter_mut().zip(flushed.iter()).enumerate() {
            *tail = self.rings.filled(ring, *from);
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
        ring: usize,
        at_most: u64,
        slot: &mut SlotGuard<'_>,
        release: &mut impl FnMut(&mut SlotGuard<'_>, T),
    ) -> u64 {
        let first = flusher.released[ring];
        let end = flusher.flushed[ring];
        let mut released = 0;
        for position in first..end {
            if released == at_most {
                break;
            }
            // SAFETY: the flushers' lock is held: nobody else pops. `released`
            // counts the pops, as it moves on with each of them; and `flushed`
            // is what the flush of this or an earlier holder has seen filled.
            let entry = unsafe { self.rings.pop(ring, position) };
            flusher.released[ring] = position + 1;
            if let Some(entry) = entry {
                released += 1;
                release(slot, entry);
            }
            if (position + 1 - first).is_multiple_of(IN_ONE_SECTION) && position + 1 < end {
                slot.pause(|| ());
            }
        }
        released
    }
}

/// What a flush has taken out of the queue. It goes back unless the flush takes
/// it out of here: where that fails, or where the backend unwinds.
struct Taken<'q, T: Send, X: Merge, R: Rings<T>> {
    extra: Option<X>,
    due: u64,
    from: &'q FlushQueue<T, X, R>,
}

impl<T: Send, X: Merge, R: Rings<T>> Drop for Taken<'_, T, X, R> {
    fn drop(&mut self) {
        if let Some(extra) = self.extra.take() {
            self.from.add_extra(extra);
            self.from.failed.fetch_add(1, Ordering::Relaxed);
            self.from.due.fetch_min(self.due, Ordering::Relaxed);
        }
    }
}

impl<T: Send, X: Merge> FlushQueue<T, X> {
    /// The caller's ring.
    #[inline]
    fn own(&self, slot: &SlotGuard<'_>) -> &super::ring::Ring<T> {
        self.check_table(slot);
        debug_assert!(slot.index().as_usize() < self.rings.0.len());
        // SAFETY: an index is made by its table only and is below its `count`,
        // which is the number of rings.
        unsafe { self.rings.0.get_unchecked(slot.index().as_usize()) }
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
}

impl<T: Send, X: Merge> FlushQueue<T, X, OneRing<T>> {
    /// Takes a place for one entry; `None` if the ring is full: then
    /// [`flush_own`](Self::flush_own). Ask before the tables are touched, and
    /// nothing can go wrong afterwards. Do not hold it for long: flushes leave
    /// what others push behind it to a later one.
    ///
    /// # Panics
    ///
    /// If the guard is of another table than the queue's.
    #[inline]
    pub fn take_room<'q, 'g, 's>(
        &'q self,
        slot: &'g mut SlotGuard<'s>,
    ) -> Option<SharedRoom<'q, 'g, 's, T, X>> {
        self.check_table(slot);
        Some(SharedRoom::new(self, self.rings.0.take()?, slot))
    }
}

fn zeros(count: usize) -> Result<Box<[u64]>, QueueConfigError> {
    let mut all = Vec::new();
    all.try_reserve_exact(count)
        .map_err(|_| QueueConfigError::NoMemory)?;
    all.resize(count, 0);
    Ok(all.into_boxed_slice())
}

#[cold]
#[inline(never)]
fn wrong_table() -> ! {
    panic!(
        "slot guard of another table than this queue's: make all parts of a domain from one `Slots`"
    )
}

impl<T, X, R> fmt::Debug for FlushQueue<T, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushQueue")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
