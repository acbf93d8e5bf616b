//! A device behind the most hostile IOMMU a domain may meet, with a walker of
//! its own: what it caches it keeps until an invalidation that names it has
//! completed, and what it loses it fetches again at once.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program includes it and uses a part"
)]

pub mod host;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use dmabench_dma::{Device, Direction, Domain, DomainConfig, Mapping, Mode, Segment};
use dmabench_flushq::{
    BackendError, JoinCost, Late, RangeCommands, Synced, Ticket, TlbBackend, TlbRange,
};
use dmabench_pgtable::{HeapTables, Level, TableMemory, TableRef, format::S1K4};
use dmabench_platform::{Fences, Iova, PhysAddr, SlotGuard, Slots, ThreadSlots, Timeout};

pub const PAGE: u64 = 4096;

pub type TestDomain = Domain<Hostile, ThreadSlots, S1K4, Quarantine>;

/// What goes wrong with the next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `invalidate` or `invalidate_all` returns an error.
    Refuse,
    /// `sync_begin` returns an error.
    RefuseSync,
    /// `sync_wait` times out, and nothing is invalidated.
    Late,
    /// A broken backend: claims success for one invalidation and does nothing.
    Skip,
    /// A broken backend: invalidates all but the last page of a range.
    Short,
    /// A broken backend: forgets that walk caches exist.
    LeavesOnly,
    /// `invalidate` or `invalidate_all` unwinds, having done nothing.
    Unwind,
}

#[derive(Clone, Copy)]
struct CachedLeaf {
    first: u64,
    bytes: u64,
    phys: u64,
    level: i8,
}

#[derive(Default)]
struct State {
    root: Option<PhysAddr>,
    /// Leaves by first address.
    leaves: BTreeMap<u64, CachedLeaf>,
    /// Table pointers: (level of the table, first address it translates) to the
    /// table.
    walks: BTreeMap<(i8, u64), PhysAddr>,
    /// Commands that have not completed: they take effect with the sync.
    pending: Vec<Option<TlbRange>>,
    faults: Vec<Fault>,
    ranges: u64,
    flush_alls: u64,
    join_cost: Option<JoinCost>,
    syncs: u64,
}

/// The IOMMU. Clones share it.
#[derive(Clone, Default)]
pub struct Hostile(Arc<Mutex<State>>);

fn entry(table: PhysAddr, index: u64) -> u64 {
    let pointer = std::ptr::with_exposed_provenance::<u64>((table.0 + 8 * index) as usize);
    // SAFETY: tables come from `Quarantine`, which frees none before it is
    // dropped, and `index` is below 512. The core writes entries as atomics;
    // so are they read.
    unsafe { std::sync::atomic::AtomicU64::from_ptr(pointer.cast_mut()) }
        .load(std::sync::atomic::Ordering::SeqCst)
}

const OUTPUT: u64 = 0x0000_ffff_ffff_f000;

impl State {
    /// What the hardware would find for `iova`, from caches first.
    fn look_up(&mut self, iova: u64) -> Option<u64> {
        if let Some((_, leaf)) = self.leaves.range(..=iova).next_back()
            && iova - leaf.first < leaf.bytes
        {
            return Some(leaf.phys + (iova - leaf.first));
        }
        let span = |level: i8| 12 + 9 * (3 - level as u32) + 9;
        let start = |level: i8| iova >> span(level) << span(level);
        // From the deepest table pointer there is.
        let (mut level, mut table) = (1..=3)
            .rev()
            .find_map(|level| Some((level, *self.walks.get(&(level, start(level)))?)))
            .or(self.root.map(|root| (0, root)))?;
        loop {
            let shift = span(level) - 9;
            let descriptor = entry(table, iova >> shift & 511);
            if descriptor & 1 == 0 {
                return None;
            }
            if level == 3 || descriptor & 2 == 0 {
                let first = iova >> shift << shift;
                let phys = descriptor & OUTPUT;
                self.leaves.insert(
                    first,
                    CachedLeaf {
                        first,
                        bytes: 1 << shift,
                        phys,
                        level,
                    },
                );
                return Some(phys + (iova - first));
            }
            level += 1;
            table = PhysAddr(descriptor & OUTPUT);
            self.walks.insert((level, start(level)), table);
        }
    }

    fn complete(&mut self) {
        for command in std::mem::take(&mut self.pending) {
            let hit = |first: u64, bytes: u64| match &command {
                None => true,
                Some(range) => first <= range.last_byte().0 && first + (bytes - 1) >= range.iova.0,
            };
            let level = command.and_then(|range| range.level).map(Level::get);
            let mut lost: Vec<u64> = Vec::new();
            self.leaves.retain(|_, leaf| {
                let keep =
                    !hit(leaf.first, leaf.bytes) || level.is_some_and(|level| level != leaf.level);
                if !keep {
                    lost.push(leaf.first);
                }
                keep
            });
            if command.is_none_or(|range| !range.leaf_only) {
                self.walks
                    .retain(|&(level, first), _| !hit(first, 1 << (12 + 9 * (4 - level as u32))));
            }
            for iova in lost {
                self.look_up(iova);
            }
        }
    }

    fn fault(&mut self, which: &[Fault]) -> Option<Fault> {
        let at = self.faults.iter().position(|fault| which.contains(fault))?;
        Some(self.faults.remove(at))
    }
}

impl Hostile {
    /// Lets the device access one address: the physical address it reaches.
    pub fn touch(&self, iova: Iova) -> Option<PhysAddr> {
        self.0.lock().unwrap().look_up(iova.0).map(PhysAddr)
    }

    /// Something goes wrong once.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().unwrap().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.0.lock().unwrap().faults.clear();
    }

    /// What ranges are joined by; only over what nobody uses without it.
    pub fn join_by(&self, cost: JoinCost) {
        self.0.lock().unwrap().join_cost = Some(cost);
    }

    /// Where the tables are.
    pub fn walk_from(&self, root: PhysAddr) {
        self.0.lock().unwrap().root = Some(root);
    }

    /// Ranges, flushes of everything, syncs.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.0.lock().unwrap();
        (state.ranges, state.flush_alls, state.syncs)
    }
}

// SAFETY: what the model caches is what it touches, and `sync_wait` drops all
// that the commands before it name. (With `Skip`, `Short` and `LeavesOnly` it
// breaks that on purpose; the memory it then reaches is never given back before
// the test ends.)
unsafe impl TlbBackend for Hostile {
    type Context = ();

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        assert!(!ranges.is_empty(), "called with nothing to do");
        let mut state = self.0.lock().unwrap();
        if state.fault(&[Fault::Unwind]).is_some() {
            drop(state);
            panic!("the backend unwinds");
        }
        let fault = state.fault(&[Fault::Refuse, Fault::Skip, Fault::Short, Fault::LeavesOnly]);
        if fault == Some(Fault::Refuse) {
            return Err(BackendError::QueueFull);
        }
        state.ranges += ranges.len() as u64;
        for range in ranges {
            let mut range = *range;
            match fault {
                Some(Fault::Skip) => continue,
                Some(Fault::Short) if range.len_bytes == PAGE => continue,
                Some(Fault::Short) => range.len_bytes -= PAGE,
                Some(Fault::LeavesOnly) => range.leaf_only = true,
                _ => {}
            }
            state.pending.push(Some(range));
        }
        Ok(())
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        let mut state = self.0.lock().unwrap();
        if state.fault(&[Fault::Unwind]).is_some() {
            drop(state);
            panic!("the backend unwinds");
        }
        match state.fault(&[Fault::Refuse, Fault::Skip]) {
            Some(Fault::Refuse) => return Err(BackendError::QueueFull),
            Some(_) => return Ok(()),
            None => {}
        }
        state.flush_alls += 1;
        state.pending.push(None);
        Ok(())
    }

    fn join_cost(&self) -> JoinCost {
        let known = self.0.lock().unwrap().join_cost;
        known.unwrap_or(JoinCost::unused_only(RangeCommands::Supported))
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        let mut state = self.0.lock().unwrap();
        if state.fault(&[Fault::RefuseSync]).is_some() {
            return Err(BackendError::Stopped);
        }
        state.syncs += 1;
        Ok(Ticket(state.syncs))
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        after: Timeout,
    ) -> Result<Synced, Late> {
        let mut state = self.0.lock().unwrap();
        if state.fault(&[Fault::Late]).is_some() {
            return Err(Late::TimedOut { after });
        }
        state.complete();
        // SAFETY: everything that was pending has taken effect.
        Ok(unsafe { Synced::new(ticket) })
    }
}

/// Table memory that is never used again, and that knows when a table is freed
/// to which the IOMMU still has a pointer.
#[derive(Clone)]
pub struct Quarantine {
    iommu: Hostile,
    freed: Arc<Mutex<BTreeSet<u64>>>,
    early: Arc<AtomicUsize>,
    allocated: Arc<AtomicUsize>,
}

impl Quarantine {
    /// Tables freed so far.
    pub fn freed(&self) -> usize {
        self.freed.lock().unwrap().len()
    }

    /// Tables allocated so far.
    pub fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Tables freed while a walk cache pointed to them (A2), or twice.
    pub fn freed_early(&self) -> usize {
        self.early.load(Ordering::Relaxed)
    }
}

// SAFETY: `HeapTables` keeps the promises; a table freed here is kept, which is
// more.
unsafe impl TableMemory for Quarantine {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        self.allocated.fetch_add(1, Ordering::Relaxed);
        HeapTables.alloc(size_bytes)
    }

    unsafe fn free(&self, table: TableRef, _size_bytes: usize) {
        let state = self.iommu.0.lock().unwrap();
        let known = state.walks.values().any(|phys| *phys == table.phys);
        let twice = !self.freed.lock().unwrap().insert(table.phys.0);
        if known || twice {
            self.early.fetch_add(1, Ordering::Relaxed);
        }
    }

    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> std::ptr::NonNull<u64> {
        // SAFETY: as the caller promises.
        unsafe { HeapTables.phys_to_ptr(phys) }
    }
}

/// A domain behind the hostile IOMMU. Table pages are not kept as spares: a
/// freed one is freed.
pub fn domain(mode: Mode) -> TestDomain {
    domain_with(DomainConfig::new(mode))
}

pub fn domain_with(mut config: DomainConfig) -> TestDomain {
    let iommu = Hostile::default();
    let slots = Arc::new(Slots::new(8, Fences::detect()).unwrap());
    let memory = Quarantine {
        iommu: iommu.clone(),
        freed: Arc::default(),
        early: Arc::default(),
        allocated: Arc::default(),
    };
    config.tables = config.tables.with_spare_tables(0);
    let domain = Domain::with_parts(config, slots, ThreadSlots, memory, iommu.clone(), ()).unwrap();
    iommu.walk_from(domain.registers().ttb);
    domain
}

pub fn segment(phys: u64, len_bytes: u64) -> Segment {
    Segment {
        phys: PhysAddr(phys),
        len_bytes,
    }
}

/// A mapping of one buffer that the device writes.
pub fn map(domain: &TestDomain, phys: u64, len_bytes: u64) -> Mapping {
    let buffer = segment(phys, len_bytes);
    domain
        .map(&Device::new(), buffer, Direction::FromDevice)
        .unwrap()
}

/// Every page of a mapping, as the device sees it.
pub fn pages(mapping: &Mapping) -> impl Iterator<Item = Iova> + use<> {
    let (first, len_bytes) = mapping.mapped_range().expect("translated");
    (0..len_bytes / PAGE).map(move |page| Iova(first.0 + page * PAGE))
}

/// The device touches every page of a mapping, and so caches all of it. Returns
/// the pages.
pub fn touch_all(domain: &TestDomain, mapping: &Mapping) -> Vec<Iova> {
    let pages: Vec<_> = pages(mapping).collect();
    for page in &pages {
        assert!(domain.backend().touch(*page).is_some());
    }
    pages
}

/// Pages the device can still reach.
pub fn stale(domain: &TestDomain, pages: &[Iova]) -> usize {
    pages
        .iter()
        .filter(|page| domain.backend().touch(**page).is_some())
        .count()
}
