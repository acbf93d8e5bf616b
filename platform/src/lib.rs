//! What the surroundings give to the dmabench core: addresses with units,
//! *slots* (who am I, and who else may look at what is mine), asymmetric
//! fences, locks, clocks, and the shim that lets loom and shuttle run the code
//! that ships.
//!
//! # Protocol
//!
//! * A [`Slots`] table has one slot per CPU (kernel) or thread (std), and one
//!   more, the *fallback*, which callers without a slot share under a lock.
//! * A request [enters](Slots::enter_pinned) its slot once and carries the
//!   [`SlotGuard`] through every layer. While the guard lives, nobody else
//!   touches what a [`PerSlot`] keeps for that slot: the owner reads and
//!   writes it without an atomic operation.
//! * Entering and leaving are plain stores and a compiler barrier. Whoever needs
//!   the slots of others pays instead: [`Slots::exclusive`] (drain a cache) and
//!   [`Slots::synchronize`] (wait until nobody is inside a section that began
//!   earlier) raise a flag, issue one [heavy fence](Fences) and wait.
//! * An owner that calls `exclusive` *pauses* its own section first. That takes
//!   `&mut SlotGuard`, so no reference into a [`PerSlot`] can survive the pause.
//!
//! # Features
//!
//! `std` (default): parking_lot locks, [`ThreadSlots`], `membarrier`,
//! `MonotonicClock`. Without it the crate is `no_std + alloc`.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod addr;
mod clock;
mod fence;
mod granule;
mod memory;
mod slot;
pub mod sync;

pub use addr::{Iova, PhysAddr};
#[cfg(feature = "std")]
pub use clock::MonotonicClock;
pub use clock::{Clock, TimeNs, Timeout, VirtualClock};
pub use crossbeam_utils::CachePadded;
pub use fence::Fences;
pub use granule::Granule;
pub use memory::{Block, BlockMemory, CpuMemory, HeapBlocks, MemoryError};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use slot::ThreadSlots;
pub use slot::{
    Exclusive, NoMemory, OneCpu, PerSlot, Pinned, Reentered, SlotGuard, SlotIndex, SlotMut,
    SlotSource, Slots, SlotsError,
};
