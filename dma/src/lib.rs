//! The DMA mapping layer to embed: domains, devices, mappings, scatter lists,
//! strict and lazy unmapping.
//!
//! ```
//! use dmabench_dma::{Device, Direction, Domain, DomainConfig, Mode, Segment};
//! use dmabench_flushq::CountingBackend;
//! use dmabench_platform::{Fences, PhysAddr, Slots};
//! use std::sync::Arc;
//!
//! // Who calls: threads, 8 of them with a slot of their own.
//! let slots = Arc::new(Slots::new(8, Fences::detect())?);
//! // The hardware's side; yours implements `TlbBackend`.
//! let backend = CountingBackend::new(&slots);
//! let domain = Domain::new(DomainConfig::new(Mode::Strict), slots, backend, ())?;
//!
//! let card = Device::new().mask_bits(32)?;
//! let buffer = Segment { phys: PhysAddr(0x8_0000_0200), len_bytes: 512 };
//! let mapping = domain.map(&card, buffer, Direction::FromDevice)?;
//! // ... tell the device `mapping.addr()`, wait until it is done ...
//! assert_eq!(domain.translate(mapping.addr()).unwrap().paddr, buffer.phys);
//! domain.unmap(mapping)?;
//! // From here on the device cannot reach the buffer.
//! assert_eq!(domain.backend().counts().syncs, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Protocol
//!
//! * A [`Domain`] is one I/O address space. Each request takes the caller's slot
//!   once and passes it down: addresses from `iova`, entries in `pgtable`, what
//!   an unmap leaves in `flushq`.
//! * [`Domain::map`] returns a [`Mapping`], the only thing that can unmap. It
//!   may go to another thread.
//! * **Addresses and tables are released only after the invalidation that
//!   covers them has completed**, in every [`Mode`]; `flushq`'s types hold them
//!   back. The *buffer* is the caller's again when [`Domain::unmap`] returns
//!   `Ok`: in strict mode after the invalidation, in lazy mode before it. That
//!   window, and nothing else, is what lazy mode exposes.
//! * When the hardware is late or fails, nothing is released (A11): the error
//!   holds what is left of the mapping, to [try again](Domain::finish).
//! * Which devices may be lazy is decided by [`policy`], before a driver binds.
//! * The caller brings the time: [`Domain::poll`], [`Domain::next_deadline`].
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The errors are large because they hand back what must not be lost; boxing it
// would allocate on a failing path.
#![allow(clippy::result_large_err)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod batch;
pub mod bounce;
mod caches;
mod coherent;
mod config;
mod device;
mod domain;
mod error;
mod held;
mod link;
mod map;
mod mapping;
mod merge;
mod parked;
mod pipeline;
pub mod policy;
pub mod premapped;
mod queues;
mod reclaim;
mod stats;
mod switch;
mod sync;
mod unmap;
mod window;

pub use batch::{Batch, BatchError, BatchTooLarge};
pub use caches::{CacheOps, NoCacheOps};
pub use coherent::{Coherent, CoherentError, OutsideBlock};
pub use config::{ContextError, DomainConfig, DomainError, Mode};
pub use device::{Device, DeviceError, Direction, DmaSegment, Segment};
pub use domain::{DefaultSource, Domain};
pub use error::{
    CloseError, CloseReason, FlushError, MapError, SwitchError, Unfinished, UnmapError,
};
pub use held::{NotUnmapped, NotUnmappedReason};
pub use link::{LinkAllError, LinkError, Linking, NotLinked};
pub use mapping::Mapping;
pub use parked::{Parcel, ParkError, Parkable};
pub use pipeline::Pending;
pub use stats::DomainStats;
pub use sync::{ListMapping, SyncError};
pub use window::Window;
