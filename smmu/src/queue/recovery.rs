//! The command queue: waiting for syncs, and what happens after errors.

use alloc::vec::Vec;
use core::mem;

use dmabench_pgtable::TableMemory;
use dmabench_platform::{Timeout, sync::atomic::Ordering};

use super::{CommandQueue, StopReason, WaitError, command::Flaw, wait::BoundedWait};
use crate::{
    SmmuHost,
    format::{Command, RawCommand, registers, registers::CommandErrorCode},
};

/// Errors of a command queue so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFaults {
    /// Illegal commands that were skipped.
    pub illegal: u64,
    /// Commands that could not be fetched and were tried again.
    pub fetch_aborts: u64,
    /// Devices that did not answer an ATC invalidation in time.
    pub atc_timeouts: u64,
    /// Heal batches that completed.
    pub heals: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is lost.
    Sound,
    /// Something is; nobody has queued the heal batch yet.
    Lossy,
    /// One thread is queueing it.
    Queueing,
    /// It is queued, and complete when the consumer has passed this position.
    Healing { end: u64 },
}

/// What is known about errors; behind a lock that nobody holds while waiting.
#[derive(Debug)]
pub(super) struct Recovery {
    state: State,
    /// Where the last error was, and how often in a row.
    last: Option<(u64, CommandErrorCode)>,
    repeats: u32,
    reason: Option<StopReason>,
    heal: Vec<RawCommand>,
    faults: QueueFaults,
}

/// Errors at one position before the queue is given up.
const REPEATS_MAX: u32 = 4;

impl Recovery {
    pub(super) fn new() -> Self {
        Recovery {
            state: State::Sound,
            last: None,
            repeats: 0,
            reason: None,
            heal: Vec::from([Command::CfgiAll.encode(), Command::TlbiNsnhAll.encode()]),
            faults: QueueFaults::default(),
        }
    }

    pub(super) fn restart(&mut self) {
        self.state = State::Lossy;
        self.last = None;
        self.repeats = 0;
        self.reason = None;
    }
}

impl<H: SmmuHost, M: TableMemory> CommandQueue<H, M> {
    /// Sets the commands that make up for lost ones: after them and a
    /// `CMD_SYNC`, no cache may hold what any earlier command was to remove.
    /// The default is `CMD_CFGI_ALL` and `CMD_TLBI_NSNH_ALL`.
    pub fn set_heal(&self, commands: Vec<RawCommand>) {
        let old = mem::replace(&mut self.recovery.lock().heal, commands);
        drop(old);
    }

    /// Errors so far.
    pub fn faults(&self) -> QueueFaults {
        self.recovery.lock().faults
    }

    /// Why the queue stopped, if it did.
    pub fn stop_reason(&self) -> Option<StopReason> {
        if !self.stopped.load(Ordering::Acquire) {
            return None;
        }
        self.recovery.lock().reason
    }

    /// Whether the sync of `ticket` has completed and nothing before it was
    /// lost. Does not wait.
    ///
    /// # Errors
    ///
    /// [`WaitError::Lost`] or [`WaitError::Stopped`].
    #[inline]
    pub fn sync_done(&self, ticket: u64) -> Result<bool, WaitError> {
        let mut passed = self.consumed.load(Ordering::Acquire);
        if passed < ticket {
            let known = passed;
            passed = self.poll_consumed().map_err(WaitError::Stopped)?;
            // Kept up to date often enough for others to find it so. Not by
            // everybody: each write makes every other CPU read the line again.
            let ahead = passed.saturating_sub(known);
            if ahead * 4 >= self.capacity()
                && (ticket & self.mask >> 2 < 2 || ahead * 2 >= self.capacity())
            {
                self.consumed.fetch_max(passed, Ordering::AcqRel);
            }
        }
        if passed < ticket {
            return Ok(false);
        }
        // After the consumer index: whoever let the consumer go on after an
        // error had raised this before.
        let safe_from = self.safe_from.load(Ordering::Acquire);
        if ticket >= safe_from {
            return Ok(true);
        }
        self.not_safe(safe_from)
    }

    #[cold]
    fn not_safe(&self, safe_from: u64) -> Result<bool, WaitError> {
        if safe_from == u64::MAX {
            // Not decided yet.
            return Ok(false);
        }
        Err(WaitError::Lost {
            code: self.last_code(),
        })
    }

    /// Waits until the sync of `ticket` has completed.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: it is not known to have completed, and nothing that
    /// depends on it may be released.
    #[inline]
    pub fn sync_wait(&self, ticket: u64, timeout: Timeout) -> Result<(), WaitError> {
        if self.sync_done(ticket)? {
            return Ok(());
        }
        self.sync_wait_slow(ticket, timeout)
    }

    #[cold]
    fn sync_wait_slow(&self, ticket: u64, timeout: Timeout) -> Result<(), WaitError> {
        let mut wait = BoundedWait::new(timeout);
        loop {
            self.handle_errors();
            if self.safe_from.load(Ordering::Acquire) == u64::MAX {
                self.heal(&mut wait);
            }
            if self.sync_done(ticket)? {
                return Ok(());
            }
            if let Some(reason) = self.stop_reason() {
                return Err(WaitError::Stopped(reason));
            }
            if !wait.again(&self.host) {
                return Err(WaitError::TimedOut { after: timeout });
            }
        }
    }

    /// The position of the consumer, from the register.
    ///
    /// Let `known` be what `consumed` holds before and after the register is
    /// read. While it holds that, nobody reserves beyond `known + capacity`, so the
    /// consumer is at most that far, and its pointer, which repeats after twice
    /// the capacity, names one position only.
    #[inline]
    pub(super) fn poll_consumed(&self) -> Result<u64, StopReason> {
        loop {
            let known = self.consumed.load(Ordering::Acquire);
            let cons = self.host.read32(registers::CMDQ_CONS);
            if self.consumed.load(Ordering::Acquire) != known {
                continue;
            }
            let ahead = u64::from(cons.wrapping_sub(self.pointer(known))) & self.pointer_mask();
            let position = known + ahead;
            if ahead > self.capacity() || position > self.reserved_position() {
                return Err(self.stop(StopReason::Corrupt { cons }));
            }
            return Ok(position);
        }
    }

    /// As [`poll_consumed`](Self::poll_consumed), and keeps what it finds.
    pub(super) fn update_consumed(&self) -> Result<(), StopReason> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(self.reason());
        }
        let position = self.poll_consumed()?;
        self.consumed.fetch_max(position, Ordering::AcqRel);
        Ok(())
    }

    #[cold]
    pub(super) fn reason(&self) -> StopReason {
        let reason = self.recovery.lock().reason;
        reason.unwrap_or(StopReason::UnknownError { code: 0 })
    }

    #[cold]
    fn last_code(&self) -> u8 {
        self.recovery.lock().last.map_or(0, |(_, code)| code.code())
    }

    #[cold]
    fn stop(&self, reason: StopReason) -> StopReason {
        let mut recovery = self.recovery.lock();
        self.stop_locked(&mut recovery, reason)
    }

    /// The first reason stays.
    fn stop_locked(&self, recovery: &mut Recovery, reason: StopReason) -> StopReason {
        let reason = *recovery.reason.get_or_insert(reason);
        self.safe_from.store(u64::MAX, Ordering::Release);
        self.stopped.store(true, Ordering::Release);
        reason
    }

    /// Handles a command queue error that is active, for interrupt handlers.
    /// (Whoever waits does it, too.)
    pub fn poll_errors(&self) {
        self.handle_errors();
    }

    /// Looks at `GERROR.CMDQ_ERR` and handles the error if nobody else does.
    #[cold]
    pub(super) fn handle_errors(&self) {
        if self.errors.active(&self.host) & registers::GERROR_CMDQ == 0 {
            return;
        }
        let Some(mut recovery) = self.recovery.try_lock() else {
            return;
        };
        let active = self.errors.active(&self.host) & registers::GERROR_CMDQ;
        if active == 0 || recovery.reason.is_some() {
            return;
        }
        let cons = self.host.read32(registers::CMDQ_CONS);
        let code = CommandErrorCode::from_cons(cons);
        // The consumer stands still, so `consumed` cannot pass it.
        let known = self.consumed.load(Ordering::Acquire);
        let ahead = u64::from(cons.wrapping_sub(self.pointer(known))) & self.pointer_mask();
        let at = known + ahead;
        if ahead > self.capacity() || at >= self.reserved_position() {
            self.stop_locked(&mut recovery, StopReason::Corrupt { cons });
            return;
        }
        if recovery.last == Some((at, code)) {
            recovery.repeats += 1;
        } else {
            recovery.last = Some((at, code));
            recovery.repeats = 0;
        }
        if recovery.repeats >= REPEATS_MAX {
            let code = code.code();
            self.stop_locked(&mut recovery, StopReason::Repeated { code });
            return;
        }
        match code {
            CommandErrorCode::Illegal => {
                recovery.faults.illegal += 1;
                self.lose(&mut recovery);
                // 7.1: while the error is active the command may be replaced.
                self.write_entry(at, &Command::SYNC.encode());
                if !self.features.coherent {
                    self.clean(at, at + 1);
                }
            }
            // Nothing is lost: the command is fetched again.
            CommandErrorCode::FetchAbort => recovery.faults.fetch_aborts += 1,
            // The sync is executed again, without those invalidations.
            CommandErrorCode::AtcInvalidation => {
                recovery.faults.atc_timeouts += 1;
                self.lose(&mut recovery);
            }
            CommandErrorCode::None | CommandErrorCode::Unknown(_) => {
                let code = code.code();
                self.stop_locked(&mut recovery, StopReason::UnknownError { code });
                return;
            }
        }
        self.errors.acknowledge(&self.host, registers::GERROR_CMDQ);
    }

    /// From now on no sync succeeds. Before the consumer is let go on.
    fn lose(&self, recovery: &mut Recovery) {
        if self.has(Flaw::ForgetLoss) {
            return;
        }
        recovery.state = State::Lossy;
        self.safe_from.store(u64::MAX, Ordering::Release);
    }

    /// One step towards a sound state: queues the heal batch, or finds that it
    /// has completed. In a full queue the batch waits within the caller's own
    /// time; if it gets in only in part, the next caller queues it again.
    #[cold]
    fn heal(&self, wait: &mut BoundedWait) {
        let batch = {
            let Some(mut recovery) = self.recovery.try_lock() else {
                return;
            };
            if recovery.reason.is_some() {
                // Stopped: what completes from here on proves nothing.
                return;
            }
            match recovery.state {
                State::Lossy => {
                    recovery.state = State::Queueing;
                    recovery.heal.clone()
                }
                State::Healing { end } => {
                    // An error before `end` would have made the state lossy
                    // before the consumer went on.
                    if self.poll_behind(end) {
                        recovery.state = State::Sound;
                        recovery.faults.heals += 1;
                        self.safe_from.store(end, Ordering::Release);
                    }
                    return;
                }
                _ => return,
            }
        };
        let queued = self.push_sync_within(&batch, Some(wait));
        let mut recovery = self.recovery.lock();
        // Unless another command was lost meanwhile.
        if recovery.state == State::Queueing {
            recovery.state = match queued {
                Ok(end) => State::Healing { end },
                Err(_) => State::Lossy,
            };
        }
    }

    /// Whether the consumer has passed `end`; an impossible index is left to
    /// others, as the lock is held here.
    fn poll_behind(&self, end: u64) -> bool {
        let known = self.consumed.load(Ordering::Acquire);
        let cons = self.host.read32(registers::CMDQ_CONS);
        if self.consumed.load(Ordering::Acquire) != known {
            return false;
        }
        let ahead = u64::from(cons.wrapping_sub(self.pointer(known))) & self.pointer_mask();
        ahead <= self.capacity()
            && known + ahead >= end
            && known + ahead <= self.reserved_position()
    }
}
