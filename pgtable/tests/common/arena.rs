//! Table memory at physical addresses of the test's choice, with bounds, a
//! count, and failures on demand.

use std::{
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::PhysAddr;

pub struct Arena {
    base: u64,
    words: Box<[AtomicU64]>,
    /// Offset of the first word that is aligned to 1 MiB of address.
    skew: usize,
    state: Mutex<State>,
    /// Allocations that still succeed; negative: all.
    budget: AtomicI64,
    pub cleaned: AtomicU64,
    pub clean_calls: AtomicU64,
}

#[derive(Default)]
struct State {
    next: u64,
    free: BTreeMap<usize, Vec<u64>>,
    live: BTreeMap<u64, usize>,
}

const ALIGN: usize = 1 << 20;

impl Arena {
    /// `bytes` of memory that the walker sees from `base` on (aligned to 1 MiB).
    pub fn new(base: u64, bytes: usize) -> Self {
        assert_eq!(base % ALIGN as u64, 0);
        // Zeroed by the system where it is touched: a fuzzer makes thousands.
        let zeroed = Box::into_raw(vec![0_u64; (bytes + ALIGN) / 8].into_boxed_slice());
        // SAFETY: `AtomicU64` has the layout of `u64`, and the box is ours.
        let words = unsafe { Box::from_raw(zeroed as *mut [AtomicU64]) };
        let skew = (words.as_ptr() as usize).wrapping_neg() % ALIGN / 8;
        Arena {
            base,
            words,
            skew,
            state: Mutex::default(),
            budget: AtomicI64::new(-1),
            cleaned: AtomicU64::new(0),
            clean_calls: AtomicU64::new(0),
        }
    }

    fn len(&self) -> u64 {
        ((self.words.len() - self.skew) * 8) as u64
    }

    /// The next `count` allocations succeed, then none does. `None`: all do.
    pub fn set_budget(&self, count: Option<i64>) {
        self.budget.store(count.unwrap_or(-1), Ordering::Relaxed);
    }

    pub fn live_tables(&self) -> usize {
        self.state.lock().unwrap().live.len()
    }

    /// A word of a live table, or `None`.
    pub fn read(&self, phys: PhysAddr) -> Option<u64> {
        let state = self.state.lock().unwrap();
        let (start, bytes) = state.live.range(..=phys.0).next_back()?;
        if phys.0 - start >= *bytes as u64 {
            return None;
        }
        drop(state);
        Some(self.word(phys).load(Ordering::Relaxed))
    }

    pub fn word(&self, phys: PhysAddr) -> &AtomicU64 {
        &self.words[self.skew + ((phys.0 - self.base) / 8) as usize]
    }

    /// From the whole slice, so that the pointer reaches the whole table.
    fn pointer(&self, phys: PhysAddr) -> NonNull<u64> {
        let at = self.skew + ((phys.0 - self.base) / 8) as usize;
        let rest = &self.words[at..];
        assert!(!rest.is_empty());
        NonNull::from(rest).cast()
    }

    /// Words there are, used or not.
    pub fn table_words(&self) -> usize {
        (self.state.lock().unwrap().next / 8) as usize
    }

    /// A word by its number.
    pub fn word_at(&self, index: usize) -> &AtomicU64 {
        &self.words[self.skew + index]
    }

    /// Forgets where free tables lie, so that what comes next finds the arena as if
    /// it were new. No table is live.
    pub fn reset(&self) {
        let mut state = self.state.lock().unwrap();
        assert!(state.live.is_empty());
        *state = State::default();
        self.set_budget(None);
    }

    /// So many words from `phys` on.
    ///
    /// # Safety
    ///
    /// Nobody writes to them while they are borrowed.
    pub unsafe fn words_of(&self, phys: PhysAddr, count: usize) -> &[u64] {
        let first = self.skew + ((phys.0 - self.base) / 8) as usize;
        let words = &raw const self.words[first..first + count];
        // SAFETY: `AtomicU64` has the layout of `u64`, and nobody writes, as the
        // caller promises. Plain loads go through the words several at a time.
        unsafe { &*(words as *const [u64]) }
    }

    /// The bits beyond `defined` that some valid descriptor of a live table has.
    ///
    /// # Safety
    ///
    /// Nobody writes to the tables meanwhile.
    pub unsafe fn undefined_bits(&self, defined: u64) -> u64 {
        let state = self.state.lock().unwrap();
        let mut odd = 0;
        for (start, bytes) in &state.live {
            // SAFETY: the caller's promise.
            let words = unsafe { self.words_of(PhysAddr(*start), bytes / 8) };
            for word in words {
                // All ones if the word is valid.
                odd |= word & !defined & (word & 1).wrapping_neg();
            }
        }
        odd
    }

    /// Sets all bytes of a table that nobody else has.
    ///
    /// # Safety
    ///
    /// The table is in the arena and nobody else uses it.
    unsafe fn fill(&self, phys: u64, size_bytes: usize, byte: u8) {
        let first = self.skew + ((phys - self.base) / 8) as usize;
        let words = &self.words[first..first + size_bytes / 8];
        // SAFETY: the words are this table's alone, and atomics may be written to
        // through a shared reference.
        unsafe { (words.as_ptr() as *mut u64).write_bytes(byte, words.len()) };
    }
}

// SAFETY: each range is in `live` once from `alloc` to `free`; words are atomics
// of a box that does not move; zeroed on allocation; the lock is not poisoned
// because nothing under it panics except on a caller's bug.
unsafe impl TableMemory for Arena {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        if self.budget.load(Ordering::Relaxed) >= 0
            && self.budget.fetch_sub(1, Ordering::Relaxed) <= 0
        {
            self.budget.store(0, Ordering::Relaxed);
            return None;
        }
        let mut state = self.state.lock().unwrap();
        let at = match state.free.get_mut(&size_bytes).and_then(Vec::pop) {
            Some(at) => at,
            None => {
                let at = state.next.next_multiple_of(size_bytes as u64);
                if at + size_bytes as u64 > self.len() {
                    return None;
                }
                state.next = at + size_bytes as u64;
                self.base + at
            }
        };
        state.live.insert(at, size_bytes);
        // SAFETY: it has just become live, and the caller has not got it yet.
        unsafe { self.fill(at, size_bytes, 0) };
        Some(TableRef {
            ptr: self.pointer(PhysAddr(at)),
            phys: PhysAddr(at),
        })
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        let mut state = self.state.lock().unwrap();
        let removed = state.live.remove(&table.phys.0);
        assert_eq!(removed, Some(size_bytes), "freed what was not allocated");
        state.free.entry(size_bytes).or_default().push(table.phys.0);
        // A walker that still comes here sees garbage that is not zero: no table, and
        // a bit that no descriptor has.
        // SAFETY: the caller gave it up, and nobody has it yet.
        unsafe { self.fill(table.phys.0, size_bytes, 0xda) };
    }

    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        self.pointer(phys)
    }

    fn clean(&self, _first: NonNull<u64>, entries: usize) {
        self.cleaned.fetch_add(entries as u64, Ordering::Relaxed);
        self.clean_calls.fetch_add(1, Ordering::Relaxed);
    }
}
