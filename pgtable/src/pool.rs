//! Table pages on their way: spare ones in front of the memory, dead ones
//! that wait until nobody can still look at them.

use dmabench_platform::{
    PhysAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    bulk::Lanes,
    detached::{Dead, DetachedTables, Link, read_link},
    memory::{TableMemory, TableRef},
    table::Table,
};

/// A list of tables linked through their entries 0.
#[derive(Default)]
struct Stack {
    first: Option<PhysAddr>,
    count: u64,
}

/// Counters of [`Pool`]. Each is changed on slow paths only.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// In the tree, the root aside.
    pub(crate) live: AtomicU64,
    /// Out of the tree, not yet released.
    pub(crate) detached: AtomicU64,
    /// Given up because their list was damaged by a caller's bug.
    pub(crate) lost: AtomicU64,
    /// Times a table was asked for and there was none.
    pub(crate) failed: AtomicU64,
}

pub(crate) struct Pool<M> {
    pub(crate) memory: M,
    table_bytes: usize,
    spare_max: u64,
    /// Highest physical address the walker reaches.
    pa_mask: u64,
    /// Zeroed tables nobody knows.
    spare: Mutex<Stack>,
    /// Released tables: no walker can reach them, but a section that began
    /// before they were detached may still read them.
    limbo: Mutex<Stack>,
    pub(crate) counters: Counters,
}

/// Why there is no table.
#[derive(Debug)]
pub(crate) enum NoTable {
    OutOfMemory,
    Unreachable(PhysAddr),
}

impl<M: TableMemory> Pool<M> {
    pub(crate) fn new(memory: M, table_bytes: usize, spare_max: usize, pa_mask: u64) -> Self {
        Pool {
            memory,
            table_bytes,
            spare_max: spare_max as u64,
            pa_mask,
            spare: Mutex::default(),
            limbo: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// A zeroed table of `bytes` from memory, checked.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<TableRef, NoTable> {
        let Some(table) = self.memory.alloc(bytes) else {
            return Err(NoTable::OutOfMemory);
        };
        let size = bytes as u64;
        if table.phys.0 & (size - 1) != 0 || table.phys.0 > self.pa_mask - (size - 1) {
            // SAFETY: it has just been allocated with this size, unused.
            unsafe { self.memory.free(table, bytes) };
            return Err(NoTable::Unreachable(table.phys));
        }
        Ok(table)
    }

    /// A zeroed table.
    pub(crate) fn take(&self) -> Result<Dead, NoTable> {
        let spare = {
            let mut spare = self.spare.lock();
            spare.first.map(|phys| {
                // SAFETY: tables on the spare list came from memory.
                let table = Table::new(unsafe { self.memory.phys_to_ptr(phys) });
                // SAFETY: nobody but this list knows the table.
                let entry = unsafe { table.entry(0) };
                spare.first = match read_link(entry.load(Ordering::Relaxed)) {
                    Link::Next(next) => Some(next),
                    Link::End | Link::Damaged => None,
                };
                spare.count -= 1;
                entry.store(0, Ordering::Relaxed);
                Dead { table, phys }
            })
        };
        match spare {
            Some(table) => Ok(table),
            None => {
                let table = self.allocate(self.table_bytes).inspect_err(|_| {
                    self.counters.failed.fetch_add(1, Ordering::Relaxed);
                })?;
                Ok(Dead {
                    table: Table::new(table.ptr),
                    phys: table.phys,
                })
            }
        }
    }

    /// Takes back a table that nobody knows and whose entries are all zero.
    ///
    /// # Safety
    ///
    /// That is so.
    pub(crate) unsafe fn put(&self, table: Dead) {
        {
            let mut spare = self.spare.lock();
            if spare.count < self.spare_max {
                // SAFETY: nobody else knows the table.
                unsafe { table.set_link(spare.first) };
                spare.first = Some(table.phys);
                spare.count += 1;
                return;
            }
        }
        // SAFETY: nobody uses it, and it came from memory with this size.
        unsafe { self.free(table) };
    }

    /// # Safety
    ///
    /// Nobody knows the table, and it is not a root.
    unsafe fn free(&self, table: Dead) {
        let table = TableRef {
            ptr: table.table.ptr(),
            phys: table.phys,
        };
        // SAFETY: every table but the root was allocated with this size; unused
        // as promised.
        unsafe { self.memory.free(table, self.table_bytes) };
    }

    /// Queues tables that no walker can reach any more.
    ///
    /// # Safety
    ///
    /// They came from this pool, and the invalidation that covers them has
    /// completed.
    pub(crate) unsafe fn to_limbo(&self, tables: DetachedTables) {
        let Some((first, last, count)) = tables.into_ends() else {
            return;
        };
        self.counters.detached.fetch_sub(count, Ordering::Relaxed);
        let mut limbo = self.limbo.lock();
        // SAFETY: a table in limbo is not freed before `collect` takes the list
        // under the lock.
        unsafe { last.set_link(limbo.first) };
        limbo.first = Some(first.phys);
        limbo.count += count;
    }

    /// Tables in limbo.
    pub(crate) fn limbo_count(&self) -> u64 {
        self.limbo.lock().count
    }

    /// Spare tables.
    pub(crate) fn spare_count(&self) -> u64 {
        self.spare.lock().count
    }

    /// Frees what is in limbo. `wait` runs once, after the list was taken:
    /// when it returns, every section that could know the tables has ended.
    ///
    /// # Safety
    ///
    /// `wait` does that, or nobody can be in such a section.
    pub(crate) unsafe fn collect(&self, wait: impl FnOnce()) -> u64 {
        let Stack { first, mut count } = core::mem::take(&mut *self.limbo.lock());
        if count == 0 {
            return 0;
        }
        wait();
        let mut next = first;
        let mut freed = 0;
        while let Some(phys) = next {
            // SAFETY: a link that reads intact is one that `set_link` wrote (see
            // `Link::Damaged`), so this is a table of the list, not yet freed.
            let table = Table::new(unsafe { self.memory.phys_to_ptr(phys) });
            // SAFETY: as above.
            let link = unsafe { table.entry(0) }.swap(0, Ordering::Relaxed);
            count = count.saturating_sub(1);
            next = match read_link(link) {
                Link::Next(next) => Some(next),
                Link::End => None,
                Link::Damaged => {
                    self.counters.lost.fetch_add(count, Ordering::Relaxed);
                    None
                }
            };
            // A caller's bug may have left entries behind.
            let entries = self.table_bytes / 8;
            // SAFETY: the table has so many entries, and nobody else knows it.
            unsafe {
                if !Lanes::BASELINE.all_zero(table, 0, entries) {
                    Lanes::BASELINE.clear(table, 0, entries);
                }
                self.put(Dead { table, phys });
            }
            freed += 1;
        }
        freed
    }

    /// Gives spare tables back to memory until `keep` are left.
    pub(crate) fn trim(&self, keep: u64) {
        loop {
            if self.spare.lock().count <= keep {
                return;
            }
            // Another thread may have taken the last one meanwhile; then this
            // one comes from memory and goes back to it.
            let Ok(table) = self.take() else { return };
            // SAFETY: just taken: nobody else knows it.
            unsafe { self.free(table) };
        }
    }
}
