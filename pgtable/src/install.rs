//! Tables coming into service: made, thawed, or put back.

use dmabench_platform::sync::atomic::Ordering;

use crate::{
    Format, MapError, PageTable, TableMemory,
    fault::{Fault, broken},
    format::{CLEANED, FROZEN, TABLE_OR_PAGE, VALID},
    pool::NoTable,
    table::Table,
};

enum InstallError {
    /// Another caller was faster: this is there now.
    Lost(u64),
    NoTable(NoTable),
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// The table below entry `index`, in service: made, thawed or put back if
    /// need be. The entry is no leaf.
    pub(crate) fn child_for_map(
        &self,
        table: Table,
        index: usize,
        seen: u64,
        off: u64,
    ) -> Result<Table, MapError> {
        // SAFETY: the callers pass an index in bounds, in a section.
        let entry = unsafe { self.entry(table, index) };
        let mut seen = seen;
        loop {
            if self.is_in_service(seen) {
                // SAFETY: a valid table descriptor, read in the section.
                return Ok(unsafe { self.child(seen) });
            }
            if seen == 0 {
                match self.install(table, index) {
                    Ok(child) => return Ok(child),
                    Err(InstallError::Lost(now)) => seen = now,
                    Err(InstallError::NoTable(NoTable::OutOfMemory)) => {
                        return Err(MapError::OutOfTables);
                    }
                    Err(InstallError::NoTable(NoTable::Unreachable(phys))) => {
                        return Err(MapError::TableAddress(phys));
                    }
                }
                continue;
            }
            if broken(Fault::IgnoreParked) && seen & (FROZEN | VALID) == FROZEN {
                entry.store(0, Ordering::Relaxed);
                seen = 0;
                continue;
            }
            if seen & FROZEN != 0 {
                // `reclaim` is looking at the table, or has taken it out of
                // service and waits for an invalidation. Taking it back makes
                // its next compare-exchange fail. It is the table that walk
                // caches may know, so no invalidation is needed.
                // A parked descriptor was cleaned as invalid: clean it anew.
                let parked = seen & VALID == 0;
                let back = if parked {
                    seen & !(FROZEN | CLEANED) | VALID
                } else {
                    seen & !FROZEN
                };
                seen = match entry.compare_exchange(seen, back, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => back,
                    Err(now) => now,
                };
                continue;
            }
            if seen & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE {
                // Another mapper has installed it and not yet cleaned it to
                // memory; whoever comes first does.
                // SAFETY: in bounds.
                unsafe { self.clean(table, index, 1) };
                let done = seen | CLEANED;
                seen = match entry.compare_exchange(seen, done, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => done,
                    Err(now) => now,
                };
                continue;
            }
            // A leaf has appeared: another caller maps the same range.
            return Err(MapError::Conflict {
                iova: self.iova(off),
            });
        }
    }

    /// Puts a new table into an empty entry.
    fn install(&self, table: Table, index: usize) -> Result<Table, InstallError> {
        let new = self.pool.take().map_err(InstallError::NoTable)?;
        // The walker must see the zeroes before the descriptor (A4).
        // SAFETY: the new table has so many entries.
        unsafe { self.clean(new.table, 0, Self::ENTRIES) };
        let descriptor = F::encode_oa(new.phys.0) | self.table_attrs();
        // SAFETY: the callers pass an index in bounds, in a section.
        let entry = unsafe { self.entry(table, index) };
        let installed = if broken(Fault::InstallByStore) {
            entry.store(descriptor, Ordering::Release);
            Ok(0)
        } else {
            entry.compare_exchange(0, descriptor, Ordering::AcqRel, Ordering::Acquire)
        };
        match installed {
            Ok(_) => {
                self.pool.counters.live.fetch_add(1, Ordering::Relaxed);
                if !self.config.coherent {
                    // SAFETY: in bounds.
                    unsafe { self.clean(table, index, 1) };
                    // If this fails somebody else has cleaned it.
                    let _ = entry.compare_exchange(
                        descriptor,
                        descriptor | CLEANED,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                }
                Ok(new.table)
            }
            Err(now) => {
                // SAFETY: nobody has seen the table, so it is all zero.
                unsafe { self.pool.put(new) };
                Err(InstallError::Lost(now))
            }
        }
    }
}
