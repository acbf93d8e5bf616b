//! ARM LPAE (VMSAv8-64) page tables for IOMMUs: whole-range, all-or-nothing, lock-free on disjoint ranges.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;
