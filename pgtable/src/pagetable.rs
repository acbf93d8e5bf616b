//! The page table: creation, entries, registers, statistics, the end.

use alloc::sync::Arc;
use core::{fmt, marker::PhantomData};

use dmabench_platform::{
    Iova, PhysAddr, SlotGuard, Slots,
    sync::{Mutex, atomic::Ordering},
};

use crate::{
    CreateError, DetachedTables, Format, Geometry, Level, Prot, Quirks, Registers, TableConfig,
    TableMemory, TableRef,
    bulk::Lanes,
    format::{CLEANED, FROZEN, NS_TABLE, TABLE_OR_PAGE, VALID},
    pool::{NoTable, Pool},
    table::Table,
};

/// A translation table of format `F` in memory `M`. See the crate's
/// documentation for who may call what at the same time.
pub struct PageTable<F: Format, M: TableMemory> {
    pub(crate) root: Table,
    /// Base-2 logarithm of what one root entry spans.
    pub(crate) top_shift: u32,
    pub(crate) root_mask: usize,
    /// Subtracted from an IOVA: the start of the upper half, or 0.
    pub(crate) base: u64,
    /// Highest offset from `base`.
    pub(crate) ia_mask: u64,
    /// Highest output address.
    pub(crate) pa_mask: u64,
    /// A table descriptor that needs no attention is this and the address.
    pub(crate) table_want: u64,
    /// `slots_address` if the table is as most are, so that what the other fields
    /// say is known where the walk is compiled; else 0. See
    /// [`is_plain_for`](Self::is_plain_for).
    plain_slots: usize,
    /// Page sizes `map` may use.
    pub(crate) sizes: u64,
    /// Attribute bits by protection; 0 for one that grants nothing.
    pub(crate) leaf_attrs: [u64; Prot::COUNT],
    pub(crate) lanes: Lanes,
    pub(crate) slots: Arc<Slots>,
    /// Where `slots` points, to compare guards with.
    slots_address: usize,
    pub(crate) pool: Pool<M>,
    /// Held by whoever frees tables or looks for empty ones.
    pub(crate) maintenance: Mutex<()>,
    pub(crate) config: TableConfig,
    geometry: Geometry,
    root_ref: TableRef,
    /// Which page table this is, for tokens to tell.
    pub(crate) id: u64,
    _format: PhantomData<F>,
}

// Not the checkers' atomics: a static outlives one run of a model.
static NEXT_ID: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Counts of table pages. Exact when no call is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStats {
    /// Bytes of one table, the root aside.
    pub table_bytes: u64,
    /// Bytes of the root.
    pub root_bytes: u64,
    /// Tables in the tree, the root aside.
    pub live: u64,
    /// Tables taken out of the tree and not yet released; a list that was
    /// dropped stays counted here.
    pub detached: u64,
    /// Released tables that wait for `collect`.
    pub limbo: u64,
    /// Empty tables kept for the next use.
    pub spare: u64,
    /// Tables given up after callers used one range at the same time.
    pub lost: u64,
    /// Times a table was wanted and there was none.
    pub failed: u64,
}

impl TableStats {
    /// Bytes of memory taken for tables, in whatever state.
    pub const fn bytes(&self) -> u64 {
        self.root_bytes
            + self.table_bytes * (self.live + self.detached + self.limbo + self.spare + self.lost)
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Bytes of a table below the root.
    pub(crate) const TABLE_BYTES: usize = 8 << F::INDEX_BITS;
    /// Entries of a table below the root.
    pub(crate) const ENTRIES: usize = 1 << F::INDEX_BITS;
    /// Base-2 logarithm of what a last-level table spans.
    pub(crate) const LAST_TABLE_LG2: u32 = F::PAGE_LG2 + F::INDEX_BITS;
    pub(crate) const PAGE_MASK: u64 = (1 << F::PAGE_LG2) - 1;
    /// Bytes of a page.
    pub(crate) const PAGE: u64 = 1 << F::PAGE_LG2;
    /// Input bits of a plain table: 48, or all that the format has.
    const PLAIN_BITS: u32 = if F::MAX_INPUT_BITS < 48 {
        F::MAX_INPUT_BITS
    } else {
        48
    };
    /// Its `ia_mask`.
    pub(crate) const PLAIN_MASK: u64 = low_bits(Self::PLAIN_BITS);
    /// Its `top_shift`.
    pub(crate) const PLAIN_TOP: u32 = {
        let levels = (Self::PLAIN_BITS - F::PAGE_LG2).div_ceil(F::INDEX_BITS);
        F::PAGE_LG2 + (levels - 1) * F::INDEX_BITS
    };
    /// Its `table_want`.
    pub(crate) const PLAIN_WANT: u64 = VALID | TABLE_OR_PAGE;

    /// An empty table. Requests on it carry guards of `slots`.
    ///
    /// # Errors
    ///
    /// [`CreateError`] says which part of `config` the format cannot do, or that
    /// `memory` has no root for it.
    pub fn new(config: TableConfig, memory: M, slots: Arc<Slots>) -> Result<Self, CreateError> {
        let checked = config.check::<F>()?;
        let geometry = checked.geometry;
        let pa_mask = low_bits(config.oas);
        let pool = Pool::new(memory, Self::TABLE_BYTES, config.spare_tables, pa_mask);
        let root_bytes = geometry.root_bytes().max(64);
        let root_ref = pool.allocate(root_bytes).map_err(|error| match error {
            NoTable::OutOfMemory => CreateError::OutOfTables,
            NoTable::Unreachable(phys) => CreateError::TableAddress(phys),
        })?;
        let mut leaf_attrs = [0; Prot::COUNT];
        for (bits, attrs) in leaf_attrs.iter_mut().enumerate() {
            if let Some(prot) = Prot::from_bits(bits as u8) {
                *attrs = F::attrs(prot, config.quirks).unwrap_or(0);
            }
        }
        let ia_mask = low_bits(config.ias);
        let cleaned = if config.coherent { 0 } else { CLEANED };
        let table_want = table_attrs(config.quirks) | cleaned;
        let top_shift = Self::shift_of(geometry.start);
        let base = if config.quirks.contains(Quirks::TTBR1) {
            !ia_mask
        } else {
            0
        };
        let slots_address = core::ptr::from_ref(&*slots).addr();
        let plain = (base, ia_mask) == (0, Self::PLAIN_MASK)
            && (top_shift, table_want) == (Self::PLAIN_TOP, Self::PLAIN_WANT);
        Ok(PageTable {
            root: Table::new(root_ref.ptr),
            top_shift,
            root_mask: (1 << geometry.root_bits) - 1,
            base,
            ia_mask,
            pa_mask,
            table_want,
            plain_slots: if plain { slots_address } else { 0 },
            sizes: checked.sizes,
            leaf_attrs,
            lanes: Lanes::detect(),
            slots_address,
            slots,
            pool,
            maintenance: Mutex::new(()),
            config,
            geometry,
            root_ref,
            // 64 bits do not come round.
            id: NEXT_ID.fetch_add(1, core::sync::atomic::Ordering::Relaxed),
            _format: PhantomData,
        })
    }

    /// Base-2 logarithm of what an entry of `level` spans.
    pub(crate) fn shift_of(level: Level) -> u32 {
        F::PAGE_LG2 + (3 - level.get()) as u32 * F::INDEX_BITS
    }

    /// The level whose entries span `1 << shift` bytes.
    #[inline(always)]
    pub(crate) fn level_of(shift: u32) -> Level {
        Level::from_i32(3 - ((shift - F::PAGE_LG2) / F::INDEX_BITS) as i32)
    }

    /// Index of the entry for `off` in the table whose entries span
    /// `1 << shift`. In bounds of that table for any `off` up to `ia_mask`.
    #[inline(always)]
    pub(crate) fn index(&self, off: u64, shift: u32) -> usize {
        let mask = if shift == self.top_shift {
            self.root_mask
        } else {
            Self::ENTRIES - 1
        };
        (off >> shift) as usize & mask
    }

    /// Entry `index` of a table the caller reached in its section.
    ///
    /// # Safety
    ///
    /// * `table` is the root, or was read from a descriptor by a caller whose
    ///   section (or maintenance lock) began before and still lasts; or it is
    ///   held by a token. Tables are freed by `collect` only, which waits for
    ///   the former and has no hold on the latter.
    /// * `index` came from [`index`](Self::index) for that table.
    #[inline(always)]
    pub(crate) unsafe fn entry(
        &self,
        table: Table,
        index: usize,
    ) -> &dmabench_platform::sync::atomic::AtomicU64 {
        // SAFETY: as promised; the lifetime is bound to `&self`, and callers use
        // the result within the section.
        unsafe { table.entry(index) }
    }

    /// The table a descriptor points to.
    ///
    /// # Safety
    ///
    /// `descriptor` is a table descriptor (valid or out of service) read from a
    /// table of this page table, under the conditions of [`entry`](Self::entry).
    #[inline(always)]
    pub(crate) unsafe fn child(&self, descriptor: u64) -> Table {
        let phys = PhysAddr(F::decode_oa(descriptor));
        // SAFETY: every table descriptor in the tree was made by `install` from
        // a table of this memory, and the table is not freed meanwhile.
        Table::new(unsafe { self.pool.memory.phys_to_ptr(phys) })
    }

    /// Whether the table has 48 bits of input space from 0 on (or all that the
    /// format has), and a coherent walker, and marks nothing in its table
    /// descriptors. Hot paths exist twice, for these and for the rest, as `PLAIN`
    /// says: with constants for fields. That is more than a few instructions: a
    /// store to an entry has an address that ends a chain of loads, and on Zen 3
    /// few loads after it may run before that is known. A pair of one page took
    /// 12.1 ns with all fields loaded.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain_slots != 0
    }

    /// Whether the table [is plain](Self::is_plain) and the guard is of its slots:
    /// one comparison for both.
    #[inline(always)]
    pub(crate) fn is_plain_for(&self, slot: &SlotGuard<'_>) -> bool {
        core::ptr::from_ref(slot.slots()).addr() == self.plain_slots
    }

    /// `base`.
    #[inline(always)]
    pub(crate) fn base_as<const PLAIN: bool>(&self) -> u64 {
        if PLAIN { 0 } else { self.base }
    }

    /// `ia_mask`.
    #[inline(always)]
    pub(crate) fn ia_mask_as<const PLAIN: bool>(&self) -> u64 {
        if PLAIN {
            Self::PLAIN_MASK
        } else {
            self.ia_mask
        }
    }

    /// [`clean`](Self::clean), which a coherent walker does not need.
    ///
    /// # Safety
    ///
    /// As [`clean`](Self::clean).
    #[inline(always)]
    pub(crate) unsafe fn clean_as<const PLAIN: bool>(
        &self,
        table: Table,
        first: usize,
        count: usize,
    ) {
        if !PLAIN {
            // SAFETY: as promised.
            unsafe { self.clean(table, first, count) };
        }
    }

    /// Whether `descriptor`, in a table whose entries span `1 << shift`, is a
    /// leaf.
    #[inline(always)]
    pub(crate) fn is_leaf(descriptor: u64, shift: u32) -> bool {
        if shift == F::PAGE_LG2 {
            descriptor & 3 == F::LAST_LEVEL_TYPE
        } else {
            descriptor & 3 == VALID
        }
    }

    /// Whether `descriptor`, above the last level, points to a table.
    #[inline(always)]
    pub(crate) fn is_table(descriptor: u64) -> bool {
        descriptor & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    #[inline(always)]
    pub(crate) fn guard_is_ours(&self, slot: &SlotGuard<'_>) -> bool {
        core::ptr::from_ref(slot.slots()).addr() == self.slots_address
    }

    /// What the walker must be told.
    pub fn registers(&self) -> Registers {
        Registers::new::<F>(
            &self.geometry,
            self.root_ref.phys,
            self.config.oas,
            self.config.quirks,
            self.config.coherent,
        )
    }

    /// First level and size of the root.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What the table was made with.
    pub fn config(&self) -> &TableConfig {
        &self.config
    }

    /// The page sizes `map` uses, one bit each.
    pub fn page_sizes(&self) -> u64 {
        self.sizes
    }

    /// The memory the tables are in.
    pub fn memory(&self) -> &M {
        &self.pool.memory
    }

    /// The slot table whose guards this page table takes.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The first and the last address that can be mapped.
    pub fn input_range(&self) -> (Iova, Iova) {
        (Iova(self.base), Iova(self.base + self.ia_mask))
    }

    /// Counts of table pages.
    pub fn stats(&self) -> TableStats {
        let counters = &self.pool.counters;
        TableStats {
            table_bytes: Self::TABLE_BYTES as u64,
            root_bytes: self.geometry.root_bytes().max(64) as u64,
            live: counters.live.load(Ordering::Relaxed),
            detached: counters.detached.load(Ordering::Relaxed),
            limbo: self.pool.limbo_count(),
            spare: self.pool.spare_count(),
            lost: counters.lost.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
        }
    }

    /// Takes back tables that unmaps detached. They wait in limbo until
    /// [`collect`](Self::collect) knows that no section can still read them.
    ///
    /// # Safety
    ///
    /// * Every table came from this page table.
    /// * An invalidation of their spans, walk caches included, began after they
    ///   were detached and has completed (invariant A2).
    pub unsafe fn release(&self, tables: DetachedTables) {
        // SAFETY: as promised by the caller.
        unsafe { self.pool.to_limbo(tables) };
    }

    /// Frees what is in limbo: to the spare tables first, then to memory.
    /// Returns how many tables came free. Waits for the sections that are open
    /// (see [`Slots::synchronize`]): call it off the hot path, with no guard of
    /// this slot table held.
    pub fn collect(&self) -> u64 {
        let _maintenance = self.maintenance.lock();
        self.collect_locked()
    }

    /// As `collect`; the caller holds the maintenance lock.
    pub(crate) fn collect_locked(&self) -> u64 {
        // SAFETY: whoever can know a dead table read its address in a section
        // that began before it was detached, hence before now, and
        // `synchronize` waits for that section; or it holds the maintenance lock,
        // which is ours.
        unsafe { self.pool.collect(|| self.slots.synchronize()) }
    }

    /// Gives spare tables back to memory until at most `keep` are left.
    pub fn trim_spare(&self, keep: u64) {
        self.pool.trim(keep);
    }

    /// Makes earlier stores to `count` entries visible to a walker that does
    /// not snoop.
    ///
    /// # Safety
    ///
    /// The table has more than `first + count - 1` entries.
    #[inline(always)]
    pub(crate) unsafe fn clean(&self, table: Table, first: usize, count: usize) {
        if !self.config.coherent {
            // SAFETY: in bounds as promised.
            let ptr = unsafe { table.entry_ptr(first) };
            self.pool.memory.clean(ptr, count);
        }
    }

    /// Type and attribute bits of a new table descriptor.
    pub(crate) fn table_attrs(&self) -> u64 {
        table_attrs(self.config.quirks)
    }

    /// Whether `descriptor` points to a table and needs no attention.
    pub(crate) fn is_in_service(&self, descriptor: u64) -> bool {
        Self::without(descriptor, self.table_want).is_some()
    }

    /// # Safety
    ///
    /// Nobody else uses the tables below `table` any more.
    unsafe fn free_below(&mut self, table: Table, shift: u32, entries: usize) {
        if shift == F::PAGE_LG2 {
            return;
        }
        for index in 0..entries {
            // SAFETY: in bounds, and the table is ours alone.
            let descriptor = unsafe { table.entry(index) }.load(Ordering::Relaxed);
            // Out of service, but never taken out: `reclaim` was interrupted by
            // a panic.
            let parked = descriptor & (FROZEN | VALID) == FROZEN;
            if !Self::is_table(descriptor) && !parked {
                continue;
            }
            // SAFETY: a table descriptor in our tree; the table is ours alone.
            unsafe {
                let child = self.child(descriptor);
                self.free_below(child, shift - F::INDEX_BITS, Self::ENTRIES);
                self.pool.memory.free(
                    TableRef {
                        ptr: child.ptr(),
                        phys: PhysAddr(F::decode_oa(descriptor)),
                    },
                    Self::TABLE_BYTES,
                );
            }
        }
    }
}

fn table_attrs(quirks: Quirks) -> u64 {
    let ns = if quirks.contains(Quirks::NS) {
        NS_TABLE
    } else {
        0
    };
    VALID | TABLE_OR_PAGE | ns
}

/// The low `bits` bits set; `bits` is between 1 and 63.
pub(crate) const fn low_bits(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl<F: Format, M: TableMemory> Drop for PageTable<F, M> {
    /// Frees every table, those with live translations too. Take the table out
    /// of the walker's registers, and invalidate, before. Detached tables
    /// that were not released stay allocated.
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no call is under way, hence no section reads the
        // tables, and limbo needs no wait.
        unsafe {
            self.pool.collect(|| ());
            self.free_below(self.root, self.top_shift, self.root_mask + 1);
            self.pool.trim(0);
            let root_bytes = self.geometry.root_bytes().max(64);
            self.pool.memory.free(self.root_ref, root_bytes);
        }
    }
}

impl<F: Format, M: TableMemory> fmt::Debug for PageTable<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable")
            .field("config", &self.config)
            .field("root", &self.root_ref.phys)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
