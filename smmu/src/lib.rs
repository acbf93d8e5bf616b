//! SMMUv3: formats, driver, and a hostile software SMMU with simulated devices.
//!
//! * [`format`]: commands, tables, events and registers, and what makes them illegal.
//! * [`queue`]: the command queue, many producers without a lock, and the event queue.
//! * [`driver`]: attaches streams, invalidates, reports faults.
//! * [`soft`]: the software SMMU. What it allows, hardware may allow.
//! * `qemu` (feature of that name, Linux): QEMU's SMMU, with SD cards behind it.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod driver;
pub mod format;
mod host;
#[cfg(all(feature = "qemu", target_os = "linux", not(any(loom, shuttle))))]
pub mod qemu;
pub mod queue;
#[cfg(not(any(loom, shuttle)))]
pub mod soft;

pub use host::SmmuHost;
