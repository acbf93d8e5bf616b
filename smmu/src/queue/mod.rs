//! The queues between driver and SMMU (3.5, chapter 7).
//!
//! # Command queue: protocol
//!
//! Positions are 64-bit numbers that only grow; hardware sees their low bits.
//! Every producer
//!
//! 1. **reserves** positions with one compare-exchange on one word, which holds
//!    the next position, how many commands before it nobody will publish yet,
//!    and whether the last one is a `CMD_SYNC`;
//! 2. **writes** its entries and then, with release ordering, the end of its
//!    batch beside the first slot: the batch is *ready*;
//! 3. if it is *publishing*, takes its **turn**: it waits until the turn before
//!    it is over, waits until every batch before its own end is ready, goes on
//!    over later batches that happen to be ready, and writes `PROD` once.
//!
//! Batches of invalidations are not publishing: they ride with the next sync,
//! whoever begins it, because a sync's own position lies behind theirs. So an
//! invalidation and its sync cost two compare-exchanges and one register write
//! together, and no lock. Turns follow one another in the order of reservation,
//! hence `PROD` never moves backwards (A9). A producer that finds the queue full
//! publishes what waits before it waits for room.
//!
//! Who begins a sync while the last reserved command is a `CMD_SYNC` **shares**
//! it: every invalidation that it has to cover was reserved before, so that sync
//! lies behind them too.
//!
//! A thread may be delayed between steps 1 and 3 for as long as its scheduler
//! likes, and others then wait for it, as for the holder of a lock; do not call
//! the queue from an interrupt handler that may interrupt a producer. No lock is
//! held while anybody waits for the hardware, and those waits are bounded.
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
