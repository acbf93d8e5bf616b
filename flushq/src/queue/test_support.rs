//! What the tests of both kinds of queue share.

use alloc::sync::Arc;
use core::ops::Deref;

use dmabench_platform::{Fences, SlotGuard, Slots, Timeout};

use super::QueueConfig;
use crate::{BackendError, Late, Synced, Ticket, TlbBackend, TlbRange};

pub(super) const T: Timeout = Timeout::DEFAULT;

pub(super) fn slots() -> Arc<Slots> {
    Arc::new(Slots::new(2, Fences::Symmetric).unwrap())
}

pub(super) fn config(entries_per_slot: usize) -> QueueConfig {
    QueueConfig {
        entries_per_slot,
        timeout_ns: 1000,
    }
}

/// # Safety
///
/// One thread for each number.
pub(super) unsafe fn enter(slots: &Slots, index: usize) -> SlotGuard<'_> {
    // SAFETY: the caller promised it.
    unsafe { slots.enter(Some(index)) }.unwrap()
}

/// A TLB as a flush queue sees one: all of it is invalidated, at once.
pub(super) trait Tlb: Send + Sync {
    /// Forgets what the tables no longer have.
    fn forget(&self);

    /// Whether the sync is in time.
    fn in_time(&self) -> bool {
        true
    }
}

impl<F: Fn() + Send + Sync> Tlb for F {
    fn forget(&self) {
        self();
    }
}

/// The backend of that TLB.
pub(super) struct AtOnce<M>(pub(super) M);

impl<M> Deref for AtOnce<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

// SAFETY: `forget` looks at every translation that the model has, and is done when
// it returns.
unsafe impl<M: Tlb> TlbBackend for AtOnce<M> {
    type Context = ();

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        _ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        unreachable!("a flush queue invalidates everything at once")
    }

    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        assert!(slot.is_none(), "flushes run outside every section");
        self.0.forget();
        Ok(())
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(1))
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        after: Timeout,
    ) -> Result<Synced, Late> {
        if !self.0.in_time() {
            return Err(Late::TimedOut { after });
        }
        // SAFETY: `invalidate_all` completes at once.
        Ok(unsafe { Synced::new(ticket) })
    }
}
