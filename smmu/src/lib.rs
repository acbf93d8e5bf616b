//! SMMUv3: formats, driver, and a hostile software SMMU with simulated devices.
//!
//! * [`soft`]: the software SMMU. What it allows, hardware may allow.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

#[cfg(not(any(loom, shuttle)))]
pub mod soft;
