//! IOVA allocator: free-space index, magazine caches, ownership in the types.
//!
//! # Protocol
//!
//! * An [`IovaDomain`] is one I/O address space. Every method takes `&self` and
//!   may run on any number of threads at once.
//! * [`alloc`](IovaDomain::alloc) returns an [`IovaRange`], the only thing that
//!   can give the addresses back; [`free`](IovaDomain::free) consumes it.
//!   A range may be freed on another thread than it was allocated on.
//! * A domain never looks at what the addresses are used for: whoever frees a
//!   range has made sure that no device reaches it any more (invariant A1).
//! * Methods that take a [`SlotGuard`](dmabench_platform::SlotGuard) run inside
//!   the caller's section. Methods without one (`reserve`, `stats`, `trim`) look
//!   into all slots and wait for their sections: call them with no guard alive.
//!
//! ```
//! use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain};
//! use dmabench_platform::{Fences, Granule, Iova, SlotSource, Slots, ThreadSlots};
//! use std::sync::Arc;
//!
//! let slots = Arc::new(Slots::new(4, Fences::detect())?);
//! let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova((1 << 48) - 1));
//! let domain = IovaDomain::new(config, slots.clone())?;
//!
//! let pin = ThreadSlots.pin();
//! let mut slot = slots.enter_pinned(&pin)?;
//! let range = domain.alloc(&mut slot, 16, &AllocRequest::below(Iova(u32::MAX.into())))?;
//! assert_eq!(range.len_bytes(), 64 << 10);
//! assert!(range.last() <= Iova(u32::MAX.into()));
//! domain.free(&mut slot, range)?;
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod cache;
mod config;
mod depot;
mod domain;
mod error;
mod index;
mod live;
#[cfg(all(test, loom))]
mod loom_tests;
mod magazine;
mod number;
mod range;
mod raw;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod split;
mod trim;

pub use config::{Align, AllocRequest, CachedSizes, IovaConfig, Policy};
pub use domain::{IovaDomain, IovaStats};
pub use error::{
    AllocError, ConfigError, FreeError, IntoRawError, IntoRawReason, RawError, ReserveError,
};
pub use range::IovaRange;
