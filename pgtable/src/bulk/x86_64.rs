//! Pairs of entries by SSE2, fours by AVX2, in inline assembly.
//!
//! Why assembly and not intrinsics: an intrinsic is an ordinary access, and an
//! ordinary access beside another thread's atomic one is a data race. Assembly
//! may do what the machine can do. What the machine guarantees: an aligned 16- or
//! 32-byte access never tears inside an aligned 8-byte word (each word is one
//! unit of the cache's data path on every x86-64; Intel's and AMD's manuals state
//! it for the whole 16 bytes on CPUs with AVX), and stores keep their order.
//! So readers of one entry, a walker included, see each entry whole.

#[cfg(feature = "avx2")]
use super::avx2;
use super::sse2;
use dmabench_platform::sync::atomic::Ordering;

use crate::table::Table;

/// How many entries one access takes: two, or four where the CPU and the crate
/// feature `avx2` allow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    #[cfg(feature = "avx2")]
    four: bool,
}

/// Calls one of the functions over pairs that both instruction sets have.
macro_rules! widest {
    ($lanes:expr, $pairs:expr, $name:ident($($argument:expr),*)) => {{
        // From so many bytes on the wider loops are worth their set-up.
        #[cfg(feature = "avx2")]
        const FOUR_FROM_BYTES: usize = 128;
        let (lanes, pairs): (Lanes, Pairs) = ($lanes, $pairs);
        #[cfg(feature = "avx2")]
        if lanes.four && pairs.bytes >= FOUR_FROM_BYTES {
            avx2::$name(pairs, $($argument),*)
        } else {
            sse2::$name(pairs, $($argument),*)
        }
        #[cfg(not(feature = "avx2"))]
        {
            let Lanes {} = lanes;
            sse2::$name(pairs, $($argument),*)
        }
    }};
}

/// Entries of one table: whole pairs, at addresses that are multiples of 16
/// bytes, at least one of them.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    pub(super) start: *mut u64,
    /// A multiple of 16, and not 0.
    pub(super) bytes: usize,
}

impl Pairs {
    /// # Safety
    ///
    /// The entries lie in the table, and are an even run of at least two.
    #[inline(always)]
    unsafe fn of(table: Table, first: usize, count: usize) -> Self {
        debug_assert!((first | count) & 1 == 0 && count > 0);
        Pairs {
            // SAFETY: as promised.
            start: unsafe { table.entry_ptr(first) }.as_ptr(),
            bytes: count << 3,
        }
    }

    /// Behind the last.
    #[cfg(feature = "avx2")]
    #[inline(always)]
    pub(super) fn end(&self) -> *mut u64 {
        self.start.wrapping_byte_add(self.bytes)
    }
}

/// A run of entries, at least one, cut up.
struct Cut {
    table: Table,
    first: usize,
    /// The last entry.
    last: usize,
    /// Whether `first` is the second of its pair.
    head: bool,
    /// Bytes in whole pairs, maybe none.
    bytes: usize,
    /// Whether an entry is left behind the pairs.
    tail: bool,
}

impl Cut {
    #[inline(always)]
    fn new(table: Table, first: usize, count: usize) -> Self {
        let head = first & 1;
        let rest = count - head;
        Cut {
            table,
            first,
            last: first + count - 1,
            head: head == 1,
            bytes: (rest << 3) & !15,
            tail: rest & 1 == 1,
        }
    }

    /// # Safety
    ///
    /// The run lies in the table.
    #[inline(always)]
    unsafe fn pairs(&self) -> Option<Pairs> {
        if self.bytes == 0 {
            return None;
        }
        let start = self.first + usize::from(self.head);
        Some(Pairs {
            // SAFETY: the run has this entry.
            start: unsafe { self.table.entry_ptr(start) }.as_ptr(),
            bytes: self.bytes,
        })
    }
}

impl Lanes {
    /// What every x86-64 can do.
    pub(crate) const BASELINE: Lanes = Lanes {
        #[cfg(feature = "avx2")]
        four: false,
    };

    /// What this CPU can do.
    pub(crate) fn detect() -> Self {
        #[cfg(feature = "avx2")]
        return Lanes {
            four: super::cpu::has_avx2(),
        };
        #[cfg(not(feature = "avx2"))]
        Self::BASELINE
    }

    /// Whether `count` entries from `first` on are all zero.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn all_zero(self, table: Table, first: usize, count: usize) -> bool {
        let cut = Cut::new(table, first, count);
        let mut any = 0;
        if cut.head {
            // SAFETY: the caller promises that the run is in the table.
            any |= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        // SAFETY: as above.
        if let Some(pairs) = unsafe { cut.pairs() } {
            // SAFETY: pairs of the run; with `four` the CPU has AVX2.
            any |= unsafe { widest!(self, pairs, or()) };
        }
        if cut.tail {
            // SAFETY: the last entry of the run.
            any |= unsafe { table.entry(cut.last) }.load(Ordering::Relaxed);
        }
        any == 0
    }

    /// The bits that `count` entries from `first` on have in common.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn and_all(self, table: Table, first: usize, count: usize) -> u64 {
        let cut = Cut::new(table, first, count);
        let mut common = u64::MAX;
        if cut.head {
            // SAFETY: the caller promises that the run is in the table.
            common &= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        // SAFETY: as above.
        if let Some(pairs) = unsafe { cut.pairs() } {
            // SAFETY: pairs of the run; with `four` the CPU has AVX2.
            common &= unsafe { widest!(self, pairs, and()) };
        }
        if cut.tail {
            // SAFETY: the last entry of the run.
            common &= unsafe { table.entry(cut.last) }.load(Ordering::Relaxed);
        }
        common
    }

    /// The bits that all, and those that any of `count` entries from `first` on
    /// have.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn and_or_all(self, table: Table, first: usize, count: usize) -> (u64, u64) {
        let cut = Cut::new(table, first, count);
        let (mut common, mut any) = (u64::MAX, 0);
        let mut add = |all: u64, some: u64| {
            common &= all;
            any |= some;
        };
        if cut.head {
            // SAFETY: the caller promises that the run is in the table.
            let entry = unsafe { table.entry(first) }.load(Ordering::Relaxed);
            add(entry, entry);
        }
        // SAFETY: as above.
        if let Some(pairs) = unsafe { cut.pairs() } {
            // Runs of blocks are short: no loop over fours.
            // SAFETY: pairs of the run.
            let (all, some) = unsafe { sse2::and_or(pairs) };
            add(all, some);
        }
        if cut.tail {
            // SAFETY: the last entry of the run.
            let entry = unsafe { table.entry(cut.last) }.load(Ordering::Relaxed);
            add(entry, entry);
        }
        (common, any)
    }

    /// Stores `descriptor`, `descriptor + step`, ... into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn fill(
        self,
        table: Table,
        first: usize,
        count: usize,
        descriptor: u64,
        step: u64,
    ) {
        let cut = Cut::new(table, first, count);
        let mut value = descriptor;
        if cut.head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
        // SAFETY: as above.
        if let Some(pairs) = unsafe { cut.pairs() } {
            // SAFETY: pairs of the run; with `four` the CPU has AVX2.
            unsafe { widest!(self, pairs, fill(value, step)) };
        }
        if cut.tail {
            let value = descriptor.wrapping_add(step.wrapping_mul(count as u64 - 1));
            // SAFETY: the last entry of the run.
            unsafe { table.entry(cut.last) }.store(value, Ordering::Relaxed);
        }
    }

    /// Stores zero into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn clear(self, table: Table, first: usize, count: usize) {
        let cut = Cut::new(table, first, count);
        if cut.head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(0, Ordering::Relaxed);
        }
        // SAFETY: as above.
        if let Some(pairs) = unsafe { cut.pairs() } {
            // SAFETY: pairs of the run; with `four` the CPU has AVX2.
            unsafe { widest!(self, pairs, clear()) };
        }
        if cut.tail {
            // SAFETY: the last entry of the run.
            unsafe { table.entry(cut.last) }.store(0, Ordering::Relaxed);
        }
    }

    // The same for an even number of entries from an even one on, at least two:
    // pairs and nothing else.

    /// [`all_zero`](Self::all_zero) of an even run.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and are an even run of at least two.
    #[inline(always)]
    pub(crate) unsafe fn all_zero_even(self, table: Table, first: usize, count: usize) -> bool {
        // SAFETY: as promised.
        let pairs = unsafe { Pairs::of(table, first, count) };
        // SAFETY: pairs of the run; with `four` the CPU has AVX2.
        unsafe { widest!(self, pairs, or()) == 0 }
    }

    /// [`and_all`](Self::and_all) of an even run.
    ///
    /// # Safety
    ///
    /// As [`all_zero_even`](Self::all_zero_even).
    #[inline(always)]
    pub(crate) unsafe fn and_all_even(self, table: Table, first: usize, count: usize) -> u64 {
        // SAFETY: as promised.
        let pairs = unsafe { Pairs::of(table, first, count) };
        // SAFETY: pairs of the run; with `four` the CPU has AVX2.
        unsafe { widest!(self, pairs, and()) }
    }

    /// [`fill`](Self::fill) of an even run.
    ///
    /// # Safety
    ///
    /// As [`all_zero_even`](Self::all_zero_even).
    #[inline(always)]
    pub(crate) unsafe fn fill_even(
        self,
        table: Table,
        first: usize,
        count: usize,
        descriptor: u64,
        step: u64,
    ) {
        // SAFETY: as promised.
        let pairs = unsafe { Pairs::of(table, first, count) };
        // SAFETY: pairs of the run; with `four` the CPU has AVX2.
        unsafe { widest!(self, pairs, fill(descriptor, step)) };
    }

    /// [`clear`](Self::clear) of an even run.
    ///
    /// # Safety
    ///
    /// As [`all_zero_even`](Self::all_zero_even).
    #[inline(always)]
    pub(crate) unsafe fn clear_even(self, table: Table, first: usize, count: usize) {
        // SAFETY: as promised.
        let pairs = unsafe { Pairs::of(table, first, count) };
        // SAFETY: pairs of the run; with `four` the CPU has AVX2.
        unsafe { widest!(self, pairs, clear()) };
    }
}
