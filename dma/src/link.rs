//! Mapping in two steps: reserve addresses once, link pieces as they come, and
//! finish; for callers that have no list of segments and do not want to make one
//! (Linux 6.16: `dma_iova_try_alloc`, `dma_iova_link`, `dma_iova_sync`).

use core::fmt;

use dmabench_flushq::{Gather, Late, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{self as pgtable, Format, Prot, TableMemory};
use dmabench_platform::{Iova, PhysAddr, SlotGuard, SlotSource};

use crate::{
    Device, Direction, Domain, MapError, Mapping, Segment,
    map::{bad_length, crosses},
    mapping::DomainTag,
};

/// Addresses that are reserved, and the pieces of memory linked to them so far,
/// one after the other.
///
/// The device can reach a piece as soon as it is linked. Dropping it leaks the
/// addresses, as with [`Mapping`]; [`Domain::cancel`] takes everything back.
#[must_use = "finish it with `Domain::link_done` or `Domain::cancel`"]
pub struct Linking {
    /// `None` only in a value that is about to be forgotten.
    range: Option<IovaRange>,
    /// Tables cleared, not yet invalidated (A11).
    cleared: Option<Gather<Option<IovaRange>>>,
    /// Offset of the first byte in its granule.
    offset: u64,
    len_bytes: u64,
    linked_bytes: u64,
    prot: Prot,
    tag: &'static DomainTag,
}

impl Linking {
    /// The address for the device of the first byte.
    pub fn addr(&self) -> Iova {
        let base = self.range.as_ref().map_or(0, |range| range.iova().0);
        Iova(base + self.offset)
    }

    /// Bytes reserved.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Bytes linked so far.
    pub fn linked_bytes(&self) -> u64 {
        self.linked_bytes
    }

    fn into_range(mut self) -> Option<IovaRange> {
        self.range.take()
    }
}

impl fmt::Debug for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linking")
            .field("addr", &self.addr())
            .field("len_bytes", &self.len_bytes)
            .field("linked_bytes", &self.linked_bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for Linking {
    fn drop(&mut self) {
        if self.range.is_some() {
            self.tag
                .leaked
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Why a piece was not linked, or what was linked not finished or taken back.
/// What was linked before stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// The addresses are of another domain.
    OtherDomain,
    /// The caller is inside another request on the same slot.
    Reentered,
    /// A piece of length 0.
    EmptyPiece,
    /// The piece is longer than what is left of the reservation.
    TooLong {
        /// Bytes that are left.
        left_bytes: u64,
    },
    /// The piece does not begin where the one before it ended in its granule:
    /// only the first piece may begin, and only the last may end, inside a
    /// granule.
    Misplaced {
        /// First byte of the piece.
        phys: PhysAddr,
        /// The offset in a granule at which it must begin.
        offset: u64,
    },
    /// Not all that was reserved is linked.
    Incomplete {
        /// Bytes linked.
        linked_bytes: u64,
        /// Bytes reserved.
        len_bytes: u64,
    },
    /// The tables refused the piece.
    Tables(pgtable::MapError),
    /// The tables do not hold what was linked: somebody else changed them.
    Unlink(pgtable::UnmapError),
    /// An unlink cleared the tables, but **the device may still reach the
    /// pieces**: unlink again before anything else.
    NotInvalidated(Late),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::OtherDomain => f.write_str("the addresses are of another domain"),
            LinkError::Reentered => MapError::Reentered.fmt(f),
            LinkError::EmptyPiece => f.write_str("a piece of length 0: leave it out"),
            LinkError::TooLong { left_bytes } => write!(
                f,
                "the piece is longer than the {left_bytes} bytes left: reserve more"
            ),
            LinkError::Misplaced { phys, offset } => write!(
                f,
                "the piece at {phys} must begin at offset {offset:#x} of a granule: link whole granules in the middle"
            ),
            LinkError::Incomplete {
                linked_bytes,
                len_bytes,
            } => write!(
                f,
                "{linked_bytes} of {len_bytes} bytes are linked: link the rest, or cancel"
            ),
            LinkError::Tables(error) => error.fmt(f),
            LinkError::Unlink(error) => error.fmt(f),
            LinkError::NotInvalidated(late) => write!(
                f,
                "the pieces must not be reused yet, the device may still reach them: {late}; unlink again"
            ),
        }
    }
}

impl core::error::Error for LinkError {}

/// A step that was not taken, with the addresses.
#[derive(Debug)]
#[must_use = "it holds the addresses, and what is linked to them"]
pub struct NotLinked {
    /// The addresses, and what is linked to them.
    pub linking: Linking,
    /// Why.
    pub error: LinkError,
}

impl fmt::Display for NotLinked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for NotLinked {}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Reserves addresses for `len_bytes` bytes, the first of which will lie at
    /// `first` (or anywhere with the same offset in a granule). `None` in
    /// passthrough, where there is nothing to reserve: map each piece.
    ///
    /// # Errors
    ///
    /// [`MapError`] as [`map`](Self::map) of one buffer of that length.
    pub fn link_begin(
        &self,
        device: &Device,
        first: PhysAddr,
        len_bytes: u64,
        direction: Direction,
    ) -> Result<Option<Linking>, MapError> {
        let pin = self.source.pin();
        let mut slot = self
            .slots
            .enter_pinned(&pin)
            .map_err(|_| MapError::Reentered)?;
        let slot = &mut slot;
        if self.mode.is_passthrough() {
            return Ok(None);
        }
        let (range, offset) = self.reserve_one(slot, device, first, len_bytes)?;
        self.count_mapped(slot);
        Ok(Some(Linking {
            range: Some(range),
            cleared: None,
            offset,
            len_bytes,
            linked_bytes: 0,
            prot: device.prot(direction),
            tag: self.tag,
        }))
    }

    /// Addresses for one buffer, and its offset in them.
    fn reserve_one(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        first: PhysAddr,
        len_bytes: u64,
    ) -> Result<(IovaRange, u64), MapError> {
        let mask = F::GRANULE.mask();
        let buffer = Segment {
            phys: first,
            len_bytes,
        };
        if len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
            return Err(bad_length(&buffer, 0, device));
        }
        let offset = first.0 & mask;
        if device.crosses_boundary(offset, len_bytes) {
            return Err(crosses(0, device));
        }
        // Far below 2^64: a segment has at most 2^62 bytes.
        let pages = (offset + len_bytes + mask) >> F::GRANULE.lg2();
        Ok((self.alloc(slot, pages, device)?, offset))
    }

    /// Links `piece` behind what is linked already, and returns its address for
    /// the device. All of it or nothing.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; what was linked before stays linked.
    pub fn link(&self, linking: &mut Linking, piece: Segment) -> Result<Iova, LinkError> {
        let mask = F::GRANULE.mask();
        let range = match &linking.range {
            Some(range) if core::ptr::eq(linking.tag, self.tag) => range,
            _ => return Err(LinkError::OtherDomain),
        };
        if linking.cleared.is_some() {
            return Err(LinkError::NotInvalidated(not_tried(self.sync_timeout)));
        }
        if piece.len_bytes == 0 {
            return Err(LinkError::EmptyPiece);
        }
        let left_bytes = linking.len_bytes - linking.linked_bytes;
        if piece.len_bytes > left_bytes {
            return Err(LinkError::TooLong { left_bytes });
        }
        let place = linking.offset + linking.linked_bytes;
        let misplaced = LinkError::Misplaced {
            phys: piece.phys,
            offset: place & mask,
        };
        let begins_inside = linking.linked_bytes != 0 && place & mask != 0;
        if begins_inside || (piece.phys.0 ^ place) & mask != 0 {
            return Err(misplaced);
        }
        let offset = place & mask;
        let at = Iova(range.iova().0 + (place - offset));
        let phys = PhysAddr(piece.phys.0 - offset);
        // Inside the range, which ends inside 64 bits.
        let bytes = (offset + piece.len_bytes + mask) & !mask;

        let pin = self.source.pin();
        let Ok(mut slot) = self.slots.enter_pinned(&pin) else {
            return Err(LinkError::Reentered);
        };
        let map = |slot: &SlotGuard<'_>| self.tables.map(slot, at, phys, bytes, linking.prot);
        let mut mapped = map(&slot);
        if mapped == Err(pgtable::MapError::OutOfTables) {
            // Tables that wait to be freed may help.
            self.collect_paused(&mut slot);
            mapped = map(&slot);
        }
        mapped.map_err(LinkError::Tables)?;
        linking.linked_bytes += piece.len_bytes;
        Ok(Iova(at.0 + offset))
    }

    /// Everything is linked: from now on it is a mapping like any other. The
    /// tables' stores are visible to the walker when this returns.
    ///
    /// # Errors
    ///
    /// [`NotLinked`] with the addresses if something is missing.
    pub fn link_done(&self, linking: Linking) -> Result<Mapping, NotLinked> {
        let error = if !core::ptr::eq(linking.tag, self.tag) {
            LinkError::OtherDomain
        } else if linking.cleared.is_some() {
            LinkError::NotInvalidated(not_tried(self.sync_timeout))
        } else if linking.linked_bytes != linking.len_bytes {
            LinkError::Incomplete {
                linked_bytes: linking.linked_bytes,
                len_bytes: linking.len_bytes,
            }
        } else {
            self.tables.memory().publish();
            return Ok(Mapping {
                addr: linking.addr(),
                len_bytes: linking.len_bytes,
                tag: self.tag,
                range: linking.into_range(),
            });
        };
        Err(NotLinked { linking, error })
    }

    /// Links all of `pieces` and finishes. If one fails, everything that was
    /// linked is taken back, invalidation included, and so are the addresses.
    ///
    /// # Errors
    ///
    /// The error of the piece. If the taking back did not finish,
    /// [`LinkAllError::left`] holds what is left, for
    /// [`cancel`](Self::cancel).
    pub fn link_all(
        &self,
        mut linking: Linking,
        pieces: impl IntoIterator<Item = Segment>,
    ) -> Result<Mapping, LinkAllError> {
        let linked = pieces
            .into_iter()
            .try_for_each(|piece| self.link(&mut linking, piece).map(|_| ()));
        let (linking, error) = match linked {
            Ok(()) => match self.link_done(linking) {
                Ok(mapping) => return Ok(mapping),
                Err(NotLinked { linking, error }) => (linking, error),
            },
            Err(error) => (linking, error),
        };
        Err(LinkAllError {
            error,
            left: self.cancel(linking).err(),
        })
    }

    /// Takes the device's access to all linked pieces away, waits until that is
    /// complete, in lazy mode too, and keeps the addresses for other pieces.
    ///
    /// # Errors
    ///
    /// [`LinkError`]. After [`LinkError::NotInvalidated`] only another unlink
    /// (or cancel) works.
    pub fn unlink(&self, linking: &mut Linking) -> Result<(), LinkError> {
        if !core::ptr::eq(linking.tag, self.tag) {
            return Err(LinkError::OtherDomain);
        }
        let pin = self.source.pin();
        let Ok(mut slot) = self.slots.enter_pinned(&pin) else {
            return Err(LinkError::Reentered);
        };
        self.unlink_in(&mut slot, linking)
    }

    fn unlink_in(&self, slot: &mut SlotGuard<'_>, linking: &mut Linking) -> Result<(), LinkError> {
        if let (Some(range), None) = (&linking.range, &linking.cleared)
            && linking.linked_bytes != 0
        {
            let mask = F::GRANULE.mask();
            let bytes = (linking.offset + linking.linked_bytes + mask) & !mask;
            let mut gather = Gather::holding(F::GRANULE, None);
            self.tables
                .unmap(slot, range.iova(), bytes, &mut gather)
                .map_err(LinkError::Unlink)?;
            linking.linked_bytes = 0;
            linking.cleared = Some(gather);
        }
        // It stays where it is until the invalidation has completed: a backend
        // that unwinds leaves it there. It holds no addresses, so none are
        // released by this.
        if let Some(gather) = &mut linking.cleared {
            self.invalidate(slot, gather)
                .map_err(LinkError::NotInvalidated)?;
            linking.cleared = None;
        }
        Ok(())
    }

    /// Takes everything back, pieces and addresses.
    ///
    /// # Errors
    ///
    /// [`NotLinked`] with what is left, to try again.
    pub fn cancel(&self, mut linking: Linking) -> Result<(), NotLinked> {
        let error = if !core::ptr::eq(linking.tag, self.tag) {
            LinkError::OtherDomain
        } else {
            let pin = self.source.pin();
            match self.slots.enter_pinned(&pin) {
                Err(_) => LinkError::Reentered,
                Ok(mut slot) => match self.unlink_in(&mut slot, &mut linking) {
                    Err(error) => error,
                    Ok(()) => {
                        if let Some(range) = linking.into_range() {
                            self.release(&mut slot, range);
                            self.count_unmapped(&slot);
                        }
                        return Ok(());
                    }
                },
            }
        };
        Err(NotLinked { linking, error })
    }
}

/// Nobody asked the hardware this time.
fn not_tried(timeout: dmabench_platform::Timeout) -> Late {
    Late::TimedOut { after: timeout }
}

/// Why [`Domain::link_all`] mapped nothing.
#[derive(Debug)]
#[must_use = "it may hold pieces that the device can still reach"]
pub struct LinkAllError {
    /// What went wrong.
    pub error: LinkError,
    /// What could not be taken back; `None` where all is as before.
    pub left: Option<NotLinked>,
}

impl fmt::Display for LinkAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if let Some(left) = &self.left {
            write!(f, "; and it was not taken back: {left}")?;
        }
        Ok(())
    }
}

impl core::error::Error for LinkAllError {}
