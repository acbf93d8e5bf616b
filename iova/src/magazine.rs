//! Magazines (Bonwick and Adams, USENIX 2001): stacks of cached addresses.
//!
//! A magazine is 1024 bytes at a multiple of 1024: a link and 127 addresses.
//! Whoever owns one keeps a pointer to its topmost address, and nothing else:
//! pointing at the link, a multiple of 1024, means empty. All `unsafe` code of
//! the caches is here.

use alloc::alloc::{alloc, dealloc};
use core::{alloc::Layout, ptr::null_mut};

/// Addresses a magazine holds. As many as Linux's, for the same reason: with
/// the link it fills a power of two.
#[cfg(not(any(loom, shuttle)))]
pub(crate) const CAPACITY: usize = 127;
/// Small, so that checkers reach every edge.
#[cfg(any(loom, shuttle))]
pub(crate) const CAPACITY: usize = 3;

const ALIGN: usize = 1024;
const WORD: usize = size_of::<u64>();

#[repr(C, align(1024))]
struct Memory {
    next: *mut Memory,
    addresses: [u64; CAPACITY],
    /// Touched wherever the addresses are, so that loom sees races.
    #[cfg(loom)]
    race: loom::cell::UnsafeCell<()>,
}

const _: () =
    assert!(size_of::<Memory>() == ALIGN && core::mem::offset_of!(Memory, addresses) == WORD);

/// A magazine, or none. Owns the memory.
#[derive(Debug)]
pub(crate) struct Magazine {
    /// The topmost address; the link where there is none; null for no magazine.
    /// Derived from the pointer to the whole memory.
    top: *mut u64,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Magazine {}

impl Magazine {
    /// No magazine: empty and full at once.
    pub(crate) const NONE: Magazine = Magazine { top: null_mut() };

    /// An empty magazine, if there is memory for it.
    pub(crate) fn allocate() -> Option<Magazine> {
        // SAFETY: the layout is not of size 0.
        let memory = unsafe { alloc(Layout::new::<Memory>()) }.cast::<Memory>();
        if memory.is_null() {
            return None;
        }
        // SAFETY: fresh memory of this layout. (The zeros need not be written,
        // but cost nothing beside the allocation.)
        unsafe {
            memory.write(Memory {
                next: null_mut(),
                addresses: [0; CAPACITY],
                #[cfg(loom)]
                race: loom::cell::UnsafeCell::new(()),
            });
        }
        Some(Magazine { top: memory.cast() })
    }

    fn memory(&self) -> *mut Memory {
        self.top.map_addr(|address| address & !(ALIGN - 1)).cast()
    }

    #[cfg(loom)]
    fn check_race(&self) {
        // SAFETY: called with a magazine only; loom's cell is shared by nature.
        unsafe { (*self.memory()).race.with_mut(|_| ()) }
    }

    /// Whether there is a magazine.
    pub(crate) fn exists(&self) -> bool {
        !self.top.is_null()
    }

    /// Addresses in it; 0 for none.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        (self.top.addr() & (ALIGN - 1)) / WORD
    }

    /// Whether there is no address to take.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.top.addr() & (ALIGN - 1) == 0
    }

    /// Whether no address can be added: there is no magazine, or no room.
    pub(crate) fn has_no_room(&self) -> bool {
        self.top == self.end()
    }

    /// What `top` is when the magazine is full; null for none.
    fn end(&self) -> *mut u64 {
        if self.exists() {
            // SAFETY: the last address is inside the memory.
            unsafe { self.memory().cast::<u64>().add(CAPACITY) }
        } else {
            null_mut()
        }
    }

    /// The topmost address.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        #[cfg(loom)]
        self.check_race();
        // SAFETY: not empty, so `top` points at an address.
        Some(unsafe { self.top.read() })
    }

    /// Takes the topmost address.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let address = self.peek()?;
        // SAFETY: not empty, so what lies below is an address or the link.
        self.top = unsafe { self.top.sub(1) };
        Some(address)
    }

    /// Adds an address.
    ///
    /// # Safety
    ///
    /// The magazine exists and is not full.
    #[inline(always)]
    unsafe fn push_unchecked(&mut self, address: u64) {
        #[cfg(loom)]
        self.check_race();
        // SAFETY: not full, so there is room above `top`.
        unsafe {
            self.top = self.top.add(1);
            self.top.write(address);
        }
    }

    /// Adds an address; false if there is no room.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn push(&mut self, address: u64) -> bool {
        if self.has_no_room() {
            return false;
        }
        // SAFETY: there is a magazine, and room in it.
        unsafe { self.push_unchecked(address) };
        true
    }

    /// Takes the topmost of the addresses for which `fits` holds.
    pub(crate) fn pop_fitting(&mut self, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let len = self.len();
        if len == 0 {
            return None;
        }
        #[cfg(loom)]
        self.check_race();
        // SAFETY: the memory has `len` addresses from the first on, written by
        // `push`, and belongs to `self`, which is borrowed for the whole time.
        let addresses = unsafe {
            core::slice::from_raw_parts_mut(
                (&raw mut (*self.memory()).addresses).cast::<u64>(),
                len,
            )
        };
        let at = addresses.iter().rposition(|&address| fits(address))?;
        addresses.swap(at, len - 1);
        self.pop()
    }
}

impl Drop for Magazine {
    fn drop(&mut self) {
        if self.exists() {
            let memory = self.memory();
            // SAFETY: allocated by `allocate` with this layout, and ours alone.
            unsafe {
                memory.drop_in_place();
                dealloc(memory.cast(), Layout::new::<Memory>());
            }
        }
    }
}

/// The magazine in use and the one before it, of one class in one slot.
#[derive(Debug)]
pub(crate) struct Pair {
    loaded: Magazine,
    /// `loaded.end()`, so that a push compares instead of computing.
    end: *mut u64,
    previous: Magazine,
}

// SAFETY: `end` points into the memory that `loaded` owns.
unsafe impl Send for Pair {}

impl Default for Pair {
    fn default() -> Self {
        Pair {
            loaded: Magazine::NONE,
            end: null_mut(),
            previous: Magazine::NONE,
        }
    }
}

impl Pair {
    /// The address that [`pop`](Self::pop) would take.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u64> {
        self.loaded.peek()
    }

    /// Takes an address from the loaded magazine.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.loaded.pop()
    }

    /// Adds an address to the loaded magazine; false if there is no room.
    #[inline(always)]
    pub(crate) fn push(&mut self, address: u64) -> bool {
        if self.loaded.top == self.end {
            return false;
        }
        // SAFETY: `end` belongs to `loaded` and differs from its top: there is a
        // magazine, and it is not full. (`top` never passes `end`.)
        unsafe { self.loaded.push_unchecked(address) };
        true
    }

    /// Takes a fitting address from either magazine.
    pub(crate) fn pop_fitting(&mut self, fits: impl Fn(u64) -> bool) -> Option<u64> {
        self.loaded
            .pop_fitting(&fits)
            .or_else(|| self.previous.pop_fitting(fits))
    }

    /// Whether neither magazine has an address.
    pub(crate) fn is_empty(&self) -> bool {
        self.loaded.is_empty() && self.previous.is_empty()
    }

    /// Addresses in both.
    pub(crate) fn len(&self) -> usize {
        self.loaded.len() + self.previous.len()
    }

    /// Magazines there are.
    pub(crate) fn magazines(&self) -> usize {
        usize::from(self.loaded.exists()) + usize::from(self.previous.exists())
    }

    /// Whether there is a loaded magazine at all.
    pub(crate) fn has_loaded(&self) -> bool {
        self.loaded.exists()
    }

    /// Exchanges the two.
    pub(crate) fn swap(&mut self) {
        core::mem::swap(&mut self.loaded, &mut self.previous);
        self.end = self.loaded.end();
    }

    /// Whether the previous magazine exists and has room.
    pub(crate) fn previous_has_room(&self) -> bool {
        !self.previous.has_no_room()
    }

    /// Whether the previous magazine has an address.
    pub(crate) fn previous_has_some(&self) -> bool {
        !self.previous.is_empty()
    }

    /// Loads `magazine`; the loaded one becomes the previous one, which is
    /// returned.
    pub(crate) fn load(&mut self, magazine: Magazine) -> Magazine {
        let loaded = core::mem::replace(&mut self.loaded, magazine);
        self.end = self.loaded.end();
        core::mem::replace(&mut self.previous, loaded)
    }

    /// Takes both magazines away.
    pub(crate) fn unload(&mut self) -> [Magazine; 2] {
        self.end = null_mut();
        [
            core::mem::replace(&mut self.loaded, Magazine::NONE),
            core::mem::replace(&mut self.previous, Magazine::NONE),
        ]
    }
}

/// A stack of magazines that are all full or all empty, linked through
/// themselves.
#[derive(Debug)]
pub(crate) struct List {
    head: *mut Memory,
    len: usize,
    /// Addresses in each.
    each: usize,
}

// SAFETY: the list owns the memory.
unsafe impl Send for List {}

impl List {
    /// A list for full magazines.
    pub(crate) const fn of_full() -> Self {
        List {
            head: null_mut(),
            len: 0,
            each: CAPACITY,
        }
    }

    /// A list for empty magazines.
    pub(crate) const fn of_empty() -> Self {
        List {
            head: null_mut(),
            len: 0,
            each: 0,
        }
    }

    /// Magazines in the list.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a magazine, which exists and is as full as the list demands.
    pub(crate) fn push(&mut self, magazine: Magazine) {
        debug_assert!(magazine.exists() && magazine.len() == self.each);
        let memory = magazine.memory();
        #[cfg(loom)]
        magazine.check_race();
        core::mem::forget(magazine);
        // SAFETY: the magazine exists, and its memory is the list's now.
        unsafe { (*memory).next = self.head };
        self.head = memory;
        self.len += 1;
    }

    /// Takes a magazine.
    pub(crate) fn pop(&mut self) -> Option<Magazine> {
        if self.head.is_null() {
            return None;
        }
        let memory = self.head;
        // SAFETY: the head is a magazine the list owns.
        self.head = unsafe { (*memory).next };
        self.len -= 1;
        // SAFETY: `each` is `CAPACITY` at most, so this stays in the memory.
        let top = unsafe { memory.cast::<u64>().add(self.each) };
        let magazine = Magazine { top };
        #[cfg(loom)]
        magazine.check_race();
        Some(magazine)
    }
}

impl Drop for List {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_magazine_is_a_stack_that_knows_its_ends() {
        let mut none = Magazine::NONE;
        assert!(none.is_empty() && none.has_no_room() && none.pop().is_none() && !none.push(1));
        let mut magazine = Magazine::allocate().unwrap();
        for i in 0..CAPACITY as u64 {
            assert!(magazine.push(i));
        }
        assert!(magazine.has_no_room() && !magazine.push(9));
        assert_eq!(magazine.pop_fitting(|address| address < 5), Some(4));
        assert_eq!(magazine.pop_fitting(|address| address > 1000), None);
        let mut rest: alloc::vec::Vec<u64> = core::iter::from_fn(|| magazine.pop()).collect();
        rest.sort_unstable();
        assert!(
            rest.iter()
                .copied()
                .eq((0..CAPACITY as u64).filter(|&i| i != 4))
        );
    }

    #[test]
    fn a_pair_without_magazines_refuses_both_ways() {
        let mut pair = Pair::default();
        assert_eq!(pair.pop(), None);
        assert!(!pair.push(1));
        assert!(!pair.load(Magazine::allocate().unwrap()).exists());
        assert!(pair.push(1));
        assert!(!pair.load(Magazine::allocate().unwrap()).exists());
        assert!(pair.previous_has_some() && pair.len() == 1);
        pair.swap();
        assert_eq!(pair.pop(), Some(1));
    }

    #[test]
    fn a_list_hands_magazines_back_as_full_as_they_came() {
        let mut list = List::of_full();
        let mut magazine = Magazine::allocate().unwrap();
        while magazine.push(7) {}
        list.push(magazine);
        assert_eq!(list.len(), 1);
        assert_eq!(list.pop().unwrap().len(), CAPACITY);
        assert!(list.pop().is_none());
        let mut empty = List::of_empty();
        empty.push(Magazine::allocate().unwrap());
        assert!(empty.pop().unwrap().is_empty());
    }
}
