//! A walk over table memory that is not ours to trust: a guest's, or that of a
//! crash dump. Reads through a function, follows any descriptor it finds, and
//! never panics.

use core::{fmt, marker::PhantomData};

use dmabench_platform::{Iova, PhysAddr};

use crate::{
    CreateError, Format, Geometry, HeapTables, PageTable, TableConfig, Translation,
    pagetable::low_bits,
};

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Walked {
    /// At a leaf.
    Mapped(Translation),
    /// At an invalid descriptor, or with an IOVA outside the input space.
    Unmapped,
    /// At a descriptor or an output address beyond the output size.
    AddressSize(PhysAddr),
    /// At a table that cannot be read.
    Unreadable(PhysAddr),
}

/// Walks tables of format `F` through a function that reads 8 aligned bytes of
/// physical memory, or says that there are none.
pub struct Walker<F: Format, R> {
    geometry: Geometry,
    root: PhysAddr,
    base: u64,
    pa_mask: u64,
    read: R,
    _format: PhantomData<F>,
}

impl<F: Format, R: FnMut(PhysAddr) -> Option<u64>> Walker<F, R> {
    /// A walker for a table made with `config` whose root is at `root`.
    ///
    /// # Errors
    ///
    /// As [`PageTable::new`], memory aside.
    pub fn new(config: &TableConfig, root: PhysAddr, read: R) -> Result<Self, CreateError> {
        let geometry = config.check::<F>()?.geometry;
        let upper = config.quirks.contains(crate::Quirks::TTBR1);
        Ok(Walker {
            geometry,
            root,
            base: if upper { !low_bits(config.ias) } else { 0 },
            pa_mask: low_bits(config.oas),
            read,
            _format: PhantomData,
        })
    }

    /// Translates one address.
    pub fn walk(&mut self, iova: Iova) -> Walked {
        let off = iova.0.wrapping_sub(self.base);
        if off > low_bits(self.geometry.ias) {
            return Walked::Unmapped;
        }
        let mut table = self.root.0;
        let mut shift = PageTable::<F, HeapTables>::shift_of(self.geometry.start);
        let mut index = off >> shift;
        loop {
            // The root may be anywhere: its address comes from the caller.
            let Some(at) = table.checked_add(index * 8) else {
                return Walked::Unreadable(PhysAddr(table));
            };
            let Some(descriptor) = (self.read)(PhysAddr(at)) else {
                return Walked::Unreadable(PhysAddr(at));
            };
            let last = shift == F::PAGE_LG2;
            let level = PageTable::<F, HeapTables>::level_of(shift);
            let oas = 64 - self.pa_mask.leading_zeros();
            if PageTable::<F, HeapTables>::is_leaf(descriptor, shift) {
                if !last && !F::block_legal(level, oas) {
                    return Walked::Unmapped;
                }
                let leaf = PageTable::<F, HeapTables>::translation(descriptor, shift, off);
                if leaf.paddr.0 > self.pa_mask {
                    return Walked::AddressSize(leaf.paddr);
                }
                return Walked::Mapped(leaf);
            }
            if last || !PageTable::<F, HeapTables>::is_table(descriptor) {
                return Walked::Unmapped;
            }
            table = F::decode_oa(descriptor);
            if table > self.pa_mask {
                return Walked::AddressSize(PhysAddr(table));
            }
            shift -= F::INDEX_BITS;
            index = off >> shift & ((1 << F::INDEX_BITS) - 1);
        }
    }
}

impl<F: Format, R> fmt::Debug for Walker<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walker")
            .field("root", &self.root)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}
