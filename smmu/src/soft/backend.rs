//! The software SMMU as a [`TlbBackend`]: ranges become commands, commands take
//! effect, and a sync proves it.

use dmabench_flushq::{BackendError, Late, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_platform::{SlotGuard, Timeout};

use super::{
    command::{Command, Reach, Span, SyncSignal},
    range::{Spans, spans},
    state::{Pending, State},
    unit::{SmmuContext, SoftSmmu},
};

/// The code of `CERROR_ILL` in `CMDQ_CONS.ERR` (IHI 0070, 7.1).
const CERROR_ILL: u32 = 1;

impl SmmuContext {
    fn by_address(&self, span: Span) -> Command {
        match *self {
            SmmuContext::Stage1 { vmid, asid } => Command::TlbiNhVa { vmid, asid, span },
            SmmuContext::Stage2 { vmid, .. } => Command::TlbiS2Ipa { vmid, span },
        }
    }

    fn all(&self) -> Command {
        match *self {
            SmmuContext::Stage1 { vmid, asid } => Command::TlbiNhAsid { vmid, asid },
            SmmuContext::Stage2 { vmid, .. } => Command::TlbiS12Vmall { vmid },
        }
    }
}

impl SoftSmmu {
    fn push(&self, state: &mut State, command: Command) -> Result<(), BackendError> {
        state
            .push(command, &self.config)
            .map_err(|_illegal| BackendError::Rejected { code: CERROR_ILL })
    }

    /// Notes what the commands queued so far were meant to remove.
    fn intend(&self, state: &mut State, context: &SmmuContext, reach: Reach) {
        let step = state.caches.step + 1;
        state.pending.push_back(Pending::Intent {
            context: *context,
            reach,
            step,
        });
    }
}

// SAFETY: order: the caller's stores come before `invalidate`, which takes the
// state's lock, under which every later walk and every command runs. Coverage:
// `spans` covers the range exactly, with a TTL only where the range states the
// level of every leaf; TLBI_NH_ASID leaves global entries, which the page-table
// formats of this house never make (nG is always set). Completion: `sync_wait`
// answers `Ok` only once the sync of the ticket, or a later one, was taken from
// the queue, after every command before it. (A `Tamper` breaks that on purpose.)
// Bounded: nothing waits. Nothing calls back.
unsafe impl TlbBackend for SoftSmmu {
    type Context = SmmuContext;

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        let mut state = self.state.lock();
        for range in ranges {
            state.stats.ranges += 1;
            match spans(range, self.config.range) {
                Spans::WholeContext => self.push(&mut state, context.all())?,
                Spans::ByAddress(spans) => {
                    for span in spans {
                        self.push(&mut state, context.by_address(span))?;
                    }
                    if let SmmuContext::Stage2 { vmid, nested: true } = *context {
                        self.push(&mut state, Command::TlbiNhAll { vmid })?;
                    }
                }
            }
            let reach = Reach {
                first: range.iova.0,
                last: range.last_byte().0,
                granule: Some(range.granule),
                level: range.level.map(|level| level.get()),
                leaf_only: range.leaf_only,
            };
            self.intend(&mut state, context, reach);
        }
        Ok(())
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
    ) -> Result<(), BackendError> {
        let mut state = self.state.lock();
        self.push(&mut state, context.all())?;
        let everything = Reach {
            first: 0,
            last: u64::MAX,
            granule: None,
            level: None,
            leaf_only: false,
        };
        self.intend(&mut state, context, everything);
        Ok(())
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        let mut state = self.state.lock();
        state.last_ticket += 1;
        let ticket = Ticket(state.last_ticket);
        self.push(&mut state, Command::Sync(SyncSignal::None))?;
        Ok(ticket)
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        let mut state = self.state.lock();
        if ticket.0 > state.last_ticket {
            return Err(Late::Failed(BackendError::Unsupported));
        }
        if !state.stalled {
            state.complete(ticket.0, &self.config);
        }
        if state.completed < ticket.0 {
            return Err(Late::TimedOut { after: timeout });
        }
        // SAFETY: commands are taken from the queue in order or earlier, and the
        // sync of this ticket or a later one has been taken, so every command
        // before it has taken effect.
        Ok(unsafe { Synced::new(ticket) })
    }
}
