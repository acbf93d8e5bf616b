//! The driver as a [`TlbBackend`].

use dmabench_flushq::{BackendError, JoinCost, Late, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_pgtable::TableMemory;
use dmabench_platform::{Iova, SlotGuard, Timeout, sync::atomic::Ordering};

use super::{BadRange, RangePlan, Smmu, SmmuContext, TranslationStage, context::whole_context};
use crate::{
    SmmuHost,
    format::{Command, RawCommand, TlbiAddress, atc_span},
    queue::{QueueError, WaitError},
};

/// Commands that go into the queue in one piece.
const BATCH: usize = 16;

/// Everything a device has cached.
pub(super) const fn whole_atc(sid: u32) -> RawCommand {
    Command::AtcInv {
        sid,
        ssid: None,
        global: false,
        address: Iova(0),
        size: 52,
    }
    .encode()
}

#[inline(always)]
const fn by_address(stage: &TranslationStage, at: TlbiAddress) -> RawCommand {
    match *stage {
        TranslationStage::One { asid } => Command::TlbiNhVa { vmid: 0, asid, at }.encode(),
        TranslationStage::Two { vmid } => Command::TlbiS2Ipa { vmid, at }.encode(),
    }
}

impl From<WaitError> for Late {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut { after } => Late::TimedOut { after },
            WaitError::Lost { code } => Late::Failed(BackendError::Rejected {
                code: u32::from(code),
            }),
            WaitError::Stopped(_) => Late::Failed(BackendError::Stopped),
        }
    }
}

impl From<BadRange> for BackendError {
    fn from(_: BadRange) -> Self {
        BackendError::Unsupported
    }
}

impl<H: SmmuHost, M: TableMemory> Smmu<H, M> {
    /// Queues one batch; on SMMUs that need it (2812531), or if `sync` says so,
    /// with its own sync. Returns the position behind it.
    fn push(&self, batch: &[RawCommand], sync: bool) -> Result<u64, QueueError> {
        if sync || self.errata.sync_ends_batch {
            self.commands.push_sync(batch)
        } else {
            self.commands.push(batch)
        }
    }

    #[inline(always)]
    fn push_one(&self, command: RawCommand, sync: bool) -> Result<u64, QueueError> {
        if sync || self.errata.sync_ends_batch {
            self.commands.push_one_sync(command)
        } else {
            self.commands.push_one(command)
        }
    }

    /// The SMMU's own caches; what devices keep comes behind it.
    #[inline(always)]
    fn invalidate_own(
        &self,
        context: &SmmuContext,
        ranges: &[TlbRange],
        sync: bool,
    ) -> Result<u64, BackendError> {
        if let [range] = ranges
            && let Some(at) = self.encoder.single(range)
        {
            check_width(&context.stage, range)?;
            return Ok(self.push_one(by_address(&context.stage, at), sync)?);
        }
        self.invalidate_many(&context.stage, ranges, sync)
    }

    #[inline(never)]
    fn invalidate_many(
        &self,
        stage: &TranslationStage,
        ranges: &[TlbRange],
        sync: bool,
    ) -> Result<u64, BackendError> {
        let mut batch = [Command::SYNC.encode(); BATCH];
        let mut len = 0;
        for range in ranges {
            check_width(stage, range)?;
            let addresses = match self.encoder.plan(range)? {
                RangePlan::ByAddress(addresses) => addresses,
                RangePlan::WholeContext => {
                    // It covers every other range, too.
                    return Ok(self.push(&[whole_context(stage).encode()], sync)?);
                }
            };
            for at in addresses {
                if len == BATCH {
                    self.push(&batch, false)?;
                    len = 0;
                }
                batch[len] = by_address(stage, at);
                len += 1;
            }
        }
        Ok(self.push(&batch[..len], sync)?)
    }

    /// For contexts whose devices keep translations themselves: behind the SMMU's
    /// own invalidation, and a sync, so that a device cannot fetch the old
    /// translation again (3.9.1).
    #[cold]
    fn invalidate_devices(
        &self,
        context: &SmmuContext,
        ranges: Option<&[TlbRange]>,
    ) -> Result<(), BackendError> {
        // A device that is added behind the one in hand is told as well, or did
        // not have its ATS on when the tables changed; one that is taken out
        // has been told to forget everything.
        let mut next = self.next_ats(context.number, None);
        if next.is_none() {
            return Ok(());
        }
        self.commands.push_sync(&[])?;
        while let Some(sid) = next {
            for range in ranges.unwrap_or(&[]) {
                let (address, size) = atc_span(range.iova, range.last_byte());
                let command = Command::AtcInv {
                    sid,
                    ssid: None,
                    global: false,
                    address,
                    size,
                };
                self.push(&[command.encode()], false)?;
            }
            if ranges.is_none() {
                self.push(&[whole_atc(sid)], false)?;
            }
            next = self.next_ats(context.number, Some(sid));
        }
        Ok(())
    }
}

/// An intermediate address has 52 bits at most.
#[inline(always)]
fn check_width(stage: &TranslationStage, range: &TlbRange) -> Result<(), BackendError> {
    let wide = matches!(stage, TranslationStage::Two { .. })
        && range.iova.0.saturating_add(range.len_bytes) > 1 << 52;
    if wide {
        return Err(BackendError::Unsupported);
    }
    Ok(())
}

// SAFETY:
// * Order: the publisher of a command issues `SmmuHost::publish` between the
//   stores that happened before and the write of `PROD`; commands of others that it
//   publishes were marked ready with release and read with acquire.
// * Coverage: `RangeEncoder::plan` covers each range exactly, with a level hint only
//   where all of it is of that level and only leaves have to go, or is replaced by
//   the whole context.
// * Completion: a ticket lies behind everything queued before it, `CMD_SYNC`
//   completes after all commands before it on the one queue (4.7.3), and a ticket
//   around a lost command fails (see `queue`). Devices' caches are invalidated
//   behind the SMMU's own, before the ticket.
// * Bounded: see `queue`; every wait for hardware has a deadline.
// * No way back: no method calls out, but for `slot.pause`, which has ended.
unsafe impl<H: SmmuHost, M: TableMemory> TlbBackend for Smmu<H, M> {
    type Context = SmmuContext;

    #[inline]
    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        self.invalidate_own(context, ranges, false)?;
        if self.ats_count.load(Ordering::Acquire) != 0 {
            return self.invalidate_devices(context, Some(ranges));
        }
        Ok(())
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
    ) -> Result<(), BackendError> {
        self.push(&[whole_context(&context.stage).encode()], false)?;
        if self.ats_count.load(Ordering::Acquire) != 0 {
            return self.invalidate_devices(context, None);
        }
        Ok(())
    }

    /// What its hardware takes is not known here.
    fn join_cost(&self) -> JoinCost {
        JoinCost::unused_only(self.encoder.range_commands())
    }

    #[inline]
    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(self.commands.sync_begin()?))
    }

    /// One reservation in the queue for both.
    #[inline]
    fn invalidate_and_sync(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<Ticket, BackendError> {
        let ticket = self.invalidate_own(context, ranges, true)?;
        if self.ats_count.load(Ordering::Acquire) != 0 {
            self.invalidate_devices(context, Some(ranges))?;
            return self.sync_begin(slot);
        }
        Ok(Ticket(ticket))
    }

    #[inline]
    fn sync_wait(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        if !self.commands.sync_done(ticket.0)? {
            // Long: others may have the slot meanwhile.
            match slot {
                Some(slot) => slot.pause(|| self.commands.sync_wait(ticket.0, timeout))?,
                None => self.commands.sync_wait(ticket.0, timeout)?,
            }
        }
        // SAFETY: the sync of the ticket has completed, and nothing before it was
        // lost: see the trait's proof.
        Ok(unsafe { Synced::new(ticket) })
    }
}
