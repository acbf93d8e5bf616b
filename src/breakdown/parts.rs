//! One request built up step by step beside the whole.
//!
//! The whole goes through a `Domain`. Beside it stand stacks of an allocator,
//! tables, a backend and a queue set up as the domain sets up its own; the first
//! does only what a [`Step`] names first, the next one step more, and the last
//! does all the work of the whole. What a step costs is what it adds to a
//! request that has the steps before it: alone it would show the latency that
//! the processor hides inside a request.
//!
//! Only the library crates are used here: the instruction bench `breakdown_ir`
//! includes this file and counts what `dmabench breakdown` times.

use std::{hint::black_box, sync::Arc};

use dmabench_dma::{Device, Direction, DmaSegment, Domain, DomainConfig, Mapping, Mode, Segment};
use dmabench_flushq::{CountingBackend, FlushQueue, Gather, PagesRange};
use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain, IovaRange};
use dmabench_pgtable::{DetachedTables, HeapTables, PageTable, Prot, TableConfig, format::S1K4};
use dmabench_platform::{
    Fences, Granule, Iova, PhysAddr, SlotGuard, SlotSource, Slots, ThreadSlots, Timeout,
};

/// Requests that are mapped before the first of them is unmapped: those of a
/// command queue (CQE).
pub const BATCH: usize = 32;

/// The largest request: below it every unmap is a run of pages.
pub const BYTES_MAX: u64 = 1 << 20;

const PAGE: u64 = 4096;
/// Input and output bits of the tables, as `DomainConfig::new` has them.
const BITS: u32 = 48;

/// What the requests look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes of each, whole pages, at most [`BYTES_MAX`].
    pub bytes: u64,
    /// Whether each is a list of single pages instead of one buffer.
    pub lists: bool,
    /// Passthrough, strict or lazy with a ring per slot.
    pub mode: Mode,
}

/// Why there are no parts.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// How far a stack goes; each step contains those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Entering and leaving the caller's slot, for the map and for the unmap.
    Section,
    /// Taking I/O addresses; giving them back.
    Addresses,
    /// Writing the entries of the tables; clearing them.
    Tables,
    /// Strict: the invalidation and its sync, as the backend takes them. Lazy:
    /// queueing, and the flushes of full rings.
    Invalidation,
}

impl Step {
    /// From the first to the last.
    pub const ALL: [Step; 4] = [
        Step::Section,
        Step::Addresses,
        Step::Tables,
        Step::Invalidation,
    ];
}

/// What the layer's map and unmap stand on.
#[derive(Debug)]
struct Stack {
    iova: IovaDomain,
    tables: PageTable<S1K4, HeapTables>,
    backend: CountingBackend,
    queue: Option<FlushQueue<IovaRange, DetachedTables>>,
    /// Addresses of the batch.
    ranges: Vec<IovaRange>,
}

impl Stack {
    fn new(mode: Mode, slots: &Arc<Slots>) -> Result<Self, Refused> {
        let tables = PageTable::new(TableConfig::new(BITS, BITS), HeapTables, Arc::clone(slots))?;
        let iova = IovaConfig::new(Granule::K4, Iova(PAGE), tables.input_range().1);
        let queue = match mode {
            Mode::Lazy(config) => Some(FlushQueue::new(config, Arc::clone(slots))?),
            Mode::Passthrough | Mode::Strict => None,
            other => return Err(format!("mode {} is not taken apart", other.name()).into()),
        };
        Ok(Stack {
            iova: IovaDomain::new(iova.low32_first(true), Arc::clone(slots))?,
            tables,
            backend: CountingBackend::new(slots),
            queue,
            ranges: Vec::with_capacity(BATCH),
        })
    }
}

/// The whole, and the stacks beside it, with what each keeps from batch to
/// batch.
#[derive(Debug)]
pub struct Parts {
    load: Load,
    segments: Vec<Segment>,
    out: Vec<DmaSegment>,
    slots: Arc<Slots>,
    device: Device,
    domain: Domain,
    live: Vec<Mapping>,
    /// One for each step but the first, which needs none.
    stacks: [Stack; 3],
}

impl Parts {
    /// Sets up both sides.
    ///
    /// # Errors
    ///
    /// What the core refused, and loads that have no parts.
    pub fn new(load: Load) -> Result<Self, Refused> {
        if load.bytes == 0 || load.bytes > BYTES_MAX || !load.bytes.is_multiple_of(PAGE) {
            return Err(format!(
                "a request of {} bytes cannot be taken apart; give whole pages of 4k, at most 1m",
                load.bytes
            )
            .into());
        }
        let slots = Arc::new(Slots::new(64, Fences::detect())?);
        let config = DomainConfig::new(load.mode).low32_first(true).reclaim(None);
        let backend = CountingBackend::new(&slots);
        let domain = Domain::new(config, Arc::clone(&slots), backend, ())?;
        let stack = || Stack::new(load.mode, &slots);
        let stacks = [stack()?, stack()?, stack()?];
        // Pages far apart, so that no two become one.
        let segment = |page: u64| Segment {
            phys: PhysAddr(0x8000_0000 + page * 2 * PAGE),
            len_bytes: if load.lists { PAGE } else { load.bytes },
        };
        let count = if load.lists { load.bytes / PAGE } else { 1 };
        let segments: Vec<_> = (0..count).map(segment).collect();
        Ok(Parts {
            load,
            out: vec![DmaSegment::EMPTY; segments.len()],
            segments,
            slots,
            device: Device::new(),
            domain,
            live: Vec::with_capacity(BATCH),
            stacks,
        })
    }

    /// A batch of maps, whole.
    ///
    /// # Errors
    ///
    /// What the domain said.
    #[inline(never)]
    pub fn whole_map(&mut self) -> Result<(), Refused> {
        for _ in 0..BATCH {
            let segments = black_box(&self.segments[..]);
            let mapping = if self.load.lists {
                let out = &mut self.out;
                self.domain
                    .map_sg(&self.device, segments, out, Direction::FromDevice)?
            } else {
                self.domain
                    .map(&self.device, segments[0], Direction::FromDevice)?
            };
            self.live.push(mapping);
        }
        Ok(())
    }

    /// The unmaps of that batch, oldest first.
    ///
    /// # Errors
    ///
    /// What the domain said.
    #[inline(never)]
    pub fn whole_unmap(&mut self) -> Result<(), Refused> {
        for mapping in self.live.drain(..) {
            self.domain.unmap(black_box(mapping))?;
        }
        Ok(())
    }

    /// A batch of maps, as far as `step`. In passthrough a section is all there
    /// is, whatever the step.
    ///
    /// # Errors
    ///
    /// What the core said.
    pub fn map(&mut self, step: Step) -> Result<(), Refused> {
        match self.reached(step) {
            Step::Section => self.sections(),
            Step::Addresses => self.map_to::<1>(),
            Step::Tables => self.map_to::<2>(),
            Step::Invalidation => self.map_to::<3>(),
        }
    }

    /// The unmaps of that batch, as far as `step`.
    ///
    /// # Errors
    ///
    /// What the core said.
    pub fn unmap(&mut self, step: Step) -> Result<(), Refused> {
        match self.reached(step) {
            Step::Section => self.sections(),
            Step::Addresses => self.unmap_to::<1>(),
            Step::Tables => self.unmap_to::<2>(),
            Step::Invalidation => self.unmap_to::<3>(),
        }
    }

    fn reached(&self, step: Step) -> Step {
        if self.load.mode == Mode::Passthrough {
            Step::Section
        } else {
            step
        }
    }

    #[inline(never)]
    fn sections(&self) -> Result<(), Refused> {
        for _ in 0..BATCH {
            let pin = ThreadSlots.pin();
            black_box(&mut self.slots.enter_pinned(&pin)?);
        }
        Ok(())
    }

    #[inline(never)]
    fn map_to<const STEP: usize>(&mut self) -> Result<(), Refused> {
        let stack = &mut self.stacks[STEP - 1];
        let request = AllocRequest::below(Iova(u64::MAX));
        let prot = Prot::WRITE.with(Prot::CACHE);
        for _ in 0..BATCH {
            let pin = ThreadSlots.pin();
            let mut slot = self.slots.enter_pinned(&pin)?;
            let segments = black_box(&self.segments[..]);
            let pages = black_box(self.load.bytes) / PAGE;
            // As the domain does: the short ways first.
            let range = match stack.iova.alloc_cached(&mut slot, pages, request.limit) {
                Some(range) => range,
                None => stack.iova.alloc(&mut slot, pages, &request)?,
            };
            if STEP >= 2 {
                let iova = range.iova();
                if self.load.lists {
                    let pieces = segments.iter().map(|s| (s.phys, s.len_bytes));
                    stack.tables.map_sg(&slot, iova, pieces, prot)?;
                } else {
                    let Segment { phys, len_bytes } = segments[0];
                    if !stack.tables.map_at_once(&slot, iova, phys, len_bytes, prot) {
                        stack.tables.map(&slot, iova, phys, len_bytes, prot)?;
                    }
                }
            }
            stack.ranges.push(range);
        }
        Ok(())
    }

    #[inline(never)]
    fn unmap_to<const STEP: usize>(&mut self) -> Result<(), Refused> {
        let Stack {
            iova,
            tables,
            backend,
            queue,
            ranges,
        } = &mut self.stacks[STEP - 1];
        let timeout = Timeout::DEFAULT;
        let free = |slot: &mut SlotGuard<'_>, range| iova.free(slot, range);
        for range in ranges.drain(..) {
            let range = black_box(range);
            let pin = ThreadSlots.pin();
            let mut slot = self.slots.enter_pinned(&pin)?;
            let slot = &mut slot;
            let (at, bytes) = (range.iova(), range.len_bytes());
            if STEP < 3 {
                if STEP == 2 && !tables.unmap_pages(slot, at, bytes) {
                    return Err(NO_RUN.into());
                }
                free(slot, range)?;
                continue;
            }
            let Some(queue) = queue else {
                if !tables.unmap_pages(slot, at, bytes) {
                    return Err(NO_RUN.into());
                }
                let pages = PagesRange::new(Granule::K4, at, bytes);
                let range = Gather::complete_pages(pages, range, backend, slot, &(), timeout)
                    .map_err(|kept| kept.into_gather().1.to_string())?;
                free(slot, range)?;
                continue;
            };
            let room = loop {
                if let Some(room) = queue.room(slot) {
                    break room;
                }
                let release = |slot: &mut SlotGuard<'_>, range| {
                    let freed = free(slot, range);
                    debug_assert!(freed.is_ok());
                };
                let _ = queue.flush_own(slot, backend, &(), timeout, release)?;
            };
            if !tables.unmap_pages(room.slot(), at, bytes) {
                return Err(NO_RUN.into());
            }
            room.push(range);
        }
        Ok(())
    }

    /// What finding a mapping by its address would cost, which no request here
    /// needs: its token knows. `translate_phys` is Linux's `iommu_iova_to_phys`
    /// of every unmap. Between the map and the unmap of [`Step::Tables`].
    ///
    /// # Errors
    ///
    /// If a page is not mapped.
    #[inline(never)]
    pub fn find(&mut self) -> Result<(), Refused> {
        let pin = ThreadSlots.pin();
        let slot = self.slots.enter_pinned(&pin)?;
        let stack = &self.stacks[Step::Tables as usize - 1];
        for range in &stack.ranges {
            let found = (stack.tables).translate_phys(&slot, black_box(range.iova()));
            if black_box(found).is_none() {
                return Err("a mapped page was not found".into());
            }
        }
        Ok(())
    }

    /// What the whole and the stack of [`Step::Invalidation`] have done: the
    /// same.
    pub fn work(&self) -> [Work; 2] {
        let whole = self.domain.stats();
        let stack = &self.stacks[2];
        let tables = stack.tables.stats();
        [
            Work {
                counts: self.domain.backend().counts(),
                iova_pages_held: whole.iova_pages_held,
                page_table_bytes: whole.page_table_bytes,
            },
            Work {
                counts: stack.backend.counts(),
                iova_pages_held: stack.iova.stats().live_bytes >> Granule::K4.lg2(),
                page_table_bytes: tables.root_bytes
                    + tables.table_bytes * (tables.live + tables.detached + tables.limbo),
            },
        ]
    }

    /// The addresses of the batch that both of them have mapped.
    pub fn addresses(&self) -> [Vec<Iova>; 2] {
        [
            self.live.iter().map(Mapping::addr).collect(),
            self.stacks[2].ranges.iter().map(IovaRange::iova).collect(),
        ]
    }
}

const NO_RUN: &str = "an unmap was no run of pages";

/// What one side has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Asked of the backend.
    pub counts: dmabench_flushq::BackendCounts,
    /// I/O pages in use.
    pub iova_pages_held: u64,
    /// Translation tables.
    pub page_table_bytes: u64,
}
