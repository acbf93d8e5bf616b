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
//!
//! # Without `std`
//!
//! With `default-features = false` the crate needs `alloc` only. What the example
//! above takes from the operating system the embedder brings, each part behind a
//! trait whose `# Safety` is the list of duties:
//!
//! | part | with `std` | a kernel or hypervisor |
//! |---|---|---|
//! | order between CPUs | [`Fences::detect`](platform::Fences::detect) | [`Fences::custom`](platform::Fences::custom) with an interrupt to every CPU; `Symmetric` is correct everywhere, and slower |
//! | who calls | `ThreadSlots` | [`SlotSource`](platform::SlotSource): the CPU's number, preemption off; [`OneCpu`](platform::OneCpu) |
//! | memory of tables | [`HeapTables`](pgtable::HeapTables), whose "physical" addresses are the program's | [`TableMemory`](pgtable::TableMemory) over page frames |
//! | the IOMMU | [`CountingBackend`](flushq::CountingBackend), which only counts | [`TlbBackend`](flushq::TlbBackend) (its documentation has a whole one); the crate `dmabench-smmu` has one for SMMUv3 |
//! | time | [`MonotonicClock`](platform::MonotonicClock) | any count of nanoseconds, given to [`Domain::poll`] |
//!
//! [`Domain::with_parts`] takes them, [`Domain::with_context`] where the IOMMU has to
//! be told of the tables first ([`Registers`](pgtable::Registers) says what). The crates
//! below are re-exported, so that one dependency is enough:
//!
//! ```
//! use dmabench_dma::{
//!     Domain, DomainConfig, Mode,
//!     flushq::CountingBackend,
//!     pgtable::{HeapTables, S1K4},
//!     platform::{Fences, OneCpu, Slots, sync::Arc},
//! };
//!
//! type MyDomain = Domain<CountingBackend, OneCpu, S1K4, HeapTables>;
//!
//! let slots = Arc::new(Slots::new(1, Fences::Symmetric)?);
//! let backend = CountingBackend::new(&slots);
//! // SAFETY: one thread uses these slots, and no interrupt handler does.
//! let source = unsafe { OneCpu::new() };
//! let config = DomainConfig::new(Mode::lazy());
//! let domain = MyDomain::with_parts(config, slots, source, HeapTables, backend, ())?;
//! assert_eq!(domain.next_deadline(), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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

/// Invalidation: backends and flush queues.
pub use dmabench_flushq as flushq;
/// Addresses: which are in use.
pub use dmabench_iova as iova;
/// Translation tables.
pub use dmabench_pgtable as pgtable;
/// What the surroundings provide: slots, fences, clocks.
pub use dmabench_platform as platform;

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
