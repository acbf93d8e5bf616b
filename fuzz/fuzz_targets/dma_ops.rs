//! Arbitrary histories of a domain in every mode, in front of a TLB that never
//! evicts, with hardware that refuses and is late: no address is handed out while
//! the device still reaches what was there before (A1), nothing is reachable after
//! a strict unmap (S1), any numbers are a mapping or an error, and at the end
//! everything comes back.

#![no_main]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use dmabench_dma::{
    Batch, BatchError, Device, Direction, DmaSegment, Domain, DomainConfig, LinkError, Linking,
    Mapping, Mode, NoCacheOps, Parcel, Pending, Segment, Unfinished, UnmapError, Window,
};
use dmabench_flushq::{BackendError, Late, QueueConfig, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_platform::{Fences, Iova, PhysAddr, SlotGuard, Slots, TimeNs, Timeout};
use libfuzzer_sys::fuzz_target;

const PAGE: u64 = 4096;
const FIRST: u64 = 0x10_0000;
/// Small, so that it is often full.
const PAGES: u64 = 3000;

#[derive(Default)]
struct State {
    /// What the device has cached, by page.
    cached: BTreeMap<u64, u64>,
    /// Not complete before the next sync.
    pending: Vec<Option<TlbRange>>,
    /// What the next calls answer: 1 refuse, 2 refuse the sync, 3 be late.
    faults: VecDeque<u8>,
}

#[derive(Clone, Default)]
struct Tlb(Arc<Mutex<State>>);

impl Tlb {
    fn fault(state: &mut State, which: u8) -> bool {
        let hit = state.faults.front() == Some(&which);
        if hit {
            state.faults.pop_front();
        }
        hit
    }

    fn holds(&self, page: u64) -> bool {
        self.0.lock().unwrap().cached.contains_key(&page)
    }
}

// SAFETY: what the model caches goes with the sync behind the command that names
// it; it holds no pointer.
unsafe impl TlbBackend for Tlb {
    type Context = ();

    fn invalidate(
        &self,
        _: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        let mut state = self.0.lock().unwrap();
        if Self::fault(&mut state, 1) {
            return Err(BackendError::QueueFull);
        }
        state.pending.extend(ranges.iter().copied().map(Some));
        Ok(())
    }

    fn invalidate_all(&self, _: Option<&mut SlotGuard<'_>>, (): &()) -> Result<(), BackendError> {
        let mut state = self.0.lock().unwrap();
        if Self::fault(&mut state, 1) {
            return Err(BackendError::QueueFull);
        }
        state.pending.push(None);
        Ok(())
    }

    fn sync_begin(&self, _: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        if Self::fault(&mut self.0.lock().unwrap(), 2) {
            return Err(BackendError::Stopped);
        }
        Ok(Ticket(0))
    }

    fn sync_wait(
        &self,
        _: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        after: Timeout,
    ) -> Result<Synced, Late> {
        let mut state = self.0.lock().unwrap();
        if Self::fault(&mut state, 3) {
            return Err(Late::TimedOut { after });
        }
        let State {
            cached, pending, ..
        } = &mut *state;
        for command in pending.drain(..) {
            match command {
                None => cached.clear(),
                Some(range) => {
                    cached.retain(|page, _| *page < range.iova.0 || *page > range.last_byte().0);
                }
            }
        }
        // SAFETY: all that was pending has taken effect.
        Ok(unsafe { Synced::new(ticket) })
    }
}

/// What one input holds, byte by byte; zeros behind its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Mostly small, now and then any number at all.
    fn len(&mut self) -> u64 {
        let n = u64::from(self.next());
        match self.next() % 16 {
            0..6 => n,
            6..10 => n << 8 | 7,
            10 => n << 12,
            11 => (n + 1) << 12,
            12 => 1 << (n % 64),
            13 => (1_u64 << (n % 64)).wrapping_sub(1),
            14 => (n % 4) << 21,
            _ => u64::MAX - n,
        }
    }

    fn phys(&mut self) -> PhysAddr {
        let n = u64::from(self.next());
        PhysAddr(match self.next() % 16 {
            0..9 => 0x4000_0000 + n * 0x1234,
            9..13 => 0x4000_0000 + n * PAGE,
            13 => n << 40,
            14 => (1 << 48) - n * 16,
            _ => u64::MAX - n * 64,
        })
    }

    fn segment(&mut self) -> Segment {
        Segment {
            phys: self.phys(),
            len_bytes: self.len(),
        }
    }

    fn direction(&mut self) -> Direction {
        [
            Direction::ToDevice,
            Direction::FromDevice,
            Direction::Bidirectional,
        ][usize::from(self.next() % 3)]
    }

    fn device(&mut self) -> Device {
        let kind = self.next();
        let mut device = Device::new();
        if kind & 1 != 0 {
            device = device.max_segment_bytes(1 << (kind >> 4) << 9).unwrap();
        }
        if kind & 2 != 0 {
            device = device.boundary_bytes(1 << (9 + (kind >> 4))).unwrap();
        }
        if kind & 4 != 0 {
            device = device.max_segments(1 + usize::from(kind >> 6)).unwrap();
        }
        device.coherent(kind & 8 == 0)
    }
}

/// What the device reaches at each page of a range.
type Reached = Vec<u64>;

enum Item {
    Mapped(Mapping, Reached),
    Begun(Pending, Reached),
    Left(Unfinished, Reached),
    Linking(Linking, Device),
}

struct World {
    domain: Domain<Tlb>,
    items: Vec<Item>,
    passthrough: bool,
}

impl World {
    fn exposes(&self) -> bool {
        self.domain.mode().exposes()
    }

    /// The device uses a new mapping: nothing that was there before may answer.
    fn use_all(&mut self, mapping: &Mapping) -> Reached {
        let Some((first, len)) = mapping.mapped_range() else {
            return Vec::new();
        };
        assert!(first.0 >= FIRST && first.0 + len <= FIRST + PAGES * PAGE);
        let pages: Reached = (0..len / PAGE).map(|n| first.0 + n * PAGE).collect();
        for page in &pages {
            self.touch(*page, true);
        }
        pages
    }

    fn touch(&mut self, page: u64, new: bool) {
        let found = self.domain.translate(Iova(page)).expect("it is mapped");
        let tlb = &self.domain.backend().0;
        let before = tlb.lock().unwrap().cached.insert(page, found.paddr.0);
        if new {
            assert_eq!(before, None, "A1: {page:#x} was handed out too early");
        }
    }

    fn gone(&self, pages: &[u64]) {
        for page in pages {
            assert!(!self.domain.backend().holds(*page), "S1: {page:#x}");
        }
    }

    fn unmapped(&mut self, result: Result<(), UnmapError>, pages: Reached, lazy: bool) {
        match result {
            Ok(()) if lazy => {}
            Ok(()) => self.gone(&pages),
            Err(UnmapError::NotInvalidated(left)) => self.items.push(Item::Left(left, pages)),
            Err(UnmapError::Flush { mapping, .. }) => {
                self.items.push(Item::Mapped(mapping, pages));
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn end(&mut self, item: Item, how: u8) {
        let lazy = self.exposes();
        match item {
            Item::Mapped(mapping, pages) => match how % 3 {
                0 => {
                    let parcel = Parcel::new((), drop);
                    let parks = matches!(self.domain.mode(), Mode::LazyParked(_));
                    let result = self.domain.unmap_parked(mapping, parcel);
                    self.unmapped(result.map_err(|kept| kept.error), pages, lazy || parks);
                }
                1 => match self.domain.unmap_begin(mapping) {
                    Ok(pending) => self.items.push(Item::Begun(pending, pages)),
                    Err(error) => self.unmapped(Err(error), pages, lazy),
                },
                _ => {
                    let result = self.domain.unmap(mapping);
                    self.unmapped(result, pages, lazy);
                }
            },
            Item::Begun(pending, pages) => {
                // A lazy one was done when it began.
                let lazy = pending.is_done();
                let result = self.domain.complete(pending);
                self.unmapped(result, pages, lazy);
            }
            Item::Left(unfinished, pages) => {
                let result = self.domain.finish(unfinished);
                self.unmapped(result, pages, false);
            }
            Item::Linking(linking, device) => match self.domain.link_done(linking) {
                Ok(mapping) => {
                    // The device may have had its pieces before.
                    let Some((first, len)) = mapping.mapped_range() else {
                        panic!("it translates");
                    };
                    let pages: Reached = (0..len / PAGE).map(|n| first.0 + n * PAGE).collect();
                    for page in &pages {
                        self.touch(*page, false);
                    }
                    self.items.push(Item::Mapped(mapping, pages));
                }
                Err(not) => {
                    if let Err(not) = self.domain.cancel(not.linking) {
                        assert!(matches!(not.error, LinkError::NotInvalidated(_)));
                        self.items.push(Item::Linking(not.linking, device));
                    }
                }
            },
        }
    }

    fn link(&mut self, linking: &mut Linking, bytes: &mut Bytes<'_>) {
        if bytes.next() % 8 == 0 {
            let base = linking.addr().0 & !(PAGE - 1);
            let end = linking.addr().0 + linking.linked_bytes();
            if self.domain.unlink(linking).is_ok() {
                let pages: Reached = (base..end).step_by(PAGE as usize).collect();
                self.gone(&pages);
            }
            return;
        }
        let mut piece = bytes.segment();
        if bytes.next() % 4 != 0 {
            // One that fits.
            let at = linking.addr().0 + linking.linked_bytes();
            piece.phys = PhysAddr(0x5000_0000 + (at & (PAGE - 1)));
            let left = linking.len_bytes() - linking.linked_bytes();
            let whole = (piece.len_bytes & !(PAGE - 1)).saturating_sub(at & (PAGE - 1));
            piece.len_bytes = if whole == 0 { left } else { whole.min(left) };
        }
        let before = linking.linked_bytes();
        match self.domain.link(linking, piece) {
            Ok(at) => {
                assert_eq!(linking.linked_bytes(), before + piece.len_bytes);
                let first = at.0 & !(PAGE - 1);
                for page in (first..at.0 + piece.len_bytes).step_by(PAGE as usize) {
                    self.touch(page, true);
                }
            }
            Err(_) => assert_eq!(linking.linked_bytes(), before),
        }
    }

    fn map(&mut self, bytes: &mut Bytes<'_>, window: &mut Option<Window>) {
        let (device, direction) = (bytes.device(), bytes.direction());
        let count = usize::from(bytes.next() % 5);
        let list: Vec<Segment> = (0..count).map(|_| bytes.segment()).collect();
        let mut out = vec![DmaSegment::EMPTY; count.saturating_sub(usize::from(bytes.next() == 0))];
        let mapped = match (bytes.next() % 6, &list[..], window) {
            (0, [one, ..], _) => self.domain.map(&device, *one, direction),
            (1, _, _) => (self.domain)
                .map_sg_merged(&device, &list, &mut out, direction)
                .map(|(mapping, used)| {
                    let sum = |len: u64, part: &DmaSegment| len + part.len_bytes;
                    assert_eq!(out[..used].iter().fold(0, sum), mapping.len_bytes());
                    mapping
                }),
            (2, _, Some(window)) => self
                .domain
                .map_sg_in(window, &device, &list, &mut out, direction),
            (3, _, _) => {
                // Refused or not, it is as `map_sg`; the list itself is let go.
                let listed =
                    self.domain
                        .map_list(&device, &NoCacheOps, &list[..], &mut out, direction);
                if let Ok(listed) = listed {
                    let mut listed = Some(listed);
                    while let Some(mapping) = listed.take() {
                        if let Err(kept) = self.domain.unmap_list(&NoCacheOps, mapping) {
                            listed = Some(kept.mapping);
                        }
                    }
                }
                return;
            }
            _ => self.domain.map_sg(&device, &list, &mut out, direction),
        };
        let Ok(mapping) = mapped else {
            return;
        };
        let pages = self.use_all(&mapping);
        if !self.passthrough {
            assert!(!pages.is_empty());
        }
        self.items.push(Item::Mapped(mapping, pages));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let queue = QueueConfig {
        entries_per_slot: 2 << (bytes.next() % 4),
        timeout_ns: 5,
    };
    let mode = [
        Mode::Strict,
        Mode::StrictBatched,
        Mode::Lazy(queue),
        Mode::LazySingle(queue),
        Mode::LazyParked(queue),
        Mode::Passthrough,
    ][usize::from(bytes.next() % 6)];
    let slots = Arc::new(Slots::new(2, Fences::Symmetric).unwrap());
    let last = Iova(FIRST + PAGES * PAGE - 1);
    let config = DomainConfig::new(mode).aperture(Iova(FIRST), last);
    let domain = Domain::new(config, slots, Tlb::default(), ()).unwrap();
    let mut world = World {
        passthrough: mode == Mode::Passthrough,
        domain,
        items: Vec::new(),
    };
    let mut batch: Batch = world.domain.batch(usize::from(bytes.next() % 8)).unwrap();
    let mut in_batch: Vec<Reached> = Vec::new();
    // Some of it was unmapped while the domain was lazy, before it failed.
    let mut begun_lazily = false;
    let mut window: Option<Window> = None;
    let mut now = 0;
    while !bytes.0.is_empty() {
        match bytes.next() % 16 {
            0..5 => world.map(&mut bytes, &mut window),
            5..8 if !world.items.is_empty() => {
                let at = usize::from(bytes.next()) % world.items.len();
                let item = world.items.swap_remove(at);
                let how = bytes.next();
                world.end(item, how);
            }
            8 => {
                let fault = bytes.next() % 4;
                let backend = world.domain.backend().clone();
                backend.0.lock().unwrap().faults.push_back(fault);
                if fault == 0 {
                    backend.0.lock().unwrap().faults.clear();
                }
            }
            9 => {
                now += u64::from(bytes.next());
                let _ = world.domain.poll(TimeNs(now));
            }
            10 => {
                let _ = match bytes.next() % 3 {
                    0 => world.domain.drain().map(drop).is_ok(),
                    1 => world.domain.tighten().map(drop).is_ok(),
                    _ => world.domain.relax(Mode::Lazy(queue)).is_ok(),
                };
            }
            11 => {
                let at = world
                    .items
                    .iter()
                    .position(|i| matches!(i, Item::Mapped(..)));
                if let Some(Item::Mapped(mapping, pages)) = at.map(|at| world.items.swap_remove(at))
                {
                    match batch.push(mapping) {
                        Ok(()) => in_batch.push(pages),
                        Err(mapping) => world.items.push(Item::Mapped(mapping, pages)),
                    }
                }
            }
            12 => {
                let lazy = world.exposes();
                begun_lazily |= lazy;
                match world.domain.unmap_batch(&mut batch) {
                    Ok(()) => {
                        assert!(batch.is_empty());
                        for pages in in_batch.drain(..) {
                            if !begun_lazily {
                                world.gone(&pages);
                            }
                        }
                        begun_lazily = false;
                    }
                    Err(BatchError::Unmap(UnmapError::Flush { mapping, .. })) => {
                        // Which one it is, is not said.
                        let (first, len) = mapping.mapped_range().unwrap();
                        let pages = (0..len / PAGE).map(|n| first.0 + n * PAGE).collect();
                        in_batch.retain(|pages: &Reached| pages[0] != first.0);
                        world.items.push(Item::Mapped(mapping, pages));
                    }
                    Err(BatchError::NotInvalidated(_)) => assert!(batch.has_unfinished()),
                    Err(error) => panic!("{error:?}"),
                }
            }
            13 => match window.take() {
                None => {
                    let device = bytes.device();
                    window = world.domain.open_window(&device, bytes.len()).ok();
                }
                Some(open) => world.domain.close_window(open).unwrap(),
            },
            14 => {
                let device = bytes.device();
                let (first, len) = (bytes.phys(), bytes.len());
                let begun = world
                    .domain
                    .link_begin(&device, first, len, bytes.direction());
                if let Ok(Some(linking)) = begun {
                    world.items.push(Item::Linking(linking, device));
                }
            }
            _ => {
                let at = world
                    .items
                    .iter()
                    .position(|i| matches!(i, Item::Linking(..)));
                if let Some(Item::Linking(mut linking, device)) =
                    at.map(|at| world.items.swap_remove(at))
                {
                    world.link(&mut linking, &mut bytes);
                    world.items.push(Item::Linking(linking, device));
                }
            }
        }
    }
    // The hardware works again, and everything ends.
    world.domain.backend().0.lock().unwrap().faults.clear();
    world.domain.unmap_batch(&mut batch).unwrap();
    while let Some(item) = world.items.pop() {
        world.end(item, 2);
    }
    if let Some(open) = window {
        world.domain.close_window(open).unwrap();
    }
    world.domain.drain().unwrap();
    assert!(world.passthrough || world.domain.backend().0.lock().unwrap().cached.is_empty());
    let stats = world.domain.stats();
    assert_eq!((stats.live_mappings, stats.leaked_mappings), (0, 0));
    assert_eq!((stats.iova_pages_held, stats.queued), (0, 0));
    drop(batch);
    world.domain.close().unwrap();
});
