//! IOVA allocator: free-space index, magazine caches, ownership in the types.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;
