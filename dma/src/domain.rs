//! The domain: one I/O address space, and everything that belongs to it.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{convert::Infallible, fmt, mem::ManuallyDrop};

use dmabench_flushq::{CountingBackend, Flushed, Late, TlbBackend};
use dmabench_iova::{IovaConfig, IovaDomain, IovaRange};
use dmabench_pgtable::{
    DetachedTables, Format, HeapTables, PageTable, ReclaimTimer, Registers, TableMemory,
    Translation, format::S1K4,
};
use dmabench_platform::{
    CachePadded, Granule, Iova, SlotGuard, SlotSource, Slots, TimeNs, Timeout, sync::Mutex,
};

use crate::{
    CloseError, CloseReason, ContextError, DomainConfig, DomainError, FlushError, Mode,
    SwitchError,
    mapping::DomainTag,
    queues::{Flush, Queues},
    stats::Counters,
    switch::{ModeSwitch, RelaxError, Way},
};

/// The slots of threads, where there is `std`.
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub type DefaultSource = dmabench_platform::ThreadSlots;
/// The slots of threads, where there is `std`.
#[cfg(not(all(feature = "std", not(any(loom, shuttle)))))]
pub type DefaultSource = dmabench_platform::OneCpu;

/// One I/O address space that devices share: addresses, tables, invalidation,
/// and the policy of unmapping.
///
/// `B` is the hardware's side, `S` says which slot a caller has, `F` is the
/// table format and `M` the memory of the tables. All methods take `&self` and
/// may be called by any number of threads; none may be called from within
/// another on the same thread (from a backend, say).
///
/// # Attached devices
///
/// The domain does not know who walks its tables. Whoever points a device at
/// [`registers`](Self::registers) takes it away again, and waits for that to
/// complete, before the domain is dropped: the drop frees the tables.
pub struct Domain<
    B: TlbBackend = CountingBackend,
    S: SlotSource = DefaultSource,
    F: Format = S1K4,
    M: TableMemory = HeapTables,
> {
    pub(crate) tag: &'static DomainTag,
    pub(crate) mode: ModeSwitch<Queues>,
    pub(crate) sync_timeout: Timeout,
    pub(crate) source: S,
    pub(crate) slots: Arc<Slots>,
    pub(crate) iova: IovaDomain,
    /// Dropped only after a completed invalidation, else leaked (A2).
    pub(crate) tables: ManuallyDrop<PageTable<F, M>>,
    pub(crate) backend: B,
    pub(crate) context: B::Context,
    /// One for each slot, written by its owner only.
    pub(crate) counters: Box<[CachePadded<Counters>]>,
    /// `None` where tables are never reclaimed. Off the hot path.
    pub(crate) reclaim: Option<Mutex<ReclaimTimer>>,
    pub(crate) config: DomainConfig,
}

type Parts<F, M> = (PageTable<F, M>, IovaDomain, ModeSwitch<Queues>);

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
impl<B: TlbBackend> Domain<B> {
    /// A domain for threads, with 4 KiB stage 1 tables on the heap.
    /// [`with_parts`](Domain::with_parts) has all the choices.
    ///
    /// # Errors
    ///
    /// [`DomainError`] if the configuration contradicts itself.
    pub fn new(
        config: DomainConfig,
        slots: Arc<Slots>,
        backend: B,
        context: B::Context,
    ) -> Result<Self, DomainError> {
        Self::with_parts(
            config,
            slots,
            dmabench_platform::ThreadSlots,
            HeapTables,
            backend,
            context,
        )
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// A domain of these parts. `source` gives out slots of `slots`; `context`
    /// is what the backend calls this address space: the one the hardware uses
    /// for these tables and for nothing else. With another one invalidations go
    /// astray, and tables are freed while the hardware still remembers them;
    /// [`with_context`](Self::with_context) makes it from the tables.
    ///
    /// # Errors
    ///
    /// [`DomainError`] if the configuration contradicts itself or the format.
    pub fn with_parts(
        config: DomainConfig,
        slots: Arc<Slots>,
        source: S,
        memory: M,
        backend: B,
        context: B::Context,
    ) -> Result<Self, DomainError> {
        let known = |_: &B, _: &Registers| Ok::<_, Infallible>(context);
        Self::with_context(config, slots, source, memory, backend, known).map_err(|error| {
            match error {
                ContextError::Domain(error) => error,
                ContextError::Context(never) => match never {},
            }
        })
    }

    /// As [`with_parts`](Self::with_parts), for a backend that makes contexts
    /// of tables: `make` is told what the hardware needs to walk them. It is
    /// called once, and last: after it nothing can fail.
    ///
    /// # Errors
    ///
    /// [`ContextError`]. The tables are freed then, so a `make` that fails must
    /// leave nobody walking them.
    pub fn with_context<E>(
        config: DomainConfig,
        slots: Arc<Slots>,
        source: S,
        memory: M,
        backend: B,
        make: impl FnOnce(&B, &Registers) -> Result<B::Context, E>,
    ) -> Result<Self, ContextError<E>> {
        let (tables, iova, mode) =
            Self::make_parts(&config, &slots, memory).map_err(ContextError::Domain)?;
        let reclaim = match config.mode {
            Mode::Passthrough => None,
            _ => config.reclaim,
        };
        let no_memory = || ContextError::Domain(DomainError::NoMemory);
        let mut counters = Vec::new();
        counters
            .try_reserve_exact(slots.count())
            .map_err(|_| no_memory())?;
        counters.resize_with(slots.count(), CachePadded::default);
        let tag = DomainTag::take().ok_or_else(no_memory)?;
        let context = make(&backend, &tables.registers()).map_err(|error| {
            tag.give_back();
            ContextError::Context(error)
        })?;
        Ok(Domain {
            tag,
            mode,
            sync_timeout: config.sync_timeout,
            source,
            slots,
            iova,
            tables: ManuallyDrop::new(tables),
            backend,
            context,
            counters: counters.into_boxed_slice(),
            reclaim: reclaim.map(|policy| Mutex::new(ReclaimTimer::new(policy, TimeNs(0)))),
            config,
        })
    }

    /// Everything that the configuration decides.
    fn make_parts(
        config: &DomainConfig,
        slots: &Arc<Slots>,
        memory: M,
    ) -> Result<Parts<F, M>, DomainError> {
        let tables =
            PageTable::new(config.tables, memory, slots.clone()).map_err(DomainError::Tables)?;
        let (table_first, table_last) = tables.input_range();
        let (first, last) = config.aperture.unwrap_or((
            Iova(table_first.0.saturating_add(F::GRANULE.bytes())),
            table_last,
        ));
        if first < table_first || last > table_last {
            return Err(DomainError::ApertureBeyondTables {
                first: table_first,
                last: table_last,
            });
        }
        let iova_config = IovaConfig::new(F::GRANULE, first, last)
            .low32_first(config.low32_first)
            .policy(config.policy)
            .cached(config.cached)
            .burst(config.mode.queue().map_or(0, |q| q.entries_per_slot));
        let iova = IovaDomain::new(iova_config, slots.clone()).map_err(DomainError::Iova)?;
        let queue = Queues::of_mode(config.mode, slots).map_err(DomainError::Queue)?;
        let mode = match (config.mode, queue) {
            (Mode::Passthrough, _) => ModeSwitch::passthrough(),
            (_, Some(queue)) => ModeSwitch::lazy(queue),
            (_, None) => ModeSwitch::strict(),
        };
        Ok((tables, iova, mode))
    }

    /// A number that no other domain of the process has had.
    pub fn id(&self) -> u64 {
        self.tag.id.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// What the domain was made with.
    pub fn config(&self) -> &DomainConfig {
        &self.config
    }

    /// The hardware's side.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The slots every part of the domain uses.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The memory of the tables.
    pub fn memory(&self) -> &M {
        self.tables.memory()
    }

    /// What the hardware must be told to walk the tables.
    pub fn registers(&self) -> Registers {
        self.tables.registers()
    }

    /// Unit of mapping: a buffer that does not fill its first and last granule
    /// exposes their rest to the device.
    pub fn granule(&self) -> Granule {
        F::GRANULE
    }

    /// The largest mapping that is as cheap as a small one, in bytes: larger
    /// ones allocate their addresses from the shared index. (Linux:
    /// `iommu_dma_opt_mapping_size`, 128 KiB.)
    pub fn opt_mapping_size(&self) -> u64 {
        self.config.opt_mapping_size(F::GRANULE)
    }

    /// Keeps `first..=last` from being handed out: the window of an interrupt
    /// controller, a region the firmware uses. Call it with no request under way
    /// on this thread.
    ///
    /// # Errors
    ///
    /// [`dmabench_iova::ReserveError`] if the region is in use or reserved.
    pub fn reserve(&self, first: Iova, last: Iova) -> Result<(), dmabench_iova::ReserveError> {
        self.iova.reserve(first, last)
    }

    /// Where the tables send `iova` now; `None` where nothing is mapped, in
    /// passthrough, and inside another request of the caller. What a device
    /// reaches may be more (lazy) until the next flush.
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        let pin = self.source.pin();
        let slot = self.slots.enter_pinned(&pin).ok()?;
        self.tables.translate(&slot, iova)
    }

    /// For the caller's timer. Flushes what has waited for the time of the
    /// [queue](dmabench_flushq::QueueConfig), trims caches, frees tables: those
    /// that unmaps took out, and, when the
    /// [policy](DomainConfig::reclaim) says so, those that were emptied piece
    /// by piece.
    ///
    /// # Errors
    ///
    /// [`FlushError`] if a flush, or the invalidation for emptied tables, was
    /// due and did not succeed; a later call tries again.
    pub fn poll(&self, now: TimeNs) -> Result<Flushed, FlushError> {
        // The queue may hold entries even if unmaps are strict by now.
        let flushed = match self.mode.queue() {
            Some(queues) => self.flush(queues, Flush::IfDue(now)),
            None => Ok(Flushed::default()),
        };
        if self.iova.next_deadline().is_some_and(|due| due <= now) {
            self.iova.trim(now);
        }
        self.tables.collect();
        let reclaimed = self.reclaim_if_due(now);
        let flushed = flushed?;
        reclaimed?;
        Ok(flushed)
    }

    /// When to call [`poll`](Self::poll) next; `None` while there is nothing to
    /// do. A time in the past says: now.
    pub fn next_deadline(&self) -> Option<TimeNs> {
        let queue = self.mode.queue().and_then(Queues::next_deadline);
        [queue, self.iova.next_deadline(), self.reclaim_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Flushes now, and releases all that unmaps before this call held back.
    /// When it succeeds, no device can reach a buffer that was unmapped before.
    ///
    /// # Errors
    ///
    /// [`FlushError`]; nothing was released.
    pub fn drain(&self) -> Result<Flushed, FlushError> {
        let flushed = match self.mode.queue() {
            Some(queues) => self.flush(queues, Flush::Now)?,
            None => Flushed::default(),
        };
        self.tables.collect();
        Ok(flushed)
    }

    /// What happens between an unmap and the reuse of what it freed, now.
    pub fn mode(&self) -> Mode {
        match self.mode.way() {
            Way::Lazy(queues) => queues.mode(),
            Way::Strict | Way::Passthrough => match self.config.mode {
                Mode::Lazy(_) | Mode::LazySingle(_) | Mode::LazyParked(_) => Mode::Strict,
                mode => mode,
            },
        }
    }

    /// The lazy mode that goes with the domain's queue, if it has one: now, or
    /// from an earlier time.
    pub(crate) fn lazy_mode(&self) -> Option<Mode> {
        self.mode.queue().map(Queues::mode)
    }

    /// Unmaps that wait for a flush.
    pub(crate) fn queued(&self) -> u64 {
        self.mode.queue().map_or(0, |queues| queues.figures().0)
    }

    /// From strict to the lazy mode `to`, at once and under running I/O: unmaps
    /// that have begun finish strictly, later ones are lazy. Nothing happens if
    /// that is the mode already. Like Linux's change of a group from `DMA` to
    /// `DMA-FQ`, which a driver does not notice.
    ///
    /// The queue that is made stays with the domain, so a second switch must ask
    /// for the same one.
    ///
    /// # Errors
    ///
    /// [`SwitchError`]; the mode is as before.
    pub fn relax(&self, to: Mode) -> Result<(), SwitchError> {
        if to.queue().is_none() {
            return Err(SwitchError::NotLazy { asked: to });
        }
        let make = || match Queues::of_mode(to, &self.slots) {
            Ok(Some(queues)) => Ok(queues),
            Ok(None) => Err(SwitchError::NotLazy { asked: to }),
            Err(error) => Err(SwitchError::Queue(error)),
        };
        self.mode
            .relax(|queues| queues.mode() == to, make)
            .map_err(|error| match error {
                RelaxError::Passthrough => SwitchError::Passthrough,
                RelaxError::OtherQueue => SwitchError::OtherQueue {
                    has: self.mode.queue().map_or(to, Queues::mode),
                },
                RelaxError::Make(error) => error,
            })
    }

    /// From lazy to strict, under running I/O: from now on unmaps are strict;
    /// then those that had begun are waited for, and the queue is flushed. When
    /// this returns `Ok`, no device can reach a buffer whose unmap returned
    /// before the call. In a strict mode it flushes what may be left of an
    /// earlier lazy one.
    ///
    /// # Errors
    ///
    /// [`FlushError`]: unmaps are strict from now on, but buffers that were
    /// unmapped before may still be reachable; call it again.
    /// [`FlushError::Reentered`]: nothing happened.
    pub fn tighten(&self) -> Result<Flushed, FlushError> {
        {
            // The grace period would wait for the caller's own section.
            let pin = self.source.pin();
            let entered = self.slots.enter_pinned(&pin);
            drop(entered.map_err(|_| FlushError::Reentered)?);
        }
        match self.mode.tighten(|| self.slots.synchronize()) {
            Some(queues) => self.flush(queues, Flush::Now),
            None => Ok(Flushed::default()),
        }
    }

    /// Takes the domain down: everything unmapped, everything flushed.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with the domain if mappings are left or the flush does not
    /// succeed.
    pub fn close(self) -> Result<(), CloseError<Self>> {
        let mappings = self.live_mappings();
        let reason = if mappings != 0 {
            CloseReason::Mapped { mappings }
        } else {
            match self.flush_for_good() {
                Ok(()) => return Ok(()),
                Err(FlushError::Late(late)) => CloseReason::Flush(late),
                Err(FlushError::Reentered) => CloseReason::Reentered,
            }
        };
        Err(CloseError {
            domain: self,
            reason,
        })
    }

    /// Spares the allocator the look at a guard of the domain's.
    #[inline(always)]
    pub(crate) fn assume_own(&self, slot: &SlotGuard<'_>) {
        // SAFETY: every guard here was entered by the domain, in the table of
        // slots that the allocator was made with.
        unsafe { core::hint::assert_unchecked(self.iova.is_of(slot)) };
    }

    /// Gives back the tables a completed flush has covered.
    pub(crate) fn release_extra(
        &self,
        slot: &mut SlotGuard<'_>,
        flushed: Flushed<DetachedTables>,
    ) -> Flushed {
        if !flushed.extra.is_empty() {
            self.release_tables(slot, flushed.extra);
        }
        Flushed {
            flushed: flushed.flushed,
            released: flushed.released,
            extra: (),
        }
    }

    /// Gives back addresses that no device can use: never mapped, or handed out
    /// by [`Complete`](dmabench_flushq::Complete) or the flush queue.
    #[inline]
    pub(crate) fn release(&self, slot: &mut SlotGuard<'_>, range: IovaRange) {
        // Refused only for a token of another domain or a guard of another
        // table, and neither can come here; the range would stay allocated.
        self.assume_own(slot);
        let freed = self.iova.free(slot, range);
        debug_assert!(freed.is_ok());
    }

    /// Gives back tables whose invalidation has completed: only ever called with
    /// what [`Complete`](dmabench_flushq::Complete) or the flush queue handed
    /// out.
    #[cold]
    #[inline(never)]
    pub(crate) fn release_tables(&self, slot: &mut SlotGuard<'_>, tables: DetachedTables) {
        // SAFETY: the tables were detached by an unmap of `self.tables`, into a
        // gather or a flush queue entry of this domain; both give them out only
        // after an invalidation that began later, with this domain's backend
        // and context, has completed.
        unsafe { self.tables.release(tables) };
        if self.count_released(slot) {
            self.collect_paused(slot);
        }
    }

    /// Frees released tables from within a section.
    #[cold]
    pub(crate) fn collect_paused(&self, slot: &mut SlotGuard<'_>) {
        slot.pause(|| self.tables.collect());
    }

    /// After success no walker holds anything of this domain's in a cache.
    fn flush_for_good(&self) -> Result<(), FlushError> {
        self.drain()?;
        self.backend.invalidate_all(None, &self.context)?;
        self.sync()
    }

    /// Waits until what was begun before has completed. Outside every section.
    pub(crate) fn sync(&self) -> Result<(), FlushError> {
        let ticket = self.backend.sync_begin(None)?;
        let synced = self.backend.sync_wait(None, ticket, self.sync_timeout)?;
        if synced.up_to() < ticket {
            return Err(FlushError::Late(Late::TimedOut {
                after: self.sync_timeout,
            }));
        }
        Ok(())
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Drop for Domain<B, S, F, M> {
    /// Flushes, then frees the tables. If the flush does not succeed they are
    /// leaked: a walker may still read them (A2, A11).
    fn drop(&mut self) {
        if self.flush_for_good().is_ok() {
            // SAFETY: dropped here only, and `self` is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.tables) };
        }
        let leaked = self.tag.leaked.load(core::sync::atomic::Ordering::Relaxed);
        if self.live_mappings() == leaked {
            self.tag.give_back();
        }
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> fmt::Debug for Domain<B, S, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("id", &self.id())
            .field("mode", &self.mode())
            .field("tables", &*self.tables)
            .finish_non_exhaustive()
    }
}

/// A domain is shared by reference between threads.
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Domain>();
};
