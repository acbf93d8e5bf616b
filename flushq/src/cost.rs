//! Modelled time of real hardware, on a virtual clock.

use alloc::sync::Arc;

use dmabench_platform::{
    Clock, SlotGuard, TimeNs, Timeout, VirtualClock,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    BackendError, Late, RangeCommands, Synced, Ticket, TlbBackend, TlbRange, commands_for,
};

/// What commands cost on one piece of hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareProfile {
    /// Short name, as reports print it.
    pub name: &'static str,
    /// Where the figures come from, and what was derived how.
    pub source: &'static str,
    /// From issuing a sync to seeing it complete with nothing else to do.
    /// Nanoseconds.
    pub sync_ns: u64,
    /// What one invalidation command adds to the sync that waits for it.
    /// Nanoseconds.
    pub command_ns: u64,
    /// What its invalidation commands can express.
    pub range_commands: RangeCommands,
}

impl HardwareProfile {
    /// The Arm server of Barry Song's measurements of 2020.
    pub const SMMUV3_SERVER_2020: HardwareProfile = HardwareProfile {
        name: "smmuv3-server-2020",
        source: "Barry Song, linux-iommu list, May 2020, strict unmap of one page on an Arm \
                 server with SMMUv3: the CMD_SYNC takes 883 ns with 1 thread and 4000, 6879, \
                 16746, 24429 ns with 16, 32, 64, 96. Derived: 16 to 96 threads share one \
                 queue, so one TLBI and one CMD_SYNC occupy it for 215 to 261 ns, about 250; \
                 half of that is taken for the TLBI (command_ns), and the rest of the 883 ns \
                 for the sync (sync_ns). One command per page, as without range invalidation.",
        sync_ns: 758,
        command_ns: 125,
        range_commands: RangeCommands::Absent,
    };

    /// The same hardware, had it range invalidation (SMMUv3.2, `IDR3.RIL`).
    pub const SMMUV3_SERVER_2020_RIL: HardwareProfile = HardwareProfile {
        name: "smmuv3-server-2020-ril",
        source: "Barry Song, linux-iommu list, May 2020: the CMD_SYNC of a strict unmap takes \
                 883 ns with 1 thread on an Arm server with SMMUv3, of which about 125 ns are \
                 taken for one invalidation command (smmuv3-server-2020 says how). Assumed: a \
                 range invalidation command costs the same as one for a page.",
        range_commands: RangeCommands::Supported,
        ..HardwareProfile::SMMUV3_SERVER_2020
    };

    /// Modelled time of one flush that waits: `commands` invalidations and a
    /// sync. Nanoseconds.
    pub const fn flush_ns(&self, commands: u64) -> u64 {
        self.sync_ns
            .saturating_add(self.command_ns.saturating_mul(commands))
    }
}

/// A backend that passes everything on to `B` and lets a virtual clock run as
/// long as a [`HardwareProfile`] says the hardware would take.
///
/// Commands run one after the other from when they are issued; a wait moves the
/// clock on to the completion it waits for, so work done between
/// [`sync_begin`](TlbBackend::sync_begin) and
/// [`sync_wait`](TlbBackend::sync_wait) overlaps with it. For simulations: the
/// time of the queue is one shared counter.
#[derive(Debug)]
pub struct CostModel<B> {
    inner: B,
    profile: HardwareProfile,
    clock: Arc<VirtualClock>,
    /// When the modelled queue has done all commands so far.
    idle_at: AtomicU64,
    /// Sum over all waits.
    waited_ns: AtomicU64,
}

impl<B> CostModel<B> {
    /// `inner` on hardware of this profile.
    pub fn new(inner: B, profile: HardwareProfile, clock: Arc<VirtualClock>) -> Self {
        CostModel {
            inner,
            profile,
            clock,
            idle_at: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// The profile.
    pub fn profile(&self) -> &HardwareProfile {
        &self.profile
    }

    /// Modelled time that callers have spent waiting for syncs.
    pub fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Ordering::Relaxed)
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
            .map(|range| commands_for(range, self.profile.range_commands))
            .fold(0_u64, |sum, count| {
                sum.saturating_add(count.by_address + count.by_context)
            });
        self.occupy(self.profile.command_ns.saturating_mul(commands));
        Ok(())
    }

    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &B::Context,
    ) -> Result<(), BackendError> {
        self.inner.invalidate_all(slot, context)?;
        self.occupy(self.profile.command_ns);
        Ok(())
    }

    /// The ticket is the modelled time of completion.
    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(self.occupy(self.profile.sync_ns)))
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

    const PROFILE: HardwareProfile = HardwareProfile {
        name: "test",
        source: "made up",
        sync_ns: 1000,
        command_ns: 10,
        range_commands: RangeCommands::Absent,
    };

    fn model() -> CostModel<CountingBackend> {
        let slots = Slots::new(1, Fences::Symmetric).unwrap();
        CostModel::new(
            CountingBackend::new(&slots),
            PROFILE,
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
        assert_eq!(PROFILE.flush_ns(32), 1320);
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
