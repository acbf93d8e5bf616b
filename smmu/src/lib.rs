//! SMMUv3: formats, driver, and a hostile software SMMU with simulated devices.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;
