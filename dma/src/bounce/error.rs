//! What bouncing refuses.

use core::fmt;

use dmabench_iova as iova;
use dmabench_platform::{MemoryError, PhysAddr};

use crate::MapError;

/// Why nothing was mapped. Everything is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BounceError {
    /// The list, or the addresses or tables of the part that is not bounced.
    Map(MapError),
    /// No slots of this length are free.
    PoolExhausted {
        /// What the request needs, in bytes.
        needed_bytes: u64,
    },
    /// The device cannot address the whole pool.
    BeyondMask,
    /// The device is coherent and the pool's mapping is not, or the other way.
    OtherCoherence,
    /// The data was not copied into the slots.
    Memory(MemoryError),
    /// A `close` has begun: the device has lost the pool.
    Closing,
}

impl fmt::Display for BounceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BounceError::Map(error) => error.fmt(f),
            BounceError::PoolExhausted { needed_bytes } => write!(
                f,
                "no {needed_bytes} bytes of the bounce pool are free together: unmap something, or give a larger pool"
            ),
            BounceError::BeyondMask => f.write_str(
                "the device cannot address the bounce pool: make the domain with the smallest mask of its devices",
            ),
            BounceError::OtherCoherence => f.write_str(
                "the pool is mapped for devices that are coherent, or for those that are not: give the others a domain of their own",
            ),
            BounceError::Memory(error) => error.fmt(f),
            BounceError::Closing => {
                f.write_str("the domain is being closed, and its pool is gone: close it again")
            }
        }
    }
}

impl core::error::Error for BounceError {}

impl From<MapError> for BounceError {
    fn from(error: MapError) -> Self {
        BounceError::Map(error)
    }
}

/// Why no domain with bouncing was made.
#[must_use = "the domain is in it"]
pub struct BounceSetupError<D> {
    /// The domain, as it was.
    pub domain: D,
    /// Why.
    pub reason: BounceSetupReason,
}

/// What is wrong with a domain or a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BounceSetupReason {
    /// The domain is not strict: bouncing is for devices that must lose what
    /// they are not given (U1).
    NotStrict,
    /// The pool is empty, does not consist of whole granules, or ends beyond 64
    /// bits.
    Pool {
        /// First byte.
        phys: PhysAddr,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The pool was not mapped.
    Map(MapError),
    /// The slots cannot be numbered.
    Slots(iova::ConfigError),
}

impl fmt::Display for BounceSetupReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BounceSetupReason::NotStrict => {
                f.write_str("bouncing needs a domain in a strict mode: make one")
            }
            BounceSetupReason::Pool { phys, len_bytes } => write!(
                f,
                "a bounce pool of {len_bytes} bytes at {phys}: give whole granules of memory"
            ),
            BounceSetupReason::Map(error) => error.fmt(f),
            BounceSetupReason::Slots(error) => error.fmt(f),
        }
    }
}

impl<D> fmt::Debug for BounceSetupError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BounceSetupError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Display for BounceSetupError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<D> core::error::Error for BounceSetupError<D> {}
