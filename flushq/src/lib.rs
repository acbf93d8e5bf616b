//! TLB invalidation: gather, pluggable backends, flush queues that release nothing early.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;
