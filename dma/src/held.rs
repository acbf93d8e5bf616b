//! What richer mappings have in common: the plain mapping in them, and an unmap
//! that hands them back whole when it does not finish.

use core::fmt;

use dmabench_flushq::{Late, TlbBackend};
use dmabench_pgtable::{self as pgtable, Format, TableMemory};
use dmabench_platform::{MemoryError, SlotSource};

use crate::{Domain, Mapping, UnmapError, error::Unfinished};

/// A request that took away nothing, or not everything, with what it was asked
/// to take away. Ask again with [`mapping`](Self::mapping); it goes on where it
/// stopped.
#[derive(Debug)]
#[must_use = "it holds the mapping"]
pub struct NotUnmapped<T> {
    /// What was to be unmapped.
    pub mapping: T,
    /// Why it was not.
    pub reason: NotUnmappedReason,
}

/// Why an unmap did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotUnmappedReason {
    /// The mapping is of another domain. Nothing happened.
    OtherDomain,
    /// The caller is inside another request on the same slot. Nothing happened.
    Reentered,
    /// Lazy: the flush that has to make room first was late or failed. Nothing
    /// was unmapped.
    Flush(Late),
    /// The tables do not hold what the mapping says. Nothing was unmapped.
    Tables(pgtable::UnmapError),
    /// The tables are cleared, but **the device may still reach the buffer**.
    NotInvalidated(Late),
    /// Bounced data was not copied to the caller's buffer, of which a part may
    /// be there. The list must still be the one that was mapped.
    Memory(MemoryError),
    /// The list is not the one that was mapped: its segments have other lengths
    /// or offsets. Nothing was copied.
    ListChanged,
}

impl fmt::Display for NotUnmappedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotUnmappedReason::OtherDomain => {
                f.write_str("the mapping is of another domain: unmap it there")
            }
            NotUnmappedReason::Reentered => crate::MapError::Reentered.fmt(f),
            NotUnmappedReason::Flush(late) => {
                write!(f, "nothing was unmapped, the flush queue is full: {late}")
            }
            NotUnmappedReason::Tables(error) => error.fmt(f),
            NotUnmappedReason::NotInvalidated(late) => write!(
                f,
                "the buffer must not be reused yet, the device may still reach it: {late}; unmap again"
            ),
            NotUnmappedReason::Memory(error) => {
                write!(f, "the data was not copied back: {error}; unmap again")
            }
            NotUnmappedReason::ListChanged => {
                f.write_str("the list changed while it was mapped: keep its segments as they were")
            }
        }
    }
}

impl<T> fmt::Display for NotUnmapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T: fmt::Debug> core::error::Error for NotUnmapped<T> {}

/// A mapping on its way out. Dropping it counts as the mapping's drop.
#[derive(Debug)]
pub(crate) enum Held {
    Mapped(Mapping),
    Unfinished(Unfinished),
    /// The device has lost it, and the addresses are free.
    Gone,
}

impl Held {
    pub(crate) fn mapping(&self) -> Option<&Mapping> {
        match self {
            Held::Mapped(mapping) => Some(mapping),
            _ => None,
        }
    }
}

/// Whether an unmap may wait for a later flush.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    AsTheMode,
    /// The device has lost it when the call returns `Ok`, whatever the mode.
    Now,
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Takes the device's access away and waits until that is complete, whatever
    /// the mode.
    pub(crate) fn unmap_now(&self, mapping: Mapping) -> Result<(), UnmapError> {
        if self.mode.is_passthrough() || !core::ptr::eq(mapping.tag, self.tag) {
            // Nothing to wait for, or nothing of ours.
            return self.unmap(mapping);
        }
        let pin = self.source.pin();
        match self.slots.enter_pinned(&pin) {
            Ok(mut slot) => self.unmap_strict_any(&mut slot, mapping),
            Err(_) => Err(UnmapError::Reentered(mapping)),
        }
    }

    /// Goes on with the unmap of `held`, which ends as [`Held::Gone`].
    pub(crate) fn unmap_held(&self, held: &mut Held, when: When) -> Result<(), NotUnmappedReason> {
        let result = match core::mem::replace(held, Held::Gone) {
            Held::Gone => return Ok(()),
            Held::Mapped(mapping) if when == When::Now => self.unmap_now(mapping),
            Held::Mapped(mapping) => self.unmap(mapping),
            Held::Unfinished(unfinished) => self.finish(unfinished),
        };
        let (back, reason) = match result {
            Ok(()) => return Ok(()),
            Err(UnmapError::OtherDomain(mapping)) => {
                (Held::Mapped(mapping), NotUnmappedReason::OtherDomain)
            }
            Err(UnmapError::Reentered(mapping)) => {
                (Held::Mapped(mapping), NotUnmappedReason::Reentered)
            }
            Err(UnmapError::Flush { mapping, late }) => {
                (Held::Mapped(mapping), NotUnmappedReason::Flush(late))
            }
            Err(UnmapError::Tables { mapping, error }) => {
                (Held::Mapped(mapping), NotUnmappedReason::Tables(error))
            }
            // Of `complete` only. Dropped, it counts as a leaked mapping.
            Err(UnmapError::StillPending(_)) => (Held::Gone, NotUnmappedReason::Reentered),
            Err(UnmapError::NotInvalidated(unfinished)) => {
                let late = unfinished.late();
                (
                    Held::Unfinished(unfinished),
                    NotUnmappedReason::NotInvalidated(late),
                )
            }
        };
        *held = back;
        Err(reason)
    }
}
