//! Buffers that wait in the flush queue: lazy speed, nothing exposed.
//!
//! In [`Mode::LazyParked`](crate::Mode::LazyParked) the caller hands its buffer
//! over with the mapping. It rides in the ring with the addresses and is given
//! back to its owner after the flush: until then nobody uses it, so it does not
//! matter that the device still reaches it. The price is memory: up to a ring of
//! buffers for each slot, and up to the queue's timeout.

use alloc::{boxed::Box, sync::Arc};
use core::{fmt, mem, ptr::NonNull};

use dmabench_flushq::{FlushQueue, Late, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{DetachedTables, Format, TableMemory};
use dmabench_platform::{SlotGuard, SlotSource};

use crate::{Domain, Mapping, UnmapError, queues::Queues, switch::Way, unmap::TablesOnly};

/// An owned buffer that can wait as one pointer.
///
/// Owned: while it waits nobody reads or writes its memory but the device, and
/// its memory stays where it is. A `Box` does; a `Box` of a reference to the
/// buffer does not help.
pub trait Parkable: Send + 'static {
    /// Gives up the buffer for a pointer (or any non-zero number).
    fn into_pointer(self) -> NonNull<()>;

    /// The buffer back.
    ///
    /// # Safety
    ///
    /// `pointer` is a result of [`into_pointer`](Self::into_pointer) of this
    /// type, and this is the only call with it.
    unsafe fn from_pointer(pointer: NonNull<()>) -> Self;

    /// The device can no longer reach the buffer: what its owner wants done with
    /// it now. Called by the thread that flushed, outside every section and with
    /// no lock of the domain held, so it may use the domain; it should be short. If
    /// it unwinds, so does the call that flushed, once the other owners have theirs.
    fn give_back(self)
    where
        Self: Sized,
    {
    }
}

/// Freed after the flush.
impl<T: Send + 'static> Parkable for Box<T> {
    fn into_pointer(self) -> NonNull<()> {
        // SAFETY: a box's pointer is not null.
        unsafe { NonNull::new_unchecked(Box::into_raw(self)).cast() }
    }

    unsafe fn from_pointer(pointer: NonNull<()>) -> Self {
        // SAFETY: it came from `into_pointer`, and this is the only call.
        unsafe { Box::from_raw(pointer.cast().as_ptr()) }
    }
}

/// One reference is dropped after the flush: for memory that is shared, and
/// written by nobody else meanwhile.
impl<T: Send + Sync + 'static> Parkable for Arc<T> {
    fn into_pointer(self) -> NonNull<()> {
        // SAFETY: the pointer of an `Arc` is not null.
        unsafe { NonNull::new_unchecked(Arc::into_raw(self).cast_mut()).cast() }
    }

    unsafe fn from_pointer(pointer: NonNull<()>) -> Self {
        // SAFETY: it came from `into_pointer`, and this is the only call.
        unsafe { Arc::from_raw(pointer.cast().as_ptr()) }
    }
}

/// A buffer and the function that gets it after the flush.
#[derive(Debug)]
pub struct Parcel<T, F>(Box<(T, F)>);

impl<T: Send + 'static, F: FnOnce(T) + Send + 'static> Parcel<T, F> {
    /// `buffer`, for `sink`.
    pub fn new(buffer: T, sink: F) -> Self {
        Parcel(Box::new((buffer, sink)))
    }

    /// The buffer back, unused: the unmap has failed.
    pub fn into_buffer(self) -> T {
        self.0.0
    }
}

impl<T: Send + 'static, F: FnOnce(T) + Send + 'static> Parkable for Parcel<T, F> {
    fn into_pointer(self) -> NonNull<()> {
        self.0.into_pointer()
    }

    unsafe fn from_pointer(pointer: NonNull<()>) -> Self {
        // SAFETY: as promised by the caller.
        Parcel(unsafe { Box::from_pointer(pointer) })
    }

    fn give_back(self) {
        let (buffer, sink) = *self.0;
        sink(buffer);
    }
}

/// A [`Parkable`] whose type is forgotten. Dropping it leaks the buffer: the
/// device may still reach it.
pub(crate) struct Parked {
    pointer: NonNull<()>,
    /// Called once, with `pointer`.
    give_back: unsafe fn(NonNull<()>),
}

// SAFETY: it stands for a `Parkable`, which is `Send`.
unsafe impl Send for Parked {}

impl Parked {
    #[inline]
    fn new<P: Parkable>(buffer: P) -> Self {
        /// # Safety
        ///
        /// As for `P::from_pointer`.
        unsafe fn give_back<P: Parkable>(pointer: NonNull<()>) {
            // SAFETY: as promised by the caller.
            unsafe { P::from_pointer(pointer) }.give_back();
        }
        Parked {
            pointer: buffer.into_pointer(),
            give_back: give_back::<P>,
        }
    }

    fn give_back(self) {
        // SAFETY: `new` made the pair of one type, and `self` ends here.
        unsafe { (self.give_back)(self.pointer) };
    }
}

/// Buffers on their way from the queue to their owners.
pub(crate) struct Handed {
    buffers: [Option<Parked>; Handed::ROOM],
    /// Places that were filled; those below `next` are empty again.
    count: usize,
    next: usize,
}

impl Handed {
    /// How many it holds: the queue releases no more at once.
    pub(crate) const ROOM: usize = 64;

    pub(crate) fn new() -> Self {
        Handed {
            buffers: [const { None }; Self::ROOM],
            count: 0,
            next: 0,
        }
    }

    pub(crate) fn push(&mut self, parked: Parked) {
        match self.buffers.get_mut(self.count) {
            Some(place) => {
                *place = Some(parked);
                self.count += 1;
            }
            // Cannot be: see `ROOM`. Leaking is safe.
            None => debug_assert!(false, "more released at once than agreed"),
        }
    }

    /// Gives the buffers to their owners. Outside every section. If an owner
    /// unwinds, the drop goes on with the others.
    pub(crate) fn hand_out(&mut self) {
        while self.next < self.count {
            let parked = self.buffers[self.next].take();
            self.next += 1;
            if let Some(parked) = parked {
                parked.give_back();
            }
        }
        (self.count, self.next) = (0, 0);
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.hand_out();
    }
}

/// An unmap with a buffer that did not succeed, and the buffer.
#[must_use = "it holds the mapping, or what is left of it, and the buffer"]
pub struct ParkError<P> {
    /// The buffer. After [`UnmapError::NotInvalidated`] the device may still
    /// reach it: keep it until [`Domain::finish`] succeeds.
    pub buffer: P,
    /// Why.
    pub error: UnmapError,
}

impl<P> fmt::Debug for ParkError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<P> fmt::Display for ParkError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<P> core::error::Error for ParkError<P> {}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Unmaps, and keeps `buffer` until the device cannot reach it any more:
    /// then it is [given back](Parkable::give_back) to its owner.
    ///
    /// *Lazy-parked*: it returns at once, and the buffer comes back after the
    /// next flush, from whichever call did that. *Strict*: the buffer is given
    /// back before this returns, after the invalidation. *Passthrough and the
    /// other lazy modes*: as they give every buffer back, at once.
    ///
    /// # Errors
    ///
    /// [`ParkError`] with the buffer and what [`unmap`](Self::unmap) says.
    #[inline]
    pub fn unmap_parked<P: Parkable>(
        &self,
        mapping: Mapping,
        buffer: P,
    ) -> Result<(), ParkError<P>> {
        let mut mapping = mapping;
        let mut buffer = buffer;
        loop {
            match self.try_park(mapping, buffer) {
                Ok(None) => return Ok(()),
                // After a strict unmap: its section has ended.
                Ok(Some(buffer)) => {
                    buffer.give_back();
                    return Ok(());
                }
                Err(Full::No(error)) => return Err(error),
                Err(Full::Yes(back, kept)) => {
                    (mapping, buffer) = (back, kept);
                    if let Err(error) = self.make_room_parked() {
                        return Err(ParkError {
                            buffer,
                            error: match error {
                                Some(late) => UnmapError::Flush { mapping, late },
                                None => UnmapError::Reentered(mapping),
                            },
                        });
                    }
                }
            }
        }
    }

    /// One section; the buffer back if it need not wait.
    #[inline(always)]
    fn try_park<P: Parkable>(&self, mapping: Mapping, buffer: P) -> Result<Option<P>, Full<P>> {
        let failed = |error, buffer| Full::No(ParkError { buffer, error });
        if !core::ptr::eq(mapping.tag, self.tag) {
            return Err(failed(UnmapError::OtherDomain(mapping), buffer));
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(failed(UnmapError::Reentered(mapping), buffer)),
        };
        let slot = &mut slot;
        let Way::Lazy(Queues::Parked(queue)) = self.mode.way() else {
            return match self.unmap_entered(slot, mapping) {
                Ok(()) => Ok(Some(buffer)),
                Err(error) => Err(failed(error, buffer)),
            };
        };
        match self.park(slot, queue, mapping, buffer) {
            Ok(()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[inline(always)]
    fn park<P: Parkable>(
        &self,
        slot: &mut SlotGuard<'_>,
        queue: &FlushQueue<(IovaRange, Parked), DetachedTables>,
        mut mapping: Mapping,
        buffer: P,
    ) -> Result<(), Full<P>> {
        let Some(room) = queue.room(slot) else {
            return Err(Full::Yes(mapping, buffer));
        };
        let Some(range) = mapping.range.take() else {
            // Every mapping of a translating domain has a range.
            let error = UnmapError::OtherDomain(mapping);
            return Err(Full::No(ParkError { buffer, error }));
        };
        let (iova, len_bytes) = (range.iova(), Self::len_bytes(&range));
        let slot = if self.tables.unmap_pages(room.slot(), iova, len_bytes) {
            mem::forget(mapping);
            room.push((range, Parked::new(buffer)))
        } else {
            let mut sink = TablesOnly::default();
            if let Err(error) = self.tables.unmap(room.slot(), iova, len_bytes, &mut sink) {
                mapping.range = Some(range);
                let error = UnmapError::Tables { mapping, error };
                return Err(Full::No(ParkError { buffer, error }));
            }
            mem::forget(mapping);
            room.push_with((range, Parked::new(buffer)), sink.0)
        };
        self.count_unmapped(slot);
        Ok(())
    }

    /// Makes room in the caller's ring and gives the buffers that were there to
    /// their owners. `None`: the caller is inside another request.
    #[cold]
    #[inline(never)]
    fn make_room_parked(&self) -> Result<(), Option<Late>> {
        let mut handed = Handed::new();
        let pin = self.source.pin();
        let mut slot = self.slots.enter_pinned(&pin).map_err(|_| None)?;
        let Some(Queues::Parked(queue)) = self.mode.queue() else {
            return Ok(());
        };
        let flushed = queue.flush_own(
            &mut slot,
            &self.backend,
            &self.context,
            self.sync_timeout,
            |slot, (range, parked)| {
                self.release(slot, range);
                handed.push(parked);
            },
        )?;
        let _ = self.release_extra(&mut slot, flushed);
        drop(slot);
        handed.hand_out();
        Ok(())
    }
}

/// Why a buffer could not be parked.
enum Full<P> {
    /// The ring is full; nothing happened.
    Yes(Mapping, P),
    No(ParkError<P>),
}
