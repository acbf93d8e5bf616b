//! The DMA mapping layer to embed: domains, devices, mappings, scatter lists, strict and lazy unmapping.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;
