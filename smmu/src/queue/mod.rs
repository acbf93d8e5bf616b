//! The queues between driver and SMMU (3.5, chapter 7).
//!
//! # Command queue: protocol
//!
//! Positions are 64-bit numbers that only grow; hardware sees their low bits.
//! Every producer
//!
//! 1. **reserves** positions with one addition to one word, for an invalidation and
//!    its sync together if both are wanted;
//! 2. **writes** its entries and then exchanges, with release ordering, the end of
//!    its batch into the slot of the batch's first command: the batch is *ready*;
//! 3. if the exchange brought up the *baton*, **carries** it over every batch behind
//!    that is ready, writes `PROD` once, and lays it down in the slot of the first
//!    that is not ready, by a compare-exchange. If that fails, the batch has become
//!    ready, and the baton goes on.
//!
//! There is one baton, so one thread at a time publishes, and what it publishes
//! only grows: `PROD` never moves backwards (A9). Who does not find the baton in
//! its slot leaves at once: the baton lies, or will be laid, before an earlier
//! batch, and whoever carries it past here sees to this one. So nobody waits for its
//! turn, and only one word is written by every producer.
//!
//! Batches of invalidations without a sync are not *urgent*: they ride with the next
//! sync, whoever begins it. Who carries the baton over nothing urgent writes no
//! `PROD`. A producer that finds the queue full picks the baton up and publishes
//! what waits, before it waits for room.
//!
//! An addition cannot be refused, so a producer may reserve positions that have no
//! room. It never waits with them, but **gives back**. That takes a compare-exchange which succeeds if nobody
//! reserved anything behind. Whoever did has no room either (or there is room for
//! both by now), and gives back as well, so the last can, then the one before it. Only
//! then does it wait for room, within its time.
//!
//! Who begins a sync when the last published command is a `CMD_SYNC` and nothing was
//! reserved since **shares** it: every invalidation that it has to cover was
//! reserved before, so that sync lies behind them.
//!
//! A thread may be delayed between steps 1 and 2, or with the baton, for as long as
//! its scheduler likes: what others queued behind is published when it goes on, and
//! they wait for that in [`CommandQueue::sync_wait`] or for room, with their
//! timeouts. (Only giving back waits for others' giving back without a bound of
//! its own.) Do not call the queue from an interrupt handler that may interrupt a
//! producer and waits. No lock is held while anybody waits for the hardware.
//!
//! # Command queue: errors
//!
//! Whoever waits polls `GERROR` too. An illegal command is overwritten with
//! `CMD_SYNC` and skipped; from that moment **no** sync succeeds until a *heal*
//! batch (everything invalidated, configuration caches included) behind it has
//! completed: what was lost is covered by it, whoever lost it. Syncs at positions
//! before the end of the heal batch fail, in doubt also some that had completed;
//! their callers begin again (A11). A queue whose consumer index is impossible,
//! or that repeats an error at one position, *stops*: nothing succeeds until it
//! is reset.
//!
//! # Event queue
//!
//! One consumer at a time, see [`EventQueue`].

mod command;
mod errors;
mod event;
#[cfg(all(test, loom))]
mod loom_reserve_tests;
#[cfg(all(test, loom))]
mod loom_tests;
mod place;
mod publish;
mod recovery;
mod reserve;
#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) mod testing;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod wait;

pub use command::{CommandQueue, QueueConfig};
pub use errors::{GlobalErrors, QueueError, QueueSetupError, StopReason, WaitError};
pub use event::{EventBatch, EventQueue, EventQueueError};
pub use recovery::QueueFaults;
