//! Where modelled figures come from: hardware profiles, the storage device, and
//! what of the time between two requests the device can fill. Nothing here is
//! measured by this tool; every number carries its source.

mod board;
mod builtin;
pub mod check;
pub mod commands;
mod device;
mod fit;
mod overlap;
mod profile;
pub mod queue;
mod throughput;

pub use board::BoardError;
pub use builtin::{DEFAULT_PROFILE, all as built_in, default_profile, named};
pub use device::StorageDevice;
pub use fit::{FitError, FitInput, FitRow, Fitted, Residuals, fit};
pub use overlap::{Waits, maps, waits};
pub use profile::{HardwareProfile, MemoryCosts};
pub use throughput::{Load, RequestTime, modelled_mb_per_s};
