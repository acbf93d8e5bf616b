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
//! # One ring for all
//!
//! With [`OneRing`] every slot pushes to the same ring ([`SingleQueue`]; Linux's
//! single queue). A push takes a position by compare-exchange, its one locked
//! instruction, and marks the place as filled with a release store. The flusher's
//! snapshot ends at the first place that is taken and not filled; what lies
//! behind it waits for the next flush. Who finds the ring full releases all of
//! it.
//!
//! # What a long queue costs
//!
//! Every request of 128 KiB, by `dmabench compare --workload dd-seq --modes
//! lazy,lazy-single`: with 256 entries one ring for all costs 1.02 times what a
//! ring per slot does (one thread), with 4096 1.1, with 8192 1.2, with 32768 1.4.
//! The length does it: a ring per slot of 32768 entries costs 0.95 of the one
//! ring of that length. Two causes:
//!
//! * *The tables leave the processor's cache*, and no queue of that length can
//!   help it: a mapping is written where the one before it was cleared 32768
//!   requests ago, and 32768 times 32 entries are 8 MiB. With a cache of 512 KiB
//!   behind the first one (callgrind, `--LL=524288,8,64`) 3.3 of a mapping's 4
//!   lines have to come from further away, 0.1 with 256 entries; of the ring it
//!   is 0.75 lines, which come in order.
//! * *The addresses that a flush gives back* were more than the depots of the
//!   allocator had room for: all but 3000 of them went to the index, one by one,
//!   and came from there. A domain now tells the allocator how many a flush can
//!   give back (`IovaConfig::burst`). Until
//!   then 32768 entries cost 2.6 times what 256 did.
//!
//! # Time
//!
//! No push reads a clock. `poll(now)` notes the time when it first sees entries,
//! and flushes when that was [`timeout_ns`](QueueConfig::timeout_ns) ago. So an
//! entry waits at most for the timeout, the time between two polls, and one
//! flush (L1).

mod flusher;
#[cfg(all(test, loom))]
mod loom_tests;
mod ring;
mod rings;
mod room;
mod shared;
#[cfg(all(test, not(any(loom, shuttle))))]
mod single_tests;
#[cfg(all(test, not(shuttle)))]
#[cfg_attr(loom, allow(dead_code, reason = "the models enter slots of their own"))]
mod test_support;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod threads_tests;

use core::fmt;

use dmabench_pgtable::DetachedTables;

#[cfg(test)]
pub(crate) use flusher::Fault;
pub use flusher::FlushQueue;
pub use rings::{OneRing, PerSlotRings, Rings};
pub use room::{Room, SharedRoom};

/// A [`FlushQueue`] with one ring for all slots.
pub type SingleQueue<T, X = ()> = FlushQueue<T, X, OneRing<T>>;

/// Size and timing of a [`FlushQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Entries per slot, or of the one ring there is: a power of two, at least
    /// 2. 256 as in Linux (`IOVA_DEFAULT_FQ_SIZE`), all of which can be used
    /// here; Linux uses 255.
    pub entries_per_slot: usize,
    /// How long entries may wait, in nanoseconds. 10 ms as in Linux
    /// (`IOVA_DEFAULT_FQ_TIMEOUT`).
    pub timeout_ns: u64,
}

impl QueueConfig {
    /// Linux's queue per CPU: 256 entries, 10 ms.
    pub const PER_SLOT: QueueConfig = QueueConfig {
        entries_per_slot: 256,
        timeout_ns: 10_000_000,
    };

    /// Linux's single queue: 32768 entries (`IOVA_SINGLE_FQ_SIZE`), 1 s
    /// (`IOVA_SINGLE_FQ_TIMEOUT`).
    pub const SINGLE: QueueConfig = QueueConfig {
        entries_per_slot: 32768,
        timeout_ns: 1_000_000_000,
    };
}

impl Default for QueueConfig {
    fn default() -> Self {
        QueueConfig::PER_SLOT
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
    /// No memory for its rings.
    NoMemory,
}

impl fmt::Display for QueueConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueConfigError::BadSize { entries_per_slot } => write!(
                f,
                "a flush queue of {entries_per_slot} entries cannot be; take a power of two from 2 to {}",
                FlushQueue::<()>::MAX_ENTRIES
            ),
            QueueConfigError::NoMemory => {
                f.write_str("no memory for the flush queue: free some, or take fewer entries")
            }
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
