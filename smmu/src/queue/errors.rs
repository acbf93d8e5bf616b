//! What can go wrong with a queue, and the register that says so.

use core::fmt;

use dmabench_flushq::BackendError;
use dmabench_platform::{
    PhysAddr, Timeout,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{SmmuHost, format::registers};

/// Why a queue cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueSetupError {
    /// More entries than the SMMU (or the architecture: `2^19`) allows.
    Size {
        /// Base-2 logarithm that was asked for.
        lg2: u32,
        /// The largest.
        max: u32,
    },
    /// No memory for it.
    NoMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The memory is not aligned to the queue's size, or beyond 52 bits.
    Base {
        /// Where it is.
        base: PhysAddr,
    },
}

impl fmt::Display for QueueSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueSetupError::Size { lg2, max } => {
                write!(f, "a queue of 2^{lg2} entries: choose at most 2^{max}")
            }
            QueueSetupError::NoMemory { bytes } => {
                write!(
                    f,
                    "no memory for a queue of {bytes} bytes; choose fewer entries"
                )
            }
            QueueSetupError::Base { base } => write!(
                f,
                "queue memory at {base} is not aligned to its size or beyond 52 bits"
            ),
        }
    }
}

impl core::error::Error for QueueSetupError {}

/// Why a queue stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The consumer index went backwards, past what was reserved, or to an
    /// inconsistent wrap bit (3.5.1).
    Corrupt {
        /// `CMDQ_CONS`.
        cons: u32,
    },
    /// The same error at the same command, again and again.
    Repeated {
        /// `CMDQ_CONS.ERR`.
        code: u8,
    },
    /// An error code that is reserved, or none at all.
    UnknownError {
        /// `CMDQ_CONS.ERR`.
        code: u8,
    },
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Corrupt { cons } => {
                write!(
                    f,
                    "the consumer index {cons:#x} is impossible; reset the SMMU"
                )
            }
            StopReason::Repeated { code } => {
                write!(f, "error {code} repeats at one command; reset the SMMU")
            }
            StopReason::UnknownError { code } => {
                write!(f, "error code {code:#x} is not known; reset the SMMU")
            }
        }
    }
}

/// Why commands were not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// No room came free in time.
    Full {
        /// The time that was granted.
        after: Timeout,
    },
    /// The queue has stopped.
    Stopped(StopReason),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueError::Full { after } => write!(
                f,
                "the command queue stayed full for {} ns; try again once the SMMU runs",
                after.0
            ),
            QueueError::Stopped(reason) => reason.fmt(f),
        }
    }
}

impl core::error::Error for QueueError {}

impl From<QueueError> for BackendError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full { .. } => BackendError::QueueFull,
            QueueError::Stopped(_) => BackendError::Stopped,
        }
    }
}

/// Why a sync is not known to have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// Not in time. It may complete yet.
    TimedOut {
        /// The time that was granted.
        after: Timeout,
    },
    /// Commands around it were lost: begin again from the invalidation.
    Lost {
        /// `CMDQ_CONS.ERR` of the last error.
        code: u8,
    },
    /// The queue has stopped.
    Stopped(StopReason),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::TimedOut { after } => {
                write!(
                    f,
                    "a sync was not complete after {} ns; wait again",
                    after.0
                )
            }
            WaitError::Lost { code } => write!(
                f,
                "the SMMU dropped commands (error {code}); invalidate and sync again"
            ),
            WaitError::Stopped(reason) => reason.fmt(f),
        }
    }
}

impl core::error::Error for WaitError {}

/// `GERROR` and `GERRORN` of one SMMU: errors are toggles, and whoever handles
/// one toggles it back (7.5). Shared by the queues and the driver.
#[derive(Debug)]
pub struct GlobalErrors {
    /// What `GERRORN` holds; written under `acknowledging` only.
    acknowledged: AtomicU32,
    acknowledging: Mutex<()>,
}

impl GlobalErrors {
    /// Takes over the state of the registers: what is active stays active.
    pub fn new<H: SmmuHost>(host: &H) -> Self {
        GlobalErrors {
            acknowledged: AtomicU32::new(host.read32(registers::GERRORN)),
            acknowledging: Mutex::new(()),
        }
    }

    /// The errors that are active, as bits of `GERROR`.
    #[inline]
    pub fn active<H: SmmuHost>(&self, host: &H) -> u32 {
        // The two are not read at one moment, so the answer may be stale in either
        // direction; whoever acts on it looks again under a lock.
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        (host.read32(registers::GERROR) ^ acknowledged) & registers::GERROR_ALL
    }

    /// Acknowledges those of `bits` that are active. Returns them.
    pub fn acknowledge<H: SmmuHost>(&self, host: &H, bits: u32) -> u32 {
        let _one_at_a_time = self.acknowledging.lock();
        let active = self.active(host) & bits;
        if active != 0 {
            let value = self.acknowledged.load(Ordering::Relaxed) ^ active;
            self.acknowledged.store(value, Ordering::Release);
            // What the handler repaired is visible before the SMMU goes on.
            host.publish();
            host.write32(registers::GERRORN, value);
        }
        active
    }
}
