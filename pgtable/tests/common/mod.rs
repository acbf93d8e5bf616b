//! What the tests share: a table with its slots, and a sink that remembers.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod arena;
pub mod model;
pub mod raw;

use dmabench_pgtable::{
    CreateError, DetachedTable, DetachedTables, Format, HeapTables, Level, MapError, PageTable,
    Prot, TableConfig, TableMemory, Translation, UnmapError, UnmapSink,
};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, sync::Arc};

/// Remembers what an unmap told.
#[derive(Debug, Default)]
pub struct Log {
    pub leaves: Vec<(u64, u64, Level)>,
    pub tables: Vec<(u64, u64, Level)>,
    pub detached: DetachedTables,
}

impl UnmapSink for Log {
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        self.leaves.push((iova.0, len_bytes, level));
    }

    fn table(&mut self, table: DetachedTable) {
        self.tables
            .push((table.iova().0, table.len_bytes(), table.level()));
        self.detached.push(table);
    }
}

/// A page table whose requests enter the fallback slot.
pub struct Fixture<F: Format, M: TableMemory = HeapTables> {
    pub table: PageTable<F, M>,
    pub slots: Arc<Slots>,
}

pub fn slots() -> Arc<Slots> {
    Arc::new(Slots::new(0, Fences::Symmetric).unwrap())
}

impl<F: Format> Fixture<F> {
    pub fn new(config: TableConfig) -> Self {
        Self::try_new(config).unwrap()
    }

    pub fn try_new(config: TableConfig) -> Result<Self, CreateError> {
        Self::with_memory(config, HeapTables)
    }
}

impl<F: Format, M: TableMemory> Fixture<F, M> {
    pub fn with_memory(config: TableConfig, memory: M) -> Result<Self, CreateError> {
        let slots = slots();
        Ok(Fixture {
            table: PageTable::new(config, memory, slots.clone())?,
            slots,
        })
    }

    pub fn map(&self, iova: u64, pa: u64, len: u64, prot: Prot) -> Result<(), MapError> {
        let slot = self.slots.enter_fallback();
        self.table.map(&slot, Iova(iova), PhysAddr(pa), len, prot)
    }

    /// The short way first, as callers in a hurry go.
    pub fn map_at_once(&self, iova: u64, pa: u64, len: u64, prot: Prot) -> Result<(), MapError> {
        let slot = self.slots.enter_fallback();
        let (iova, pa) = (Iova(iova), PhysAddr(pa));
        if self.table.map_at_once(&slot, iova, pa, len, prot) {
            return Ok(());
        }
        self.table.map(&slot, iova, pa, len, prot)
    }

    pub fn map_pages(
        &self,
        iova: u64,
        pa: u64,
        page: u64,
        count: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        let slot = self.slots.enter_fallback();
        self.table
            .map_pages(&slot, Iova(iova), PhysAddr(pa), page, count, prot)
    }

    pub fn map_sg(&self, iova: u64, pieces: &[(u64, u64)], prot: Prot) -> Result<u64, MapError> {
        let slot = self.slots.enter_fallback();
        let pieces = pieces.iter().map(|(pa, len)| (PhysAddr(*pa), *len));
        self.table.map_sg(&slot, Iova(iova), pieces, prot)
    }

    /// Unmaps and releases the tables, as if an invalidation took no time.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<Log, UnmapError> {
        let mut log = Log::default();
        {
            let slot = self.slots.enter_fallback();
            self.table.unmap(&slot, Iova(iova), len, &mut log)?;
        }
        let tables = std::mem::take(&mut log.detached);
        // SAFETY: no walker reads these tables.
        unsafe { self.table.release(tables) };
        Ok(log)
    }

    /// The short way first, as callers in a hurry go.
    pub fn unmap_at_once(&self, iova: u64, len: u64) -> Result<Log, UnmapError> {
        let done = {
            let slot = self.slots.enter_fallback();
            self.table.unmap_pages(&slot, Iova(iova), len)
        };
        if !done {
            return self.unmap(iova, len);
        }
        let mut log = Log::default();
        log.leaves(Iova(iova), len, Level::LAST);
        Ok(log)
    }

    pub fn translation(&self, iova: u64) -> Option<Translation> {
        let slot = self.slots.enter_fallback();
        self.table.translate(&slot, Iova(iova))
    }

    pub fn phys(&self, iova: u64) -> Option<u64> {
        self.translation(iova).map(|t| t.paddr.0)
    }
}
