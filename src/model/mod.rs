//! Where modelled figures come from: hardware profiles, the storage device, and
//! what of the time between two requests the device can fill. Nothing here is
//! measured by this tool; every number carries its source.

mod builtin;
mod device;
mod overlap;
mod profile;
mod throughput;

pub use builtin::{DEFAULT_PROFILE, all as built_in, default_profile, named};
pub use device::StorageDevice;
pub use overlap::{Waits, waits};
pub use profile::HardwareProfile;
pub use throughput::{RequestTime, modelled_mb_per_s};
