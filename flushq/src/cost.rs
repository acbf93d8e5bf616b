//! Modelled time of real hardware, on a virtual clock.

use alloc::sync::Arc;

use dmabench_platform::{
    Clock, SlotGuard, TimeNs, Timeout, VirtualClock,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    BackendError, JoinCost, Late, RangeCommands, Synced, Ticket, TlbBackend, TlbRange, commands_for,
};

/// What invalidations cost on one piece of hardware, in nanoseconds.
///
/// Two of the figures are time of the processor, which cannot do anything else
/// meanwhile, and two are time of the IOMMU, which works while the processor
/// goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareCosts {
    /// Processor: to hand over one invalidation command. Next to nothing for an
    /// entry in a queue in memory, a register write for an SMMUv2.
    pub issue_ns: u64,
    /// Processor: to tell the IOMMU that there is something to do, once per
    /// sync. A register write; under a hypervisor that traps it, an exit.
    pub doorbell_ns: u64,
    /// IOMMU: to carry out one invalidation command.
    pub command_ns: u64,
    /// IOMMU: from the doorbell to a completed sync with nothing else to do.
    pub sync_ns: u64,
    /// What its invalidation commands can express.
    pub range_commands: RangeCommands,
}

impl HardwareCosts {
    /// Modelled time of one flush that is waited for: `commands` invalidations
    /// and a sync. Nanoseconds; an upper bound, because nothing of it overlaps.
    pub const fn flush_ns(&self, commands: u64) -> u64 {
        self.processor_ns(commands, 1)
            .saturating_add(self.iommu_ns(commands, 1))
    }

    /// Processor time to issue `commands` and begin `syncs`. Nanoseconds.
    pub const fn processor_ns(&self, commands: u64, syncs: u64) -> u64 {
        (self.issue_ns.saturating_mul(commands))
            .saturating_add(self.doorbell_ns.saturating_mul(syncs))
    }

    /// When separate ranges become one, if a translation that was forgotten takes
    /// `refill_ns` nanoseconds to look up, and devices use so many at one moment.
    pub const fn join_cost(&self, refill_ns: u64, in_use_granules: u64) -> JoinCost {
        JoinCost {
            range_commands: self.range_commands,
            command_ns: self.issue_ns.saturating_add(self.command_ns),
            refill_ns,
            in_use_granules,
        }
    }

    /// Time of the IOMMU for `commands` and `syncs`. Nanoseconds.
    pub const fn iommu_ns(&self, commands: u64, syncs: u64) -> u64 {
        (self.command_ns.saturating_mul(commands))
            .saturating_add(self.sync_ns.saturating_mul(syncs))
    }
}

/// A backend that passes everything on to `B` and lets a virtual clock run as
/// long as [`HardwareCosts`] say the hardware would take.
///
/// Issuing commands and ringing the doorbell move the clock at once, because
/// the caller's processor does it. The IOMMU then works through the commands one
/// after the other; a wait moves the clock on to the completion it waits for, so
/// work done between [`sync_begin`](TlbBackend::sync_begin) and
/// [`sync_wait`](TlbBackend::sync_wait) overlaps with it. For simulations: the
/// time of the queue is one shared counter.
#[derive(Debug)]
pub struct CostModel<B> {
    inner: B,
    costs: HardwareCosts,
    clock: Arc<VirtualClock>,
    join_cost: JoinCost,
    /// When the modelled queue has done all commands so far.
    idle_at: AtomicU64,
    /// Sum over all waits.
    waited_ns: AtomicU64,
}

impl<B> CostModel<B> {
    /// `inner` on hardware with these costs.
    pub fn new(inner: B, costs: HardwareCosts, clock: Arc<VirtualClock>) -> Self {
        CostModel {
            inner,
            costs,
            clock,
            join_cost: JoinCost::unused_only(costs.range_commands),
            idle_at: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    /// Joins ranges by `cost`; without this, only over what is
    /// [unused](JoinCost::unused_only). The clock does not move for lookups.
    #[must_use]
    pub fn joining_by(mut self, cost: JoinCost) -> Self {
        self.join_cost = cost;
        self
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// The costs.
    pub fn costs(&self) -> &HardwareCosts {
        &self.costs
    }

    /// Modelled time that callers have spent waiting for syncs.
    pub fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Ordering::Relaxed)
    }

    /// The caller issues `commands`, then the queue has them.
    fn issue(&self, commands: u64) {
        self.clock.advance_ns(self.costs.processor_ns(commands, 0));
        self.occupy(self.costs.iommu_ns(commands, 0));
    }

    /// Lets the queue work for `work_ns` from now, or from when it is idle.
    fn occupy(&self, work_ns: u64) -> u64 {
        let now = self.clock.now().0;
        let after = |idle_at: u64| idle_at.max(now).saturating_add(work_ns);
        self.idle_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |idle_at| {
                Some(after(idle_at))
            })
            .map_or(now, after)
    }
}

// SAFETY: the inner backend keeps every promise; the model only moves a clock,
// and never lets one of its `Synced` stand for more: each ticket of the model is
// paired with the wait for a fresh ticket of the inner backend, taken later.
unsafe impl<B: TlbBackend> TlbBackend for CostModel<B> {
    type Context = B::Context;

    fn invalidate(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &B::Context,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        self.inner.invalidate(slot, context, ranges)?;
        let commands = ranges
            .iter()
            .map(|range| commands_for(range, self.costs.range_commands))
            .fold(0_u64, |sum, count| {
                sum.saturating_add(count.by_address + count.by_context)
            });
        self.issue(commands);
        Ok(())
    }

    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &B::Context,
    ) -> Result<(), BackendError> {
        self.inner.invalidate_all(slot, context)?;
        self.issue(1);
        Ok(())
    }

    fn join_cost(&self) -> JoinCost {
        self.join_cost
    }

    /// The ticket is the modelled time of completion.
    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        self.clock.advance_ns(self.costs.doorbell_ns);
        Ok(Ticket(self.occupy(self.costs.sync_ns)))
    }

    fn sync_wait(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        let now = self.clock.now();
        let needed_ns = TimeNs(ticket.0).since(now);
        let granted_ns = needed_ns.min(timeout.0);
        self.waited_ns.fetch_add(granted_ns, Ordering::Relaxed);
        self.clock.advance_to(now.saturating_add_ns(granted_ns));
        if needed_ns > timeout.0 {
            return Err(Late::TimedOut { after: timeout });
        }
        let inner = self.inner.sync_begin(slot.as_deref_mut())?;
        let _ = self.inner.sync_wait(slot, inner, timeout)?;
        // SAFETY: the inner backend has completed all it accepted up to now, and
        // `ticket` was given out earlier.
        Ok(unsafe { Synced::new(ticket) })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use dmabench_platform::{Fences, Granule, Iova, Slots};

    use super::*;
    use crate::CountingBackend;

    const COSTS: HardwareCosts = HardwareCosts {
        issue_ns: 0,
        doorbell_ns: 0,
        sync_ns: 1000,
        command_ns: 10,
        range_commands: RangeCommands::Absent,
    };

    fn model() -> CostModel<CountingBackend> {
        model_of(COSTS)
    }

    fn model_of(costs: HardwareCosts) -> CostModel<CountingBackend> {
        let slots = Slots::new(1, Fences::Symmetric).unwrap();
        CostModel::new(
            CountingBackend::new(&slots),
            costs,
            Arc::new(VirtualClock::default()),
        )
    }

    fn pages(count: u64) -> TlbRange {
        TlbRange {
            iova: Iova(0x1000),
            len_bytes: count << 12,
            granule: Granule::K4,
            level: None,
            leaf_only: true,
        }
    }

    #[test]
    fn a_wait_lasts_as_long_as_the_profile_says() {
        let model = model();
        model.invalidate(None, &(), &[pages(32)]).unwrap();
        let ticket = model.sync_begin(None).unwrap();
        let _ = model.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        assert_eq!(model.clock.now(), TimeNs(1320));
        assert_eq!(model.waited_ns(), 1320);
        assert_eq!(COSTS.flush_ns(32), 1320);
    }

    #[test]
    fn work_between_begin_and_wait_overlaps() {
        let model = model();
        model.invalidate_all(None, &()).unwrap();
        let ticket = model.sync_begin(None).unwrap();
        model.clock.advance_ns(5000);
        let _ = model.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        assert_eq!(model.clock.now(), TimeNs(5000));
        assert_eq!(model.waited_ns(), 0);
    }

    #[test]
    fn the_processors_part_never_overlaps() {
        let costs = HardwareCosts {
            issue_ns: 7,
            doorbell_ns: 500,
            ..COSTS
        };
        let model = model_of(costs);
        model.invalidate(None, &(), &[pages(32)]).unwrap();
        assert_eq!(model.clock.now(), TimeNs(224), "32 were issued");
        let ticket = model.sync_begin(None).unwrap();
        assert_eq!(model.clock.now(), TimeNs(724));
        let _ = model.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        // The commands took the IOMMU until 544; the sync begins at the doorbell.
        assert_eq!(model.clock.now(), TimeNs(1724));
        assert_eq!(costs.flush_ns(32), 224 + 500 + 320 + 1000);
        assert_eq!(costs.flush_ns(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_wait_that_would_last_too_long_is_late() {
        let model = model();
        let ticket = model.sync_begin(None).unwrap();
        let after = Timeout(400);
        assert_eq!(
            model.sync_wait(None, ticket, after),
            Err(Late::TimedOut { after })
        );
        let _ = model.sync_wait(None, ticket, Timeout(600)).unwrap();
        assert_eq!(model.clock.now(), TimeNs(1000));
    }
}
