//! The short way for the most frequent gather: one run of pages, invalidated
//! where it was unmapped.

use core::fmt;

use dmabench_pgtable::{Level, UnmapSink};
use dmabench_platform::{Granule, Iova, SlotGuard, Timeout};

use super::Gather;
use crate::{Late, Ticket, TlbBackend, TlbRange};

impl<P> Gather<P> {
    /// What [`issue`](Gather::issue) and [`wait`](crate::Issued::wait) do for a
    /// gather with one range of last-level leaves and no tables, without making
    /// the gather: `payload` comes back once the invalidation has completed. The
    /// range is never empty, and a multiple of the granule at both ends.
    ///
    /// # Errors
    ///
    /// [`PagesKept`] holds `payload` back, and becomes the gather.
    #[inline(always)]
    pub fn complete_pages<B: TlbBackend>(
        range: PagesRange,
        payload: P,
        backend: &B,
        slot: &mut SlotGuard<'_>,
        context: &B::Context,
        timeout: Timeout,
    ) -> Result<P, PagesKept<P>> {
        let late = match invalidate(range.0, backend, slot, context, timeout) {
            Ok(()) => return Ok(payload),
            Err(late) => late,
        };
        Err(PagesKept {
            range,
            payload,
            late,
        })
    }

    /// As [`complete_pages`](Self::complete_pages), without waiting: `payload`
    /// comes back from [`PagesIssued::wait`].
    ///
    /// # Errors
    ///
    /// [`PagesKept`] holds `payload` back, and becomes the gather.
    #[inline]
    pub fn issue_pages<B: TlbBackend>(
        range: PagesRange,
        payload: P,
        backend: &B,
        slot: &mut SlotGuard<'_>,
        context: &B::Context,
    ) -> Result<PagesIssued<P>, PagesKept<P>> {
        match backend.invalidate_and_sync(Some(slot), context, &[range.0]) {
            Ok(ticket) => Ok(PagesIssued {
                range,
                payload,
                ticket,
            }),
            Err(error) => Err(PagesKept {
                range,
                payload,
                late: Late::Failed(error),
            }),
        }
    }
}

#[inline(always)]
fn invalidate<B: TlbBackend>(
    range: TlbRange,
    backend: &B,
    slot: &mut SlotGuard<'_>,
    context: &B::Context,
    timeout: Timeout,
) -> Result<(), Late> {
    let ticket = backend.invalidate_and_sync(Some(slot), context, &[range])?;
    let synced = backend.sync_wait(Some(slot), ticket, timeout)?;
    // A proof of an earlier point proves nothing here.
    if synced.up_to() < ticket {
        return Err(Late::TimedOut { after: timeout });
    }
    Ok(())
}

/// One run of pages that were unmapped: last-level leaves, no table.
#[derive(Clone, Copy, Debug)]
pub struct PagesRange(TlbRange);

impl PagesRange {
    /// `len_bytes` from `iova` on; both are multiples of the granule, and there
    /// is at least one.
    #[inline(always)]
    pub fn new(granule: Granule, iova: Iova, len_bytes: u64) -> Self {
        PagesRange(TlbRange {
            iova,
            len_bytes,
            granule,
            level: Some(Level::LAST),
            leaf_only: true,
        })
    }
}

/// The invalidation of one run of pages on its way. It does not borrow the
/// backend, so it can be kept while the next requests begin. Dropping it drops
/// what it holds back.
#[must_use = "it holds back what must not be reused before `wait`"]
pub struct PagesIssued<P> {
    range: PagesRange,
    payload: P,
    ticket: Ticket,
}

impl<P> PagesIssued<P> {
    /// A look at what is held back.
    #[inline]
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// Waits until the invalidation has completed.
    ///
    /// # Errors
    ///
    /// [`PagesKept`] holds `payload` back, and becomes the gather.
    ///
    /// # Safety
    ///
    /// `backend` is the one of [`Gather::issue_pages`]: the ticket of another
    /// proves nothing about this invalidation.
    #[inline]
    pub unsafe fn wait<B: TlbBackend>(
        self,
        backend: &B,
        slot: &mut SlotGuard<'_>,
        timeout: Timeout,
    ) -> Result<P, PagesKept<P>> {
        let late = match backend.sync_wait(Some(slot), self.ticket, timeout) {
            Ok(synced) if synced.up_to() >= self.ticket => return Ok(self.payload),
            // A proof of an earlier point proves nothing here.
            Ok(_) => Late::TimedOut { after: timeout },
            Err(late) => late,
        };
        Err(PagesKept {
            range: self.range,
            payload: self.payload,
            late,
        })
    }
}

impl<P> fmt::Debug for PagesIssued<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagesIssued")
            .field("range", &self.range)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// The invalidation of [`Gather::complete_pages`] or [`PagesIssued`] is not known
/// to have completed. Dropping it drops what it holds back, as a gather does.
#[must_use = "it holds back what must not be reused: make the gather of it and issue that"]
pub struct PagesKept<P> {
    range: PagesRange,
    payload: P,
    late: Late,
}

impl<P> PagesKept<P> {
    /// The gather, not issued, and what went wrong. (An `Option`, so that it can
    /// be finished [in place](Gather::issue_in_place).)
    #[cold]
    pub fn into_gather(self) -> (Gather<Option<P>>, Late) {
        let range = self.range.0;
        let mut gather = Gather::holding(range.granule, Some(self.payload));
        gather.leaves(range.iova, range.len_bytes, Level::LAST);
        (gather, self.late)
    }
}

impl<P> fmt::Debug for PagesKept<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagesKept")
            .field("range", &self.range)
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}
