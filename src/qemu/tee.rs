//! A driver, with the counting backend beside it.

use std::{borrow::Cow, sync::Arc};

use dmabench_flushq::{
    BackendError, CountingBackend, JoinCost, Late, Synced, Ticket, TlbBackend, TlbRange,
};
use dmabench_platform::{Iova, SlotGuard, Timeout};
use dmabench_smmu::driver::SmmuContext;

use super::{Flaw, has};

/// Sends every call to the driver, and counts it as `compare` does.
#[derive(Debug)]
pub struct Tee<B> {
    /// Whose answers are returned.
    pub driver: Arc<B>,
    /// What it is asked for.
    pub counting: Arc<CountingBackend>,
}

// SAFETY: each promise is kept by the driver, which gets every call unchanged and
// whose answers are returned; the counting backend has no effect, and its `Synced`
// is not used. (Tests that break this on purpose reuse no table.)
unsafe impl<B: TlbBackend<Context = SmmuContext>> TlbBackend for Tee<B> {
    type Context = SmmuContext;

    fn invalidate(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        let ranges = &*sent(ranges);
        self.counting.invalidate(slot.as_deref_mut(), &(), ranges)?;
        if has(Flaw::Miscount) {
            return Ok(());
        }
        self.driver.invalidate(slot, context, ranges)
    }

    fn invalidate_and_sync(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<Ticket, BackendError> {
        let ranges = &*sent(ranges);
        (self.counting).invalidate_and_sync(slot.as_deref_mut(), &(), ranges)?;
        if has(Flaw::Miscount) {
            return self.driver.sync_begin(slot);
        }
        self.driver.invalidate_and_sync(slot, context, ranges)
    }

    fn invalidate_all(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
    ) -> Result<(), BackendError> {
        self.counting.invalidate_all(slot.as_deref_mut(), &())?;
        self.driver.invalidate_all(slot, context)
    }

    fn sync_begin(&self, mut slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        self.counting.sync_begin(slot.as_deref_mut())?;
        self.driver.sync_begin(slot)
    }

    fn join_cost(&self) -> JoinCost {
        self.driver.join_cost()
    }

    fn sync_wait(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        self.driver.sync_wait(slot, ticket, timeout)
    }
}

/// The ranges that are invalidated: those asked for, but for a flaw.
fn sent(ranges: &[TlbRange]) -> Cow<'_, [TlbRange]> {
    if !has(Flaw::Astray) {
        return Cow::Borrowed(ranges);
    }
    let begin = |range: &TlbRange| TlbRange {
        iova: Iova(0),
        ..*range
    };
    Cow::Owned(ranges.iter().map(begin).collect())
}
