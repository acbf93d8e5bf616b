//! Map, unmap and sync: which bytes are copied when.

use core::{fmt, iter, ptr};

use dmabench_flushq::TlbBackend;
use dmabench_iova::IovaRange;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{CpuMemory, Granule, Iova, MemoryError, PhysAddr, SlotGuard, SlotSource};

use super::{
    BounceDomain, BounceError, BouncePolicy,
    layout::{Layout, Part, Way, layout, parts},
};
use crate::{
    CacheOps, Device, Direction, DmaSegment, MapError, Mapping, NotUnmapped, NotUnmappedReason,
    Segment, SyncError,
    caches::Hooks,
    held::{Held, When},
    mapping::DomainTag,
    merge::places,
    sync::in_range,
};

/// A list that a device works on through copies, or partly so, until
/// [`BounceDomain::unmap`] takes this value.
///
/// Dropping it leaks its slots and addresses, and is counted as a leaked
/// mapping.
#[must_use = "a dropped mapping keeps its slots for ever; give it to `BounceDomain::unmap`"]
pub struct Bounced<L> {
    token: Token,
    list: L,
    layout: Layout,
    /// The limits that the layout depends on.
    device: Device,
    direction: Direction,
    addr: Iova,
    /// Its range's first address.
    first: Iova,
}

/// What has to be given back.
struct Token {
    /// [`Held::Gone`] from the beginning where the device reaches the slots at
    /// the pool's own addresses.
    held: Held,
    slots: Option<IovaRange>,
    tag: &'static DomainTag,
    /// Whether the domain counts it as a mapping beside `held`.
    counted: bool,
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.counted && self.slots.is_some() {
            self.tag
                .leaked
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl<L> Bounced<L> {
    /// The address for the device of the list's first byte.
    pub fn addr(&self) -> Iova {
        self.addr
    }

    /// Sum of the segments, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.layout.len_bytes
    }

    /// The I/O pages of the list: the first address and the length, whole
    /// granules. Where there is a [window](BounceDomain::window) the device can
    /// reach that, too.
    pub fn mapped_range(&self) -> (Iova, u64) {
        (self.first, self.layout.range_bytes)
    }

    /// Bytes of slots it takes, whole granules.
    pub fn slot_bytes(&self) -> u64 {
        self.layout.slot_bytes
    }

    /// The list.
    pub fn list(&self) -> &L {
        &self.list
    }
}

impl<L> fmt::Debug for Bounced<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounced")
            .field("addr", &self.addr)
            .field("layout", &self.layout)
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

impl<B, S, F, M, H, C> BounceDomain<B, S, F, M, H, C>
where
    B: TlbBackend,
    S: SlotSource,
    F: Format,
    M: TableMemory,
    H: CpuMemory,
    C: CacheOps,
{
    /// [`map_sg`](Self::map_sg) of one buffer; [`Bounced::addr`] is where the
    /// device finds it.
    ///
    /// # Errors
    ///
    /// As [`map_sg`](Self::map_sg).
    pub fn map(
        &self,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Bounced<[Segment; 1]>, BounceError> {
        self.map_sg(device, [buffer], &mut [DmaSegment::EMPTY], direction)
    }

    /// Lets `device` reach the list, or copies of it, at one range of I/O
    /// addresses. `out[i]` becomes what the device must be told for segment `i`.
    /// The list stays in the mapping, which copies back into it; give `&list` to
    /// keep it. Its `as_ref` must yield the same segments until the unmap.
    ///
    /// # Errors
    ///
    /// [`BounceError`]; nothing is mapped then, and no slot is taken.
    pub fn map_sg<L: AsRef<[Segment]>>(
        &self,
        device: &Device,
        list: L,
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Bounced<L>, BounceError> {
        let segments = list.as_ref();
        if segments.is_empty() {
            return Err(MapError::EmptyList.into());
        }
        let Some(out) = out.get_mut(..segments.len()) else {
            return Err(MapError::OutTooShort {
                needed: segments.len(),
            }
            .into());
        };
        let layout = self.check(device, segments)?;
        if layout.slot_bytes == 0 {
            let (token, first) = self.begin_whole(device, segments, out, &layout, direction)?;
            return Ok(Bounced {
                token,
                addr: out[0].addr,
                first,
                list,
                layout,
                device: *device,
                direction,
            });
        }
        let (token, first) = self.begin(device, segments, &layout, direction)?;
        for (out, placed) in out.iter_mut().zip(places(device, segments, F::GRANULE)) {
            // Checked above: the layout is this one.
            let (segment, place) = placed?;
            *out = DmaSegment {
                addr: Iova(first.0 + place.at),
                len_bytes: segment.len_bytes,
            };
        }
        Ok(Bounced {
            token,
            addr: out[0].addr,
            first,
            list,
            layout,
            device: *device,
            direction,
        })
    }

    /// A list of whole granules in place: as the domain maps any list.
    fn begin_whole(
        &self,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        layout: &Layout,
        direction: Direction,
    ) -> Result<(Token, Iova), BounceError> {
        let hooks = Hooks::of(&self.caches, device, direction);
        for segment in segments {
            hooks.for_device(*segment);
        }
        let mapping = self.domain.map_sg(device, segments, out, direction)?;
        let first = Iova(mapping.addr().0 & !F::GRANULE.mask());
        let token = Token {
            held: Held::Mapped(mapping),
            slots: None,
            tag: self.domain.tag,
            counted: false,
        };
        // The section was there a moment ago; a figure is not worth a mapping.
        let _ = self.in_section(|slot| {
            self.tally.add(slot, layout);
            Ok(())
        });
        Ok((token, first))
    }

    fn check(&self, device: &Device, segments: &[Segment]) -> Result<Layout, BounceError> {
        if segments.len() > device.max_segments {
            return Err(MapError::TooManySegments {
                count: segments.len(),
                max: device.max_segments,
            }
            .into());
        }
        match &self.window {
            Some(Held::Mapped(_)) => {
                if self.pool.last_address() > device.last_address {
                    return Err(BounceError::BeyondMask);
                }
                if device.is_coherent() != self.config.device.is_coherent() {
                    return Err(BounceError::OtherCoherence);
                }
            }
            Some(_) => return Err(BounceError::Closing),
            None => {}
        }
        Ok(layout(self.config.policy, device, segments, F::GRANULE)?)
    }

    /// Takes slots, fills them, and gives the device access. Undoes it all where
    /// a step fails.
    fn begin(
        &self,
        device: &Device,
        segments: &[Segment],
        layout: &Layout,
        direction: Direction,
    ) -> Result<(Token, Iova), BounceError> {
        let copied = layout.way == Way::Copied;
        let mut token = Token {
            held: Held::Gone,
            slots: None,
            tag: self.domain.tag,
            counted: copied,
        };
        if layout.slot_bytes != 0 {
            let slots = self.in_section(|slot| {
                let slots = self.pool.alloc(slot, layout.slot_bytes)?;
                if copied {
                    self.domain.count_mapped(slot);
                    self.tally.add(slot, layout);
                }
                Ok(slots)
            })?;
            token.slots = Some(slots);
        }
        let at = token.slots.as_ref().map(|slots| self.pool.phys(slots));
        let parts = || parts(layout.way, device, segments, F::GRANULE);
        // Outside of every section: it may take long.
        let ready = self.fill(parts(), at, layout.slot_bytes, direction);
        let hooks = Hooks::of(&self.caches, device, direction);
        if let Some(phys) = at {
            hooks.for_device(Segment {
                phys,
                len_bytes: layout.slot_bytes,
            });
        }
        for part in parts().filter(|part| part.slot.is_none()) {
            hooks.for_device(part.buffer);
        }
        let mapped = ready.map_err(BounceError::Memory).and_then(|()| {
            if copied {
                // The device reaches it already.
                return Ok(token.slots.as_ref().map_or(Iova(0), IovaRange::iova));
            }
            let pieces = pieces(parts(), at.unwrap_or(PhysAddr(0)), F::GRANULE);
            let mapping = self.in_section(|slot| {
                let mapped =
                    self.map_pieces(slot, device, pieces, layout.range_bytes, direction)?;
                self.tally.add(slot, layout);
                Ok(mapped)
            })?;
            let first = mapping.addr();
            token.held = Held::Mapped(mapping);
            Ok(first)
        });
        match mapped {
            Ok(first) => Ok((token, first)),
            Err(error) => {
                // No device was given them.
                let _ = self.give_back(&mut token);
                Err(error)
            }
        }
    }

    /// One range for pieces of slots and of the caller's memory.
    fn map_pieces(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        pieces: impl Iterator<Item = (PhysAddr, u64)> + Clone,
        range_bytes: u64,
        direction: Direction,
    ) -> Result<Mapping, BounceError> {
        let domain = &self.domain;
        let range = domain.alloc(slot, range_bytes >> F::GRANULE.lg2(), device)?;
        let prot = device.prot(direction);
        let map = |slot: &SlotGuard<'_>, iova| {
            let mapped = domain.tables.map_sg(slot, iova, pieces.clone(), prot);
            mapped.map(|_| ())
        };
        let range = match map(slot, range.iova()) {
            Ok(()) => range,
            Err(error) => domain.map_again(slot, range, error, map)?,
        };
        let first = range.iova();
        Ok(domain.mapping(slot, Some(range), first, range_bytes))
    }

    /// Every byte of the slots: the caller's data where the device may read it,
    /// zero else.
    fn fill(
        &self,
        parts: impl Iterator<Item = Part>,
        slots: Option<PhysAddr>,
        slot_bytes: u64,
        direction: Direction,
    ) -> Result<(), MemoryError> {
        let Some(slots) = slots else {
            return Ok(());
        };
        let zero = |from: u64, to: u64| {
            if from < to {
                self.host.zero(PhysAddr(slots.0 + from), to - from)
            } else {
                Ok(())
            }
        };
        let mut done = 0;
        if direction.device_reads() {
            for (part, at) in parts.filter_map(|part| Some((part, part.slot?))) {
                zero(done, at)?;
                let len_bytes = part.buffer.len_bytes;
                self.host
                    .copy(part.buffer.phys, PhysAddr(slots.0 + at), len_bytes)?;
                done = at + len_bytes;
            }
        }
        zero(done, slot_bytes)
    }

    /// Takes the device's access away, and copies what it wrote into the
    /// caller's buffers. When this returns `Ok` the device cannot reach the
    /// buffers, nor a slot that held them for this request alone.
    ///
    /// # Errors
    ///
    /// [`NotUnmapped`] with the mapping; call again to go on.
    pub fn unmap<L: AsRef<[Segment]>>(
        &self,
        mut mapping: Bounced<L>,
    ) -> Result<L, NotUnmapped<Bounced<L>>> {
        match self.end(&mut mapping) {
            Ok(()) => Ok(mapping.list),
            Err(reason) => Err(NotUnmapped { mapping, reason }),
        }
    }

    fn end<L: AsRef<[Segment]>>(&self, mapping: &mut Bounced<L>) -> Result<(), NotUnmappedReason> {
        if !ptr::eq(mapping.token.tag, self.domain.tag) {
            return Err(NotUnmappedReason::OtherDomain);
        }
        let segments = mapping.list.as_ref();
        if !mapping.fits(self.config.policy, segments, F::GRANULE) {
            return Err(NotUnmappedReason::ListChanged);
        }
        // First the device, then the copy, so that it is of what the caller will
        // see. (Where all is copied the device keeps the slot, and the copy is made
        // once.)
        self.domain.unmap_held(&mut mapping.token.held, When::Now)?;
        let copied = self
            .to_caller(mapping, segments, 0, mapping.layout.len_bytes)
            .map_err(NotUnmappedReason::Memory);
        let token = &mut mapping.token;
        let ended = copied.and_then(|()| self.give_back(token));
        if ended.is_err() {
            self.count_slots(token);
        }
        ended
    }

    /// The mapping is gone, and the slots are not: they count instead of it, so
    /// that the domain, and with it the pool, is not closed under them.
    #[cold]
    fn count_slots(&self, token: &mut Token) {
        if token.counted || token.slots.is_none() {
            return;
        }
        let pin = self.domain.source.pin();
        if let Ok(slot) = self.domain.slots.enter_pinned(&pin) {
            self.domain.count_mapped(&slot);
            token.counted = true;
        }
    }

    /// The CPU reads or writes `len_bytes` bytes from `offset_bytes` of the list
    /// on while it stays mapped: what the device wrote is copied into the
    /// buffers.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; a part may have been copied.
    pub fn sync_for_cpu<L: AsRef<[Segment]>>(
        &self,
        mapping: &Bounced<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), SyncError> {
        let segments = self.check_sync(mapping, offset_bytes, len_bytes)?;
        self.to_caller(mapping, segments, offset_bytes, len_bytes)
            .map_err(SyncError::Memory)
    }

    /// The device goes on with those bytes: what the CPU wrote is copied into
    /// the slots.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; a part may have been copied.
    pub fn sync_for_device<L: AsRef<[Segment]>>(
        &self,
        mapping: &Bounced<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), SyncError> {
        let segments = self.check_sync(mapping, offset_bytes, len_bytes)?;
        let hooks = Hooks::of(&self.caches, &mapping.device, mapping.direction);
        for (buffer, copy) in self.runs(mapping, segments, offset_bytes, len_bytes) {
            let device_side = match copy {
                Some(phys) => {
                    if mapping.direction.device_reads() {
                        self.host
                            .copy(buffer.phys, phys, buffer.len_bytes)
                            .map_err(SyncError::Memory)?;
                    }
                    Segment { phys, ..buffer }
                }
                None => buffer,
            };
            hooks.for_device(device_side);
        }
        Ok(())
    }

    fn check_sync<'l, L: AsRef<[Segment]>>(
        &self,
        mapping: &'l Bounced<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<&'l [Segment], SyncError> {
        if !ptr::eq(mapping.token.tag, self.domain.tag) {
            return Err(SyncError::OtherDomain);
        }
        let in_place = mapping.layout.way == Way::InPlace;
        if in_place && mapping.token.held.mapping().is_none() {
            return Err(SyncError::NotMapped);
        }
        in_range(offset_bytes, len_bytes, mapping.layout.len_bytes)?;
        let segments = mapping.list.as_ref();
        if !mapping.fits(self.config.policy, segments, F::GRANULE) {
            return Err(SyncError::ListChanged);
        }
        Ok(segments)
    }

    /// Gives the caller what the device wrote of a range of the list.
    fn to_caller<L>(
        &self,
        mapping: &Bounced<L>,
        segments: &[Segment],
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), MemoryError> {
        let nothing_copied = mapping.layout.slot_bytes == 0;
        if !mapping.direction.device_writes() || nothing_copied && mapping.device.is_coherent() {
            return Ok(());
        }
        let hooks = Hooks::of(&self.caches, &mapping.device, mapping.direction);
        for (buffer, copy) in self.runs(mapping, segments, offset_bytes, len_bytes) {
            match copy {
                Some(phys) => {
                    hooks.for_cpu(Segment { phys, ..buffer });
                    self.host.copy(phys, buffer.phys, buffer.len_bytes)?;
                }
                None => hooks.for_cpu(buffer),
            }
        }
        Ok(())
    }

    /// The runs of a range of the list: the caller's bytes, and where their copy
    /// is.
    fn runs<'r, L>(
        &self,
        mapping: &'r Bounced<L>,
        segments: &'r [Segment],
        offset_bytes: u64,
        len_bytes: u64,
    ) -> impl Iterator<Item = (Segment, Option<PhysAddr>)> + use<'r, L, B, S, F, M, H, C> {
        let slots = mapping.token.slots.as_ref();
        let slots = slots.map_or(PhysAddr(0), |slots| self.pool.phys(slots));
        let end = offset_bytes + len_bytes;
        let mut at = 0;
        parts(mapping.layout.way, &mapping.device, segments, F::GRANULE).filter_map(move |part| {
            let (first, after) = (at, at + part.buffer.len_bytes);
            at = after;
            let (from, to) = (first.max(offset_bytes), after.min(end));
            (from < to).then(|| {
                let skip = from - first;
                let buffer = Segment {
                    phys: PhysAddr(part.buffer.phys.0 + skip),
                    len_bytes: to - from,
                };
                (buffer, part.slot.map(|at| PhysAddr(slots.0 + at + skip)))
            })
        })
    }

    /// Frees the slots of a request that no device works on any more.
    fn give_back(&self, token: &mut Token) -> Result<(), NotUnmappedReason> {
        let Some(slots) = token.slots.take() else {
            return Ok(());
        };
        let pin = self.domain.source.pin();
        let Ok(mut slot) = self.domain.slots.enter_pinned(&pin) else {
            token.slots = Some(slots);
            return Err(NotUnmappedReason::Reentered);
        };
        self.pool.free(&mut slot, slots);
        if token.counted {
            self.domain.count_unmapped(&slot);
        }
        Ok(())
    }

    fn in_section<T>(
        &self,
        f: impl FnOnce(&mut SlotGuard<'_>) -> Result<T, BounceError>,
    ) -> Result<T, BounceError> {
        let pin = self.domain.source.pin();
        match self.domain.slots.enter_pinned(&pin) {
            Ok(mut slot) => f(&mut slot),
            Err(_) => Err(MapError::Reentered.into()),
        }
    }
}

impl<L> Bounced<L> {
    /// Whether `segments` lie as they did when they were mapped: a list that
    /// changed would read other slots.
    fn fits(&self, policy: BouncePolicy, segments: &[Segment], granule: Granule) -> bool {
        layout(policy, &self.device, segments, granule) == Ok(self.layout)
    }
}

/// What the tables hold: each part's granules, and for a gap the granule before
/// it once more.
fn pieces(
    parts: impl Iterator<Item = Part> + Clone,
    slots: PhysAddr,
    granule: Granule,
) -> impl Iterator<Item = (PhysAddr, u64)> + Clone {
    let bytes = granule.bytes();
    parts
        .scan(PhysAddr(0), move |last, part| {
            let (first, len) = part.granules(slots, granule);
            let gap = iter::repeat_n((*last, bytes), (part.gap / bytes) as usize);
            *last = PhysAddr(first.0.wrapping_add(len - bytes));
            Some(gap.chain(iter::once((first, len))))
        })
        .flatten()
}
