//! The command queue: taking positions, and what happens in a full queue.

use dmabench_pgtable::TableMemory;
use dmabench_platform::sync::{Backoff, atomic::Ordering};

use super::{CommandQueue, QueueError, command::Flaw, wait::BoundedWait};
use crate::SmmuHost;

impl<H: SmmuHost, M: TableMemory> CommandQueue<H, M> {
    /// Takes `count` positions, at most as many as the queue has entries, with
    /// room behind them. Returns the first.
    ///
    /// The addition cannot fail, so it may take positions that have no room yet.
    /// Nobody waits for room with such positions in hand: they are given back, or
    /// the room is there by then.
    #[inline(always)]
    pub(super) fn reserve(
        &self,
        count: u64,
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        let start = self.reserved.fetch_add(count, Ordering::AcqRel);
        if self.has_room_to(start + count) || self.has(Flaw::NoRoomCheck) {
            return Ok(start);
        }
        self.reserve_slow(start, count, wait)
    }

    /// Whether everything before `end` fits into the queue. Once true, always
    /// true, and for every earlier position too: the consumer only goes on.
    #[inline(always)]
    fn has_room_to(&self, end: u64) -> bool {
        end <= self.consumed.load(Ordering::Acquire) + self.capacity()
    }

    /// `start` was taken without room.
    #[cold]
    fn reserve_slow(
        &self,
        mut start: u64,
        count: u64,
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        let mut own = BoundedWait::new(self.config.full_timeout);
        let wait = wait.unwrap_or(&mut own);
        let mut lost = false;
        loop {
            if !self.give_back(start, start + count) {
                return Ok(start);
            }
            if self.has(Flaw::FreshTimeout) {
                *wait = BoundedWait::new(wait.timeout());
            }
            // Others may be quicker again and again: the time is that of all
            // rounds together.
            if lost && !wait.again(&self.host) {
                return Err(QueueError::Full {
                    after: wait.timeout(),
                });
            }
            self.make_room(count, wait)?;
            start = self.reserved.fetch_add(count, Ordering::AcqRel);
            if self.has_room_to(start + count) {
                return Ok(start);
            }
            lost = true;
        }
    }

    /// Gives `start..end` back, which the caller took without room and has not
    /// written; or returns `false`: there is room now, and they are the caller's.
    ///
    /// They can be given back while they are the last ones taken. Whoever took
    /// some behind them has no room either, unless there is room for these too, and
    /// gives back as well; so the last one always can, then the one before. Nobody
    /// waits for hardware meanwhile.
    fn give_back(&self, start: u64, end: u64) -> bool {
        if self.has(Flaw::GiveBackBlindly) {
            self.reserved.fetch_sub(end - start, Ordering::AcqRel);
            return true;
        }
        let mut backoff = Backoff::new();
        loop {
            // The register is read after giving back only: with these positions
            // counted, an impossible consumer index could pass for a possible one.
            if self.has_room_to(end) {
                return false;
            }
            let given =
                self.reserved
                    .compare_exchange(end, start, Ordering::AcqRel, Ordering::Acquire);
            if given.is_ok() {
                return true;
            }
            backoff.wait();
        }
    }

    /// Waits until `count` positions are free (others may take them first), as
    /// long as `wait` allows.
    #[cold]
    fn make_room(&self, count: u64, wait: &mut BoundedWait) -> Result<(), QueueError> {
        loop {
            self.publish_waiting();
            self.update_consumed().map_err(QueueError::Stopped)?;
            if self.has_room_to(self.reserved_position() + count) {
                return Ok(());
            }
            self.handle_errors();
            if !wait.again(&self.host) {
                return Err(QueueError::Full {
                    after: wait.timeout(),
                });
            }
        }
    }
}
