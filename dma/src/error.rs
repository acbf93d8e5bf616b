//! What map and unmap refuse, and what they hand back.

use core::fmt;

use dmabench_flushq::{BackendError, Gather, Late, QueueConfigError};
use dmabench_iova::{AllocError, IovaRange};
use dmabench_pgtable as pgtable;
use dmabench_platform::PhysAddr;

use crate::{Mapping, Mode, Pending, mapping::DomainTag};

/// Why nothing was mapped. The domain is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The list has no segments.
    EmptyList,
    /// A segment has length 0.
    EmptySegment {
        /// Its place in the list.
        index: usize,
    },
    /// A segment is longer than the device's descriptors can say.
    SegmentTooLong {
        /// Its place in the list.
        index: usize,
        /// The device's limit in bytes.
        max_bytes: u64,
    },
    /// More segments than the device's descriptors.
    TooManySegments {
        /// How many there are.
        count: usize,
        /// The device's limit.
        max: usize,
    },
    /// A segment would cross a multiple of the device's boundary.
    CrossesBoundary {
        /// Its place in the list.
        index: usize,
        /// The boundary in bytes.
        boundary_bytes: u64,
    },
    /// A segment's end, or the whole list, does not fit into 64 bits.
    TooLong,
    /// The array for the device's addresses is shorter than the list.
    OutTooShort {
        /// Elements needed.
        needed: usize,
    },
    /// Passthrough: the buffer lies where the device cannot reach.
    BeyondMask {
        /// First byte of the segment.
        phys: PhysAddr,
    },
    /// No I/O addresses.
    Iova(AllocError),
    /// The tables refused.
    Tables(pgtable::MapError),
    /// The caller is inside another request on the same slot.
    Reentered,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::EmptyList => f.write_str("an empty list of segments: map at least one"),
            MapError::EmptySegment { index } => {
                write!(f, "segment {index} has length 0: leave it out")
            }
            MapError::SegmentTooLong { index, max_bytes } => write!(
                f,
                "segment {index} is longer than the {max_bytes} bytes of the device's descriptors: split it"
            ),
            MapError::TooManySegments { count, max } => write!(
                f,
                "{count} segments, but the device has {max} descriptors: split the list"
            ),
            MapError::CrossesBoundary {
                index,
                boundary_bytes,
            } => write!(
                f,
                "segment {index} would cross a multiple of {boundary_bytes} bytes: split it there"
            ),
            MapError::TooLong => f.write_str("the segments do not fit into 64 bits"),
            MapError::OutTooShort { needed } => {
                write!(f, "the array for DMA addresses needs {needed} elements")
            }
            MapError::BeyondMask { phys } => write!(
                f,
                "the device cannot address {phys}, and nothing translates for it: use lower memory or a translating mode"
            ),
            MapError::Iova(error) => error.fmt(f),
            MapError::Tables(error) => error.fmt(f),
            MapError::Reentered => f.write_str(
                "the caller is inside another request on its slot: end that request first",
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// Why an unmap did not finish, with what is still owned.
#[derive(Debug)]
#[must_use = "it holds the mapping, or what is left of it"]
#[non_exhaustive]
pub enum UnmapError {
    /// The mapping is of another domain. Nothing happened.
    OtherDomain(Mapping),
    /// The caller is inside another request on the same slot. Nothing happened.
    Reentered(Mapping),
    /// Lazy: the flush that has to make room first was late or failed. Nothing
    /// was unmapped.
    Flush {
        /// The mapping, still mapped.
        mapping: Mapping,
        /// Why.
        late: Late,
    },
    /// The tables do not hold what the token says: somebody else changed them.
    /// Nothing was unmapped.
    Tables {
        /// The mapping.
        mapping: Mapping,
        /// Why.
        error: pgtable::UnmapError,
    },
    /// The tables are cleared, but the invalidation is not known to have
    /// completed: **the device may still reach the buffer**. Do not reuse it
    /// before [`Domain::finish`](crate::Domain::finish) succeeds.
    NotInvalidated(Unfinished),
    /// [`Domain::complete`](crate::Domain::complete) could not begin: the unmap
    /// is of another domain, or the caller is inside another request on the same
    /// slot. Nothing happened, and the buffer must not be reused yet.
    StillPending(Pending),
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmapError::OtherDomain(mapping) => write!(
                f,
                "the mapping is of domain {}: unmap it there",
                mapping.domain_id()
            ),
            UnmapError::Reentered(_) => MapError::Reentered.fmt(f),
            UnmapError::Flush { late, .. } => {
                write!(f, "nothing was unmapped, the flush queue is full: {late}")
            }
            UnmapError::Tables { error, .. } => error.fmt(f),
            UnmapError::NotInvalidated(unfinished) => write!(
                f,
                "the buffer must not be reused yet, the device may still reach it: {}; call `finish`",
                unfinished.late
            ),
            UnmapError::StillPending(_) => f.write_str(
                "the unmap is still pending: complete it on its own domain, outside other requests",
            ),
        }
    }
}

impl core::error::Error for UnmapError {}

/// An unmap whose invalidation is not known to have completed (A11). It holds
/// back the addresses and tables; the caller holds back the buffer.
///
/// Dropping it leaks the addresses and tables, which is safe, and is counted as
/// a leaked mapping.
#[must_use = "give it to `Domain::finish`; until then the device may reach the buffer"]
pub struct Unfinished {
    pub(crate) gather: Gather<Option<IovaRange>>,
    pub(crate) late: Late,
    pub(crate) tag: &'static DomainTag,
}

impl Unfinished {
    /// What went wrong the last time.
    pub fn late(&self) -> Late {
        self.late
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished")
            .field("range", self.gather.payload())
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.gather.payload().is_some() {
            self.tag
                .leaked
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Why a domain was not taken down. It is in here.
#[must_use = "the domain is in it"]
pub struct CloseError<D> {
    /// The domain, unchanged.
    pub domain: D,
    /// Why.
    pub reason: CloseReason,
}

/// What keeps a domain open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Mappings are alive, or were leaked.
    Mapped {
        /// How many.
        mappings: u64,
    },
    /// The last flush was late or failed.
    Flush(Late),
    /// The caller is inside a request on its slot.
    Reentered,
}

impl<D> fmt::Debug for CloseError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Display for CloseError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            CloseReason::Mapped { mappings } => {
                write!(f, "{mappings} mappings are left: unmap them first")
            }
            CloseReason::Flush(late) => late.fmt(f),
            CloseReason::Reentered => MapError::Reentered.fmt(f),
        }
    }
}

impl<D> core::error::Error for CloseError<D> {}

/// Why a flush by [`Domain::poll`](crate::Domain::poll) or
/// [`Domain::drain`](crate::Domain::drain) released nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushError {
    /// The invalidation was late or failed; it will be tried again.
    Late(Late),
    /// The caller is inside a request on its slot.
    Reentered,
}

impl From<Late> for FlushError {
    fn from(late: Late) -> Self {
        FlushError::Late(late)
    }
}

impl From<BackendError> for FlushError {
    fn from(error: BackendError) -> Self {
        FlushError::Late(Late::Failed(error))
    }
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlushError::Late(late) => late.fmt(f),
            FlushError::Reentered => MapError::Reentered.fmt(f),
        }
    }
}

impl core::error::Error for FlushError {}

/// Why [`Domain::relax`](crate::Domain::relax) changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwitchError {
    /// The domain translates nothing, and that does not change.
    Passthrough,
    /// The mode asked for is not a lazy one.
    NotLazy {
        /// It.
        asked: Mode,
    },
    /// The domain has a flush queue of another kind or shape already; it keeps
    /// the first it got.
    OtherQueue {
        /// The mode that goes with its queue.
        has: Mode,
    },
    /// The queue cannot be made.
    Queue(QueueConfigError),
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwitchError::Passthrough => f.write_str(
                "a passthrough domain stays one: attach the device to a translating domain",
            ),
            SwitchError::NotLazy { asked } => write!(
                f,
                "{} is not a lazy mode; to go back to strict there is `tighten`",
                asked.name()
            ),
            SwitchError::OtherQueue { has } => {
                write!(
                    f,
                    "the domain's flush queue stays what it is: ask for {has:?}"
                )
            }
            SwitchError::Queue(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SwitchError {}
