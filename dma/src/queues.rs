//! The flush queue of a domain, whichever it is.

use alloc::{boxed::Box, sync::Arc};

use dmabench_flushq::{
    FlushQueue, FlushStats, Flushed, Late, QueueConfig, QueueConfigError, Rings, SingleQueue,
    TlbBackend,
};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{DetachedTables, Format, TableMemory};
use dmabench_platform::{SlotGuard, SlotSource, Slots, TimeNs};

use crate::{
    Domain, FlushError, Mode,
    mapping::try_box,
    parked::{Handed, Parked},
};

/// Addresses wait in it, tables that unmaps took out whole, and parked buffers.
pub(crate) enum Queues {
    PerSlot(FlushQueue<IovaRange, DetachedTables>),
    Single(Box<SingleQueue<IovaRange, DetachedTables>>),
    Parked(FlushQueue<(IovaRange, Parked), DetachedTables>),
}

/// `$body` for the queue inside, whatever it is.
macro_rules! of_any {
    ($queues:expr, $queue:ident => $body:expr) => {
        match $queues {
            Queues::PerSlot($queue) => $body,
            Queues::Single($queue) => $body,
            Queues::Parked($queue) => $body,
        }
    };
}

impl Queues {
    /// The queue of a lazy mode; `None` for the others.
    pub(crate) fn of_mode(
        mode: Mode,
        slots: &Arc<Slots>,
    ) -> Result<Option<Self>, QueueConfigError> {
        Ok(Some(match mode {
            Mode::Lazy(config) => Queues::PerSlot(FlushQueue::new(config, slots.clone())?),
            Mode::LazySingle(config) => {
                let queue = SingleQueue::new(config, slots.clone())?;
                Queues::Single(try_box(queue).ok_or(QueueConfigError::NoMemory)?)
            }
            Mode::LazyParked(config) => {
                let queue = FlushQueue::new(config, slots.clone())?;
                Queues::Parked(queue.releasing_at_most(Handed::ROOM as u64))
            }
            Mode::Passthrough | Mode::Strict | Mode::StrictBatched | Mode::StrictPipelined => {
                return Ok(None);
            }
        }))
    }

    /// The lazy mode it is the queue of.
    pub(crate) fn mode(&self) -> Mode {
        let config: QueueConfig = of_any!(self, queue => queue.config());
        match self {
            Queues::PerSlot(_) => Mode::Lazy(config),
            Queues::Single(_) => Mode::LazySingle(config),
            Queues::Parked(_) => Mode::LazyParked(config),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<TimeNs> {
        of_any!(self, queue => queue.next_deadline())
    }

    /// Entries queued, and what flushers did.
    pub(crate) fn figures(&self) -> (u64, FlushStats) {
        of_any!(self, queue => (queue.len(), queue.stats()))
    }
}

/// What is wanted of a queue.
#[derive(Clone, Copy)]
pub(crate) enum Flush {
    IfDue(TimeNs),
    Now,
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Flushes and releases what every slot's ring held. Outside every section
    /// of the caller.
    pub(crate) fn flush(&self, queues: &Queues, flush: Flush) -> Result<Flushed, FlushError> {
        match queues {
            Queues::PerSlot(queue) => {
                self.in_section(|slot| self.flush_in(slot, queue, flush, |_, range| range))
            }
            Queues::Single(queue) => {
                self.in_section(|slot| self.flush_in(slot, queue, flush, |_, range| range))
            }
            Queues::Parked(queue) => self.flush_parked(queue, flush),
        }
    }

    /// A few buffers at a time, handed out with no section open and no lock held.
    fn flush_parked(
        &self,
        queue: &FlushQueue<(IovaRange, Parked), DetachedTables>,
        flush: Flush,
    ) -> Result<Flushed, FlushError> {
        let mut handed = Handed::new();
        let mut flushed = self.in_section(|slot| {
            self.flush_in(slot, queue, flush, |_, (range, parked)| {
                handed.push(parked);
                range
            })
        })?;
        handed.hand_out();
        // What the room did not suffice for; and what other flushes had covered.
        loop {
            let more = self.in_section(|slot| {
                Ok(queue.release_covered(slot, |slot, (range, parked)| {
                    self.release(slot, range);
                    handed.push(parked);
                }))
            })?;
            if more == 0 {
                return Ok(flushed);
            }
            flushed.released += more;
            handed.hand_out();
        }
    }

    fn in_section<R>(
        &self,
        f: impl FnOnce(&mut SlotGuard<'_>) -> Result<R, FlushError>,
    ) -> Result<R, FlushError> {
        let pin = self.source.pin();
        let entered = self.slots.enter_pinned(&pin);
        f(&mut entered.map_err(|_| FlushError::Reentered)?)
    }

    fn flush_in<T: Send, R: Rings<T>>(
        &self,
        slot: &mut SlotGuard<'_>,
        queue: &FlushQueue<T, DetachedTables, R>,
        flush: Flush,
        mut take: impl FnMut(&mut SlotGuard<'_>, T) -> IovaRange,
    ) -> Result<Flushed, FlushError> {
        let release = |slot: &mut SlotGuard<'_>, entry| {
            let range = take(slot, entry);
            self.release(slot, range);
        };
        let (backend, context, wait) = (&self.backend, &self.context, self.sync_timeout);
        let flushed = match flush {
            Flush::IfDue(now) => queue.poll(slot, now, backend, context, wait, release),
            Flush::Now => queue.drain(slot, backend, context, wait, release),
        };
        Ok(self.release_extra(slot, flushed?))
    }

    /// Flushes from within a request that found no addresses; says whether some
    /// may have come free. A queue with parked buffers is left alone: their
    /// owners must not be called from here.
    #[cold]
    pub(crate) fn flush_for_space(&self, slot: &mut SlotGuard<'_>) -> bool {
        match self.mode.queue() {
            Some(Queues::PerSlot(queue)) => self
                .flush_in(slot, queue, Flush::Now, |_, range| range)
                .is_ok(),
            Some(Queues::Single(queue)) => self
                .flush_in(slot, queue, Flush::Now, |_, range| range)
                .is_ok(),
            Some(Queues::Parked(_)) | None => false,
        }
    }

    /// Makes room for the caller's slot.
    #[cold]
    #[inline(never)]
    pub(crate) fn make_room<R: Rings<IovaRange>>(
        &self,
        slot: &mut SlotGuard<'_>,
        queue: &FlushQueue<IovaRange, DetachedTables, R>,
    ) -> Result<(), Late> {
        let flushed = queue.flush_own(
            slot,
            &self.backend,
            &self.context,
            self.sync_timeout,
            |slot, range| self.release(slot, range),
        )?;
        let _ = self.release_extra(slot, flushed);
        Ok(())
    }
}
