//! Finding tables that were emptied piece by piece, and taking them out beside
//! running maps and unmaps, at no cost to them.
//!
//! A table passes through these states, each a value of the descriptor that
//! points to it:
//!
//! | state | bit 0 | `FROZEN` | who moves it on |
//! |---|---|---|---|
//! | in service | 1 | 0 | reclaim freezes it when it looks empty |
//! | frozen | 1 | 1 | a mapper thaws it; reclaim, after every section that could have missed the bit has ended, looks again and parks it, or thaws it |
//! | parked | 0 | 1 | a mapper puts it back; reclaim, after the invalidation, unlinks it |
//! | gone (0) | 0 | 0 | |
//!
//! Every step is a compare-exchange on the descriptor, so mapper and reclaimer
//! cannot both win. A mapper tests the bit together with the valid bits it
//! tests anyway: the hot path has no extra instruction.
//!
//! Why *parked*: the span is nobody's, so a mapper may come while the walker
//! still caches the address of the table. Were the descriptor 0 by then, the
//! mapper would link a new table, and the walker would fault in the old one.
//! A mapper that finds the table parked links the same table again, which is
//! right whatever the walker caches.

use alloc::vec::Vec;

use dmabench_platform::{Iova, PhysAddr, TimeNs, sync::atomic::Ordering};

use crate::{
    DetachedTable, DetachedTables, Format, Level, PageTable, TableMemory, TableStats,
    fault::{Fault, broken},
    format::{CLEANED, FROZEN, VALID},
    table::Table,
};

/// Tables taken out between two invalidations. Each batch costs two heavy
/// fences; 1024 cover 2 GiB of 4K pages.
#[cfg(not(any(loom, shuttle)))]
const BATCH: usize = 1024;
#[cfg(any(loom, shuttle))]
const BATCH: usize = 2;

/// A range whose tables [`PageTable::reclaim`] wants to free: walk-cache entries
/// for it must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpan {
    /// First IOVA.
    pub iova: Iova,
    /// Length in bytes; a multiple of what one table spans.
    pub len_bytes: u64,
    /// The level of the tables' entries.
    pub level: Level,
}

/// What a call of [`PageTable::reclaim`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Tables taken out of the tree.
    pub unlinked: u64,
    /// Empty tables left alone because a map came first, or because they were
    /// no longer empty at the second look.
    pub kept: u64,
    /// Tables that came free, those among them that unmaps had detached.
    pub freed: u64,
}

/// A table on its way out.
struct Candidate {
    /// The table that holds the descriptor, and its place in it.
    parent: Table,
    index: usize,
    /// The descriptor as it was found.
    descriptor: u64,
    /// Offset of the span.
    off: u64,
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Takes empty tables out of the tree and frees them, with whatever
    /// [`release`](Self::release) has queued; keeps at most `keep_spare` of all
    /// for the next use.
    ///
    /// `invalidate` is called for each batch with the spans whose walk-cache
    /// entries must be invalidated; it returns when that has completed. On its
    /// error the batch goes back into service and the error is returned: nothing
    /// is lost, and nothing is freed early (A11).
    ///
    /// Runs beside maps, unmaps and translations. Waits for open sections: the
    /// caller must hold no guard of this slot table. One caller at a time works;
    /// others wait for it.
    ///
    /// # Safety
    ///
    /// `invalidate` returns `Ok` only when no walker can use a cached address of
    /// a table in the spans (invariant A2), for an invalidation that began
    /// after the call.
    pub unsafe fn reclaim<E>(
        &self,
        keep_spare: u64,
        mut invalidate: impl FnMut(&[TableSpan]) -> Result<(), E>,
    ) -> Result<Reclaimed, E> {
        let _maintenance = self.maintenance.lock();
        let mut done = Reclaimed::default();
        let mut batch = Vec::new();
        // Without memory for the list, go in steps of what there is.
        let room = if batch.try_reserve_exact(BATCH).is_ok() {
            BATCH
        } else {
            batch.capacity()
        };
        // Lower levels first: a table is empty once its last child is gone.
        let mut shift = F::PAGE_LG2 + F::INDEX_BITS;
        while shift <= self.top_shift && room > 0 {
            let mut from = Some(0);
            while let Some(start) = from {
                batch.clear();
                from = self.freeze_empty(self.root, self.top_shift, 0, shift, start, &mut batch);
                if !batch.is_empty() {
                    self.take_out(shift, &mut batch, &mut done, &mut invalidate)?;
                }
            }
            shift += F::INDEX_BITS;
        }
        done.freed = self.collect_locked();
        self.pool.trim(keep_spare);
        Ok(done)
    }

    /// Freezes empty tables below descriptors that span `1 << wanted`, from
    /// `start` on, until `batch` is full. Returns where to go on, or `None` at
    /// the end of `table`.
    fn freeze_empty(
        &self,
        table: Table,
        shift: u32,
        table_off: u64,
        wanted: u32,
        start: u64,
        batch: &mut Vec<Candidate>,
    ) -> Option<u64> {
        let entries = if shift == self.top_shift {
            self.root_mask + 1
        } else {
            Self::ENTRIES
        };
        let skip = (start.saturating_sub(table_off) >> shift) as usize;
        for index in skip..entries {
            let off = table_off + ((index as u64) << shift);
            // SAFETY: in bounds; the maintenance lock keeps tables alive.
            let entry = unsafe { self.entry(table, index) };
            let mut descriptor = entry.load(Ordering::Acquire);
            if descriptor & (VALID | FROZEN) == FROZEN {
                // Parked by a call that a panic of `invalidate` cut short.
                let back = descriptor & !(FROZEN | CLEANED) | VALID;
                let swapped =
                    entry.compare_exchange(descriptor, back, Ordering::AcqRel, Ordering::Acquire);
                descriptor = match swapped {
                    Ok(_) => back,
                    Err(now) => now,
                };
            }
            if !Self::is_table(descriptor) {
                continue;
            }
            // SAFETY: a table descriptor of the tree; as above.
            let child = unsafe { self.child(descriptor) };
            if shift > wanted {
                let next =
                    self.freeze_empty(child, shift - F::INDEX_BITS, off, wanted, start, batch);
                if next.is_some() {
                    return next;
                }
                continue;
            }
            // SAFETY: the child has so many entries; as above.
            if !unsafe { self.lanes.all_zero(child, 0, Self::ENTRIES) } {
                continue;
            }
            if batch.len() == batch.capacity().min(BATCH) {
                return Some(off);
            }
            let frozen = entry.compare_exchange(
                descriptor,
                descriptor | FROZEN,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if frozen.is_ok() {
                batch.push(Candidate {
                    parent: table,
                    index,
                    descriptor: descriptor & !FROZEN,
                    off,
                });
            }
        }
        None
    }

    /// Moves a candidate from one state to another; false if somebody else moved
    /// it.
    fn step(&self, candidate: &Candidate, from: u64, to: u64) -> bool {
        // SAFETY: in bounds as it was when found; the maintenance lock keeps the
        // table alive.
        let entry = unsafe { self.entry(candidate.parent, candidate.index) };
        let swapped = entry
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if swapped && (from ^ to) & VALID != 0 {
            // SAFETY: in bounds, as above.
            unsafe { self.clean(candidate.parent, candidate.index, 1) };
        }
        swapped
    }

    /// Frozen to gone, for one batch.
    fn take_out<E>(
        &self,
        shift: u32,
        batch: &mut Vec<Candidate>,
        done: &mut Reclaimed,
        invalidate: &mut impl FnMut(&[TableSpan]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Sections that began before the freeze may still fill the tables;
        // those that begin after it see `FROZEN`.
        if !broken(Fault::NoGracePeriod) {
            self.slots.synchronize();
        }
        let found = batch.len() as u64;
        batch.retain(|candidate| {
            let frozen = candidate.descriptor | FROZEN;
            // SAFETY: a table of the tree: nobody unlinks it while it is
            // frozen but this call, and the maintenance lock keeps it alive.
            let child = unsafe { self.child(frozen) };
            // SAFETY: it has so many entries.
            let empty = unsafe { self.lanes.all_zero(child, 0, Self::ENTRIES) };
            if !empty {
                self.step(candidate, frozen, candidate.descriptor);
                return false;
            }
            self.step(candidate, frozen, frozen & !VALID)
        });
        done.kept += found - batch.len() as u64;
        if batch.is_empty() {
            return Ok(());
        }
        self.pool.memory.publish();
        let level = Self::level_of(shift - F::INDEX_BITS);
        let mut spans: Vec<TableSpan> = Vec::new();
        let complete = spans.try_reserve_exact(batch.len()).is_ok() && {
            for candidate in &*batch {
                let iova = self.iova(candidate.off);
                match spans.last_mut() {
                    Some(last) if last.iova.checked_add(last.len_bytes) == Some(iova) => {
                        last.len_bytes += 1 << shift;
                    }
                    _ => spans.push(TableSpan {
                        iova,
                        len_bytes: 1 << shift,
                        level,
                    }),
                }
            }
            true
        };
        let result = if complete { invalidate(&spans) } else { Ok(()) };
        let gone = complete && result.is_ok();
        let mut dead = DetachedTables::new();
        for candidate in &*batch {
            let parked = (candidate.descriptor | FROZEN) & !VALID;
            // Without `CLEANED` a mapper makes sure that a walker which does not
            // snoop sees the descriptor again.
            let to = if gone {
                0
            } else {
                candidate.descriptor & !CLEANED
            };
            if !self.step(candidate, parked, to) || !gone {
                done.kept += 1;
                continue;
            }
            done.unlinked += 1;
            dead.push(DetachedTable {
                // SAFETY: the table that the descriptor pointed to, alive until
                // `collect`, which needs the maintenance lock.
                table: unsafe { self.child(parked) },
                phys: PhysAddr(F::decode_oa(parked)),
                iova: self.iova(candidate.off),
                span_lg2: shift,
                level,
            });
        }
        let counters = &self.pool.counters;
        counters.live.fetch_sub(dead.len(), Ordering::Relaxed);
        counters.detached.fetch_add(dead.len(), Ordering::Relaxed);
        // SAFETY: of this tree, and the invalidation has completed, as the
        // caller of `reclaim` promised.
        unsafe { self.pool.to_limbo(dead) };
        result
    }
}

/// When to call [`PageTable::reclaim`]: after a quiet time, or when tables take
/// more memory than they should, but not again before there is something to
/// gain.
#[derive(Clone, Copy, Debug)]
pub struct ReclaimPolicy {
    /// Reclaim after the number of tables has not changed for so long.
    pub idle_ns: u64,
    /// Reclaim at once when tables take more than this many bytes.
    pub max_table_bytes: u64,
    /// Never sooner after the last time than this.
    pub min_gap_ns: u64,
}

impl ReclaimPolicy {
    /// After 100 ms of quiet, or beyond 64 MiB; at most every 10 ms.
    pub const DEFAULT: Self = ReclaimPolicy {
        idle_ns: 100_000_000,
        max_table_bytes: 64 << 20,
        min_gap_ns: 10_000_000,
    };
}

impl Default for ReclaimPolicy {
    /// [`ReclaimPolicy::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Applies a [`ReclaimPolicy`] over time.
#[derive(Clone, Copy, Debug)]
pub struct ReclaimTimer {
    policy: ReclaimPolicy,
    last_run: Option<TimeNs>,
    /// Live tables after the last run: what reclaiming could not free.
    floor: u64,
    seen: u64,
    changed_at: TimeNs,
}

impl ReclaimTimer {
    /// A timer for a table that is empty at `now`.
    pub fn new(policy: ReclaimPolicy, now: TimeNs) -> Self {
        ReclaimTimer {
            policy,
            last_run: None,
            floor: 0,
            seen: 0,
            changed_at: now,
        }
    }

    /// Whether to reclaim now. Afterwards call [`ran`](Self::ran).
    pub fn due(&mut self, now: TimeNs, stats: &TableStats) -> bool {
        if stats.live != self.seen {
            self.seen = stats.live;
            self.changed_at = now;
        }
        if let Some(last) = self.last_run
            && now.since(last) < self.policy.min_gap_ns
        {
            return false;
        }
        // What stood through the last run may well stand through the next: run
        // again only once an eighth has come on top.
        let grown = stats.live > self.floor + self.floor / 8;
        let waiting = stats.limbo > 0;
        let too_much = stats.bytes() > self.policy.max_table_bytes;
        let quiet = now.since(self.changed_at) >= self.policy.idle_ns;
        (too_much && grown) || ((grown || waiting) && quiet)
    }

    /// When to ask again if nothing else happens; `None` while there is nothing
    /// to gain.
    pub fn next_deadline(&self, stats: &TableStats) -> Option<TimeNs> {
        let grown = stats.live > self.floor + self.floor / 8;
        if !grown && stats.limbo == 0 {
            return None;
        }
        let idle = self.changed_at.saturating_add_ns(self.policy.idle_ns);
        let gap = self.last_run.map_or(TimeNs(0), |last| {
            last.saturating_add_ns(self.policy.min_gap_ns)
        });
        Some(idle.max(gap))
    }

    /// Reclaim has run and did not succeed: it is due again after the policy's
    /// [gap](ReclaimPolicy::min_gap_ns).
    pub fn failed(&mut self, now: TimeNs) {
        self.last_run = Some(now);
    }

    /// Reclaim has run, and left this.
    pub fn ran(&mut self, now: TimeNs, stats: &TableStats) {
        self.last_run = Some(now);
        self.floor = stats.live;
        self.seen = stats.live;
        self.changed_at = now;
    }
}
