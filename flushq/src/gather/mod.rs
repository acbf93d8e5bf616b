//! What an unmap leaves to be invalidated, and what may be released after it.

mod pages;
mod ranges;
mod states;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use alloc::collections::TryReserveError;
use core::fmt;

use dmabench_pgtable::{DetachedTable, DetachedTables, Level, UnmapSink};
use dmabench_platform::{Granule, Iova, SlotGuard};

use crate::{TlbBackend, TlbRange};
pub use pages::{PagesIssued, PagesKept, PagesRange};
use ranges::Ranges;
pub use states::{Complete, Detached, GatherHolder, Issued, NotComplete, NotIssued};

/// Collects what one or more unmaps removed: ranges to invalidate, table pages
/// that became unreachable, and a thing `P` (an IOVA range, a buffer) that must
/// not be reused before the invalidation has completed.
///
/// The tables and `P` come out again through [`Complete`] only, that is after
/// [`issue`](Gather::issue) and [`wait`](Issued::wait), or as they went in if
/// nothing was gathered ([`into_unused`](Gather::into_unused)). A gather that is
/// dropped releases nothing: its tables leak, and so does a token in `P` that
/// counts its own leak.
///
/// It holds four ranges without allocating, and more if it was made
/// [with room](Gather::with_room). One that comes when it is full is joined with
/// the one that costs least, so the gather always covers all that was removed
/// (A6) and sometimes more; [`over_bytes`](Gather::over_bytes) says how much.
#[must_use = "what it holds is released only after an invalidation: issue it and wait"]
pub struct Gather<P = ()> {
    granule: Granule,
    ranges: Ranges,
    tables: DetachedTables,
    payload: P,
}

impl Gather {
    /// An empty gather for tables of this granule that holds nothing else back.
    #[inline]
    pub fn new(granule: Granule) -> Self {
        Gather::holding(granule, ())
    }
}

impl<P> Gather<P> {
    /// An empty gather that holds `payload` back until the invalidation has
    /// completed.
    #[inline]
    pub fn holding(granule: Granule, payload: P) -> Self {
        Gather {
            granule,
            ranges: Ranges::new(),
            tables: DetachedTables::new(),
            payload,
        }
    }

    /// As [`holding`](Self::holding), with room for `ranges` ranges: for many
    /// unmaps at once. Those are kept apart until the gather is issued; then they
    /// are joined where that is [cheaper](TlbBackend::join_cost). It does not
    /// allocate afterwards.
    ///
    /// # Errors
    ///
    /// If there is no memory for them.
    pub fn with_room(granule: Granule, payload: P, ranges: usize) -> Result<Self, TryReserveError> {
        let ranges = Ranges::with_room(ranges)?;
        Ok(Gather {
            ranges,
            ..Gather::holding(granule, payload)
        })
    }

    /// Nobody uses these addresses until the gather is complete: what allocators
    /// round up to. To cover them too costs nothing but commands. (For a gather
    /// made with room for many ranges.)
    pub fn unused(&mut self, iova: Iova, len_bytes: u64) {
        self.ranges.add_unused(iova, len_bytes);
    }

    /// Bytes that the ranges cover and that were not removed, because they lie
    /// between ranges that were joined, without those that are
    /// [unused](Self::unused). Some of them may be in use: the hardware
    /// has to look them up again. What was removed there later, before an
    /// invalidation that failed was tried again, counts too.
    pub fn over_bytes(&self) -> u64 {
        self.ranges.over_bytes()
    }

    /// Whether nothing was gathered, so that there is nothing to invalidate.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ranges.as_slice().is_empty() && self.tables.is_empty()
    }

    /// The ranges to invalidate.
    #[inline]
    pub fn ranges(&self) -> &[TlbRange] {
        self.ranges.as_slice()
    }

    /// Whether tables are held back.
    #[inline]
    pub fn has_tables(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Something to hold things in, for a gather that holds nothing yet: a vector
    /// with room. Says whether it was taken.
    pub fn hold_in(&mut self, empty: P) -> bool {
        let unused = self.is_empty();
        if unused {
            self.payload = empty;
        }
        unused
    }

    /// A look at what is held back. (Not `&mut`: it must not get out.)
    #[inline]
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// Holds one more thing back: for one invalidation that serves many unmaps.
    pub fn hold<T>(&mut self, thing: T)
    where
        P: Extend<T>,
    {
        self.payload.extend(core::iter::once(thing));
    }

    /// The payload of a gather in which nothing was gathered: the unmap failed
    /// and left everything as it was.
    ///
    /// # Errors
    ///
    /// The gather itself if it is not empty.
    pub fn into_unused(self) -> Result<P, Self> {
        if self.is_empty() {
            Ok(self.payload)
        } else {
            Err(self)
        }
    }

    /// Begins the invalidation and a sync after it, and does not wait.
    ///
    /// An empty gather is issued without a call to the backend, and is complete.
    ///
    /// # Errors
    ///
    /// [`NotIssued`] with the gather, unchanged, if the backend fails. Issuing
    /// it again repeats the whole invalidation.
    #[inline]
    pub fn issue<'b, B: TlbBackend>(
        self,
        backend: &'b B,
        slot: Option<&mut SlotGuard<'_>>,
        context: &B::Context,
    ) -> Result<Issued<'b, B, Self>, NotIssued<Self>> {
        states::issue(self, backend, slot, context)
    }

    /// [`issue`](Self::issue) without moving the gather: for requests that
    /// finish where they began.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    #[inline]
    pub fn issue_in_place<'b, B: TlbBackend>(
        &mut self,
        backend: &'b B,
        slot: Option<&mut SlotGuard<'_>>,
        context: &B::Context,
    ) -> Result<Issued<'b, B, &mut Self>, NotIssued<&mut Self>> {
        states::issue(self, backend, slot, context)
    }
}

impl<P> UnmapSink for Gather<P> {
    #[inline]
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        if len_bytes != 0 {
            self.ranges.add_leaves(iova, len_bytes, self.granule, level);
        }
    }

    #[cold]
    fn table(&mut self, table: DetachedTable) {
        // No level: with one, the hardware drops table entries above that level
        // only (Arm IHI 0070, 4.4.1).
        self.ranges.add(TlbRange {
            iova: table.iova(),
            len_bytes: table.len_bytes(),
            granule: self.granule,
            level: None,
            leaf_only: false,
        });
        self.tables.push(table);
    }
}

impl<P> fmt::Debug for Gather<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("ranges", &self.ranges())
            .field("has_tables", &self.has_tables())
            .finish_non_exhaustive()
    }
}
