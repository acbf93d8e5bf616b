//! What a run asks of a mode. Most modes are a [`Bed`](super::bed::Bed) of
//! domains; those that copy or register memory stand on grounds of their own.

use dmabench_dma::{DmaSegment, Segment};
use dmabench_flushq::BackendCounts;
use dmabench_platform::{Iova, TimeNs};

use super::RunError;
use crate::workload::Request;

/// Requests of a workload that lives for `'w` are mapped and unmapped on it.
pub(super) trait Ground<'w> {
    /// A request that is mapped.
    type Live;

    /// One map call. `out` has room for the request's segments.
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<Self::Live, RunError>;

    /// One unmap call.
    fn unmap(&self, device: u16, live: Self::Live) -> Result<(), RunError>;

    /// Whether [`done`](Self::done) has a use for `more`.
    const BATCHES: bool = false;

    /// Told before request `number` is mapped, as a part of its map call.
    #[inline]
    fn before_map(&self, _number: u32, _back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        Ok(())
    }

    /// The device is done with request `number`: takes its access away, now or
    /// later. `back` gets every request whose buffer its owner may use from now
    /// on. `more`: the same device is done with another one at the same moment,
    /// and that is what is told next.
    #[inline]
    fn done(
        &self,
        number: u32,
        device: u16,
        live: Self::Live,
        _more: bool,
        back: &mut impl FnMut(u32),
    ) -> Result<(), RunError> {
        self.unmap(device, live)?;
        back(number);
        Ok(())
    }

    /// Finishes what [`done`](Self::done) left for later, but for what waits in a
    /// flush queue.
    fn settle(&self, _back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        Ok(())
    }

    /// After a [`poll`](Self::poll): what came back by it.
    fn came_back(&self, _back: &mut impl FnMut(u32)) {}

    /// The I/O pages of a request; `None` where nothing is translated.
    fn range(live: &Self::Live) -> Option<(Iova, u64)>;

    /// When to poll next.
    fn next_deadline(&self) -> Option<TimeNs>;

    fn poll(&self, now: TimeNs) -> Result<(), RunError>;

    fn drain(&self) -> Result<(), RunError>;

    /// I/O pages in use and bytes of tables.
    fn held(&self) -> (u64, u64);
}

/// A ground for timing runs, which count.
pub(super) trait Counted {
    /// What the backends were asked for.
    fn counts(&self) -> BackendCounts;
}
