//! An SMMUv3 that nobody here wrote: QEMU's, with SD cards behind it.
//!
//! [`Qemu::start`] runs `qemu-system-aarch64` without guest code. Its RAM is this
//! process's memory too ([`GuestRam`]: page tables, queues, stream table,
//! descriptors and data are plain stores), its registers are reached over QEMU's
//! *qtest* protocol ([`Qtest`]), and [`QemuSmmu`] is the
//! [`SmmuHost`](crate::SmmuHost) that the [driver](crate::driver) programs, as it
//! would program hardware. [`SdHost`] drives an emulated SD host controller whose
//! ADMA2 engine reads its descriptors and moves its data through that SMMU, from
//! and to a card whose [image](CardImage) can be looked at from here.
//!
//! ```no_run
//! use dmabench_smmu::{driver::{Smmu, SmmuConfig}, qemu::{Qemu, QemuConfig}};
//!
//! let qemu = Qemu::start(QemuConfig::default())?;
//! let driver = Smmu::new(qemu.smmu(), qemu.ram().clone(), SmmuConfig::default())?;
//! let card = qemu.sd_host(0)?;
//! println!("QEMU {}, card on stream {:#x}", qemu.version(), card.stream_id());
//! // ... attach the stream, map, transfer ...
//! drop(driver); // before `qemu`, so that the SMMU is turned off and not merely gone
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Protocol
//!
//! * One QEMU is one process, killed and reaped when [`Qemu`] is dropped, and by
//!   the kernel when this process ends in any other way. It leaves no file: RAM,
//!   card images, trace and messages are anonymous memory.
//! * Registers take turns on one connection; a register access is complete when
//!   the call returns. QEMU executes the whole command queue inside the write of
//!   `CMDQ_PROD`, and moves an SD transfer's data inside accesses to the
//!   controller: with the virtual CPU stopped, as here, nothing happens in
//!   between, and every run is the same.
//! * When QEMU dies, answers nonsense or does not answer in time, it is killed:
//!   from then on no emulated device can reach the RAM, and every call says what
//!   happened ([`QemuError`]). [`QemuSmmu`], whose calls cannot fail, behaves like
//!   an SMMU that stands still, so that the driver's bounded waits end and nothing
//!   is released.
//!
//! # What it cannot show
//!
//! QEMU's SMMU caches 256 leaf translations and forgets all of them when it needs
//! one more; it caches no table pointers, and its invalidations ignore `TTL` and
//! `Leaf`. So it forgives wrong hints, which the [software SMMU](crate::soft)
//! does not. `CMD_SYNC` does not wait for transfers under way (an SD controller
//! has none). Times are those of an emulator.
//!
//! Facts about QEMU come from its documentation, from reading its sources and
//! from experiments with 7.2; no code of it is in here.

mod adma;
mod config;
mod error;
mod image;
mod instance;
mod link;
mod pci;
mod process;
mod ram;
mod registers;
mod sdhci;
mod shared;
mod trace;
mod transfer;
mod version;

pub use adma::{AdmaError, AdmaList, AdmaTable, AdmaWidth};
pub use config::QemuConfig;
pub use error::QemuError;
pub use image::CardImage;
pub use instance::Qemu;
pub use link::{Batch, Qtest};
pub use ram::{GuestRam, RamError};
pub use registers::QemuSmmu;
pub use sdhci::{BLOCK_BYTES, SdHost};
pub use trace::{TraceCounts, TracedEvent};
pub use transfer::TransferError;
pub use version::QemuVersion;
