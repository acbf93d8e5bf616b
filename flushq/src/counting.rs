//! The backend that takes no time.

use alloc::{boxed::Box, vec::Vec};
use core::ops::Sub;

use dmabench_platform::{
    CachePadded, SlotGuard, Slots, Timeout,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    BackendError, CommandCount, JoinCost, Late, RangeCommands, Synced, Ticket, TlbBackend,
    TlbRange, commands::is_one_command, commands_for,
};

/// Counts what a [`TlbBackend`] was asked for. Nothing else happens: there is no
/// device, so every invalidation completes at once.
///
/// With a slot it adds to counters of that slot with plain loads and stores;
/// without one (flushers) to a shared counter.
#[derive(Debug)]
pub struct CountingBackend {
    range_commands: RangeCommands,
    join_cost: JoinCost,
    /// One per slot of the table it was made for, written by the owner only.
    slots: Box<[CachePadded<Counters>]>,
    /// Flushers', written with atomic additions.
    shared: CachePadded<Counters>,
}

#[derive(Debug)]
struct Counters {
    /// Ranges that one command covered, with a sync after it: what nearly every
    /// strict unmap is. Not in the counts below.
    one_command_and_sync: AtomicU64,
    ranges: AtomicU64,
    by_address: AtomicU64,
    by_context: AtomicU64,
    flush_alls: AtomicU64,
    syncs: AtomicU64,
}

impl Counters {
    fn new() -> Self {
        Counters {
            one_command_and_sync: AtomicU64::new(0),
            ranges: AtomicU64::new(0),
            by_address: AtomicU64::new(0),
            by_context: AtomicU64::new(0),
            flush_alls: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }
}

/// What was asked of a backend. `a - b` is what happened between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounts {
    /// Ranges invalidated.
    pub ranges: u64,
    /// Commands with an address that an SMMUv3 needs for those ranges.
    pub commands_by_address: u64,
    /// Commands for the whole context: those that stand for a range too long
    /// for single commands, and one for each of `flush_alls`.
    pub commands_by_context: u64,
    /// Calls to [`TlbBackend::invalidate_all`].
    pub flush_alls: u64,
    /// Syncs begun.
    pub syncs: u64,
}

impl BackendCounts {
    /// Invalidation commands of both kinds, syncs not included.
    pub const fn commands(&self) -> u64 {
        self.commands_by_address + self.commands_by_context
    }
}

impl Sub for BackendCounts {
    type Output = BackendCounts;
    fn sub(self, earlier: Self) -> Self {
        BackendCounts {
            ranges: self.ranges - earlier.ranges,
            commands_by_address: self.commands_by_address - earlier.commands_by_address,
            commands_by_context: self.commands_by_context - earlier.commands_by_context,
            flush_alls: self.flush_alls - earlier.flush_alls,
            syncs: self.syncs - earlier.syncs,
        }
    }
}

/// Who adds, and so how.
enum Adder<'a> {
    Owner(&'a Counters),
    Anybody(&'a Counters),
}

impl Adder<'_> {
    #[inline]
    fn add(&self, counter: impl Fn(&Counters) -> &AtomicU64, amount: u64) {
        match self {
            // Nobody else writes it, so load and store lose nothing.
            Adder::Owner(counters) => {
                let cell = counter(counters);
                cell.store(cell.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
            }
            Adder::Anybody(counters) => {
                counter(counters).fetch_add(amount, Ordering::Relaxed);
            }
        }
    }
}

impl CountingBackend {
    /// A backend for callers with slots of `slots`, which counts the commands of
    /// an SMMUv3 with range invalidation.
    pub fn new(slots: &Slots) -> Self {
        Self::with_range_commands(slots, RangeCommands::Supported)
    }

    /// As [`new`](Self::new), with the kind of SMMU stated.
    pub fn with_range_commands(slots: &Slots, range_commands: RangeCommands) -> Self {
        let cells: Vec<_> = (0..slots.count())
            .map(|_| CachePadded::new(Counters::new()))
            .collect();
        CountingBackend {
            range_commands,
            join_cost: JoinCost::unused_only(range_commands),
            slots: cells.into_boxed_slice(),
            shared: CachePadded::new(Counters::new()),
        }
    }

    /// Joins ranges by `cost`; without this, only over what is
    /// [unused](JoinCost::unused_only).
    #[must_use]
    pub fn joining_by(mut self, cost: JoinCost) -> Self {
        self.join_cost = cost;
        self
    }

    /// The sums over all slots, at any time. Exact while nobody calls; else each
    /// figure is one the counter had.
    pub fn counts(&self) -> BackendCounts {
        let mut sum = BackendCounts::default();
        for cell in self.slots.iter().chain(core::iter::once(&self.shared)) {
            let all_three = cell.one_command_and_sync.load(Ordering::Relaxed);
            sum.ranges += all_three + cell.ranges.load(Ordering::Relaxed);
            sum.commands_by_address += all_three + cell.by_address.load(Ordering::Relaxed);
            sum.commands_by_context += cell.by_context.load(Ordering::Relaxed);
            sum.flush_alls += cell.flush_alls.load(Ordering::Relaxed);
            sum.syncs += all_three + cell.syncs.load(Ordering::Relaxed);
        }
        sum
    }

    /// [`invalidate`](TlbBackend::invalidate) of anything.
    #[inline(never)]
    fn count_ranges(&self, slot: Option<&mut SlotGuard<'_>>, ranges: &[TlbRange]) {
        let adder = self.adder(slot);
        let commands = self.commands_for_all(ranges);
        adder.add(|c| &c.ranges, ranges.len() as u64);
        adder.add(|c| &c.by_address, commands.by_address);
        adder.add(|c| &c.by_context, commands.by_context);
    }

    #[cold]
    #[inline(never)]
    fn count_sync(&self, slot: Option<&mut SlotGuard<'_>>) {
        self.adder(slot).add(|c| &c.syncs, 1);
    }

    fn commands_for_all(&self, ranges: &[TlbRange]) -> CommandCount {
        let mut sum = CommandCount::default();
        for range in ranges {
            let commands = commands_for(range, self.range_commands);
            sum.by_address += commands.by_address;
            sum.by_context += commands.by_context;
        }
        sum
    }

    /// With a guard of a larger table than the backend was made for, the shared
    /// counters. (With one of another table of the same size counts may get
    /// lost, nothing worse.)
    #[inline]
    fn adder(&self, slot: Option<&mut SlotGuard<'_>>) -> Adder<'_> {
        match slot.and_then(|guard| self.slots.get(guard.index().as_usize())) {
            Some(own) => Adder::Owner(own),
            None => Adder::Anybody(&self.shared),
        }
    }
}

// SAFETY: there is no hardware and no cached translation, so every promise about
// them holds of itself. Nothing waits, unwinds or calls back, and `Synced` names
// the ticket it was asked for.
unsafe impl TlbBackend for CountingBackend {
    type Context = ();

    fn invalidate(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        self.count_ranges(slot, ranges);
        Ok(())
    }

    #[inline(always)]
    fn invalidate_and_sync(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<Ticket, BackendError> {
        // Nearly always: one range that one command covers.
        if let [range] = ranges
            && self.range_commands == RangeCommands::Supported
            && is_one_command(range)
            && let Some(own) =
                (slot.as_ref()).and_then(|guard| self.slots.get(guard.index().as_usize()))
        {
            Adder::Owner(own).add(|c| &c.one_command_and_sync, 1);
        } else {
            self.count_ranges(slot.as_deref_mut(), ranges);
            self.count_sync(slot);
        }
        Ok(Ticket(0))
    }

    fn join_cost(&self) -> JoinCost {
        self.join_cost
    }

    #[inline]
    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        let adder = self.adder(slot);
        adder.add(|c| &c.flush_alls, 1);
        adder.add(|c| &c.by_context, 1);
        Ok(())
    }

    #[inline]
    fn sync_begin(&self, slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        self.adder(slot).add(|c| &c.syncs, 1);
        Ok(Ticket(0))
    }

    #[inline]
    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        _timeout: Timeout,
    ) -> Result<Synced, Late> {
        // SAFETY: nothing is ever outstanding.
        Ok(unsafe { Synced::new(ticket) })
    }
}
