//! Data that belongs to one slot each.

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use crossbeam_utils::CachePadded;

use super::{Exclusive, SlotGuard, SlotIndex, Slots};
use crate::sync::cell::UnsafeCell;

/// One `T` per slot of a table, each on cache lines of its own. The owner of a
/// slot reaches its `T` without an atomic operation.
pub struct PerSlot<T> {
    slots: Arc<Slots>,
    /// Where `slots` points, to compare guards with.
    slots_address: usize,
    /// One for each slot, and never another: the vector stays as it was made.
    /// (As a boxed slice it might be allocated anew.)
    cells: Vec<CachePadded<UnsafeCell<T>>>,
}

// SAFETY: a `T` is reached only through `get`, by the thread that holds the
// only guard of that slot, or through `get_exclusive`, while no guard is inside
// a section; both are exclusive access that moves between threads: `T: Send`.
unsafe impl<T: Send> Sync for PerSlot<T> {}
// SAFETY: as above; dropping the whole drops each `T` on the dropping thread.
unsafe impl<T: Send> Send for PerSlot<T> {}

impl<T> PerSlot<T> {
    /// Calls `make` once for each slot of the table.
    ///
    /// # Errors
    ///
    /// [`NoMemory`]; `make` was not called.
    pub fn new(slots: Arc<Slots>, mut make: impl FnMut(SlotIndex) -> T) -> Result<Self, NoMemory> {
        let mut cells = Vec::new();
        cells
            .try_reserve_exact(slots.count())
            .map_err(|_| NoMemory)?;
        for index in slots.indices() {
            cells.push(CachePadded::new(UnsafeCell::new(make(index))));
        }
        Ok(PerSlot {
            slots_address: core::ptr::from_ref(&*slots).addr(),
            slots,
            cells,
        })
    }

    /// The table the data belongs to.
    #[inline]
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Whether the guard is of the table the data belongs to.
    #[inline(always)]
    pub fn is_of(&self, guard: &SlotGuard<'_>) -> bool {
        core::ptr::from_ref(guard.slots()).addr() == self.slots_address
    }

    /// The caller's own `T`.
    ///
    /// # Panics
    ///
    /// If the guard is of another table: a bug of the embedder that would else
    /// give two threads the same data.
    #[inline(always)]
    pub fn get<'g>(&'g self, guard: &'g mut SlotGuard<'_>) -> SlotMut<'g, T> {
        if !self.is_of(guard) {
            wrong_table();
        }
        debug_assert_eq!(self.cells.len(), self.slots.count());
        // SAFETY: an index is made by its table only and is below its `count`,
        // and `cells` has one element for each slot of this same table.
        let cell = unsafe { self.cells.get_unchecked(guard.index().as_usize()) };
        // SAFETY: the guard is the only one of its slot and inside a section,
        // so nobody else, `get_exclusive` included, reaches this cell until the
        // section ends or is paused; either needs the guard, which is borrowed
        // for as long as the result lives.
        unsafe { SlotMut::new(cell) }
    }

    /// The `T` of any slot, while nobody is inside a section.
    ///
    /// # Panics
    ///
    /// If `exclusive` or `index` is of another table.
    pub fn get_exclusive<'g>(
        &'g self,
        exclusive: &'g mut Exclusive<'_>,
        index: SlotIndex,
    ) -> SlotMut<'g, T> {
        if !core::ptr::eq(exclusive.slots(), &*self.slots) {
            wrong_table();
        }
        // SAFETY: no owner is inside a section while `exclusive` lives, and it
        // is borrowed mutably for as long as the result lives, so no second
        // reference comes from it.
        unsafe { SlotMut::new(&self.cells[index.as_usize()]) }
    }

    /// Every `T`, through `&mut`: no section can be open on data nobody else
    /// has.
    pub fn drain_mut(&mut self) -> impl Iterator<Item = SlotMut<'_, T>> {
        self.cells.iter_mut().map(|cell| {
            // SAFETY: `&mut self` excludes every other reference.
            unsafe { SlotMut::new(cell) }
        })
    }
}

/// There is no memory for the data of every slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory for the data of every slot: free some, or use fewer slots")
    }
}

impl core::error::Error for NoMemory {}

#[cold]
#[inline(never)]
fn wrong_table() -> ! {
    panic!(
        "slot guard of another table than this data's: make all parts of a domain from one `Slots`"
    )
}

impl<T> fmt::Debug for PerSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerSlot")
            .field("slots", &self.cells.len())
            .finish_non_exhaustive()
    }
}

/// Exclusive access to one slot's `T`.
pub struct SlotMut<'g, T> {
    #[cfg(loom)]
    pointer: loom::cell::MutPtr<T>,
    #[cfg(not(loom))]
    pointer: core::ptr::NonNull<T>,
    _borrow: PhantomData<&'g mut T>,
}

impl<'g, T> SlotMut<'g, T> {
    /// # Safety
    ///
    /// Nobody else reaches the content of `cell` during `'g`.
    #[inline(always)]
    unsafe fn new(cell: &'g UnsafeCell<T>) -> Self {
        SlotMut {
            #[cfg(loom)]
            pointer: cell.get_mut(),
            #[cfg(not(loom))]
            // SAFETY: the address of a cell is never null.
            pointer: cell.with_mut(|p| unsafe { core::ptr::NonNull::new_unchecked(p) }),
            _borrow: PhantomData,
        }
    }

    /// As a plain reference for the whole borrow. (Not under loom, whose
    /// race check ends with this value.)
    #[cfg(not(loom))]
    #[inline(always)]
    pub fn into_mut(self) -> &'g mut T {
        // SAFETY: `new` promised exclusive access during `'g`.
        unsafe { &mut *self.pointer.as_ptr() }
    }
}

impl<T> Deref for SlotMut<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        #[cfg(loom)]
        // SAFETY: `new` promised exclusive access.
        return unsafe { self.pointer.deref() };
        #[cfg(not(loom))]
        // SAFETY: `new` promised exclusive access.
        unsafe {
            self.pointer.as_ref()
        }
    }
}

impl<T> DerefMut for SlotMut<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        #[cfg(loom)]
        // SAFETY: `new` promised exclusive access.
        return unsafe { self.pointer.deref() };
        #[cfg(not(loom))]
        // SAFETY: `new` promised exclusive access.
        unsafe {
            self.pointer.as_mut()
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for SlotMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
