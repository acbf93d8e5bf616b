//! Addresses that left the type system, and with which size.

use alloc::vec::Vec;

/// No memory for one more entry.
#[derive(Debug)]
pub(crate) struct NoMemory;

/// An open-addressing hash table from start page to size. Its memory grows by
/// fallible calls only, and removal needs none.
#[derive(Debug, Default)]
pub(crate) struct LiveMap {
    /// `(page, size)`, free where the size is 0. A power of two long, or empty.
    entries: Vec<(u64, u64)>,
    used: usize,
}

impl LiveMap {
    /// Fibonacci hashing: neighbours in the space land far apart.
    fn home(&self, page: u64) -> usize {
        let hash = page.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize & (self.entries.len() - 1)
    }

    fn find(&self, page: u64) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let mask = self.entries.len() - 1;
        let mut at = self.home(page);
        // The table is never full, so a free entry ends the search.
        while self.entries[at].1 != 0 {
            if self.entries[at].0 == page {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The exported size of the range that starts at `page`.
    pub(crate) fn get(&self, page: u64) -> Option<u64> {
        self.find(page).map(|at| self.entries[at].1)
    }

    /// Notes a range; `page` is not in the map and `size` is not 0.
    pub(crate) fn insert(&mut self, page: u64, size: u64) -> Result<(), NoMemory> {
        debug_assert!(size != 0 && self.get(page).is_none());
        if (self.used + 1) * 4 > self.entries.len() * 3 {
            self.grow()?;
        }
        self.place(page, size);
        self.used += 1;
        Ok(())
    }

    fn place(&mut self, page: u64, size: u64) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(page);
        while self.entries[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.entries[at] = (page, size);
    }

    fn grow(&mut self) -> Result<(), NoMemory> {
        let len = (self.entries.len() * 2).max(16);
        let mut entries = Vec::new();
        entries.try_reserve_exact(len).map_err(|_| NoMemory)?;
        entries.resize(len, (0, 0));
        let old = core::mem::replace(&mut self.entries, entries);
        for (page, size) in old {
            if size != 0 {
                self.place(page, size);
            }
        }
        Ok(())
    }

    /// Forgets the range that starts at `page`; its size.
    pub(crate) fn remove(&mut self, page: u64) -> Option<u64> {
        let mut hole = self.find(page)?;
        let size = self.entries[hole].1;
        let mask = self.entries.len() - 1;
        // Backward shift: no tombstones, so searches stay short for ever.
        let mut at = (hole + 1) & mask;
        while self.entries[at].1 != 0 {
            let home = self.home(self.entries[at].0);
            // The entry may move into the hole unless its home lies between.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.entries[hole] = (0, 0);
        self.used -= 1;
        Some(size)
    }

    /// Entries in the map.
    pub(crate) fn len(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    #[test]
    fn behaves_as_a_map_under_churn() {
        let mut map = LiveMap::default();
        let mut model = BTreeMap::new();
        let mut seed = 1u64;
        for step in 0..20_000u64 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(step | 1);
            let page = (seed >> 33) % 300;
            if seed & 1 == 0 {
                assert_eq!(map.remove(page), model.remove(&page));
            } else if map.get(page).is_none() {
                map.insert(page, step + 1).unwrap();
                assert_eq!(model.insert(page, step + 1), None);
            }
            assert_eq!(map.get(page), model.get(&page).copied());
            assert_eq!(map.len(), model.len());
        }
        for (page, size) in &model {
            assert_eq!(map.get(*page), Some(*size));
        }
    }
}
