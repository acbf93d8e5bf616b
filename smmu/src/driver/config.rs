//! How a driver is made, and why it may not be.

use core::fmt;

use dmabench_platform::Timeout;

use super::Errata;
use crate::{
    format::{CdIllegal, SteIllegal},
    queue::{QueueConfig, QueueError, QueueSetupError, WaitError},
};

/// The shape of the stream table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamTableKind {
    /// Two levels where the SMMU has them and the streams are many, else linear.
    Auto,
    /// One entry of 64 bytes for each stream.
    Linear,
    /// Two levels; a second-level table has `2^split` entries, `split` being 6, 8
    /// or 10.
    TwoLevel {
        /// `STRTAB_BASE_CFG.SPLIT`.
        split: u32,
    },
}

/// How a [`Smmu`](super::Smmu) is set up.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SmmuConfig {
    /// The command queue.
    pub command_queue: QueueConfig,
    /// Base-2 logarithm of the event queue's entries. Default: 7.
    pub event_queue_lg2: u32,
    /// Bits of the stream IDs in use; what is beyond does not exist. Default:
    /// 16, or what the SMMU has, if that is less.
    pub stream_bits: u32,
    /// The shape of the stream table.
    pub stream_table: StreamTableKind,
    /// Bound for register handshakes, configuration syncs and the invalidation
    /// of a context that goes away. Default: one second.
    pub timeout: Timeout,
    /// Faults to work around. `None` (default): those that `IIDR` names.
    pub errata: Option<Errata>,
    /// Whether the SMMU raises interrupts for events and global errors.
    pub interrupts: bool,
}

impl Default for SmmuConfig {
    fn default() -> Self {
        SmmuConfig {
            command_queue: QueueConfig::default(),
            event_queue_lg2: 7,
            stream_bits: 16,
            stream_table: StreamTableKind::Auto,
            timeout: Timeout::DEFAULT,
            errata: None,
            interrupts: false,
        }
    }
}

impl SmmuConfig {
    /// With another command queue.
    pub fn with_command_queue(mut self, config: QueueConfig) -> Self {
        self.command_queue = config;
        self
    }

    /// With `2^lg2` events.
    pub fn with_event_queue_lg2(mut self, lg2: u32) -> Self {
        self.event_queue_lg2 = lg2;
        self
    }

    /// With stream IDs of `bits` bits in a table of this shape.
    pub fn with_streams(mut self, bits: u32, table: StreamTableKind) -> Self {
        self.stream_bits = bits;
        self.stream_table = table;
        self
    }

    /// With another bound for its own waits.
    pub fn with_timeout(mut self, timeout: Timeout) -> Self {
        self.timeout = timeout;
        self
    }

    /// With these faults to work around, whatever `IIDR` says.
    pub fn with_errata(mut self, errata: Errata) -> Self {
        self.errata = Some(errata);
        self
    }
}

/// Why an SMMU cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The SMMU lacks something without which it is of no use here: VMSAv8-64
    /// tables, or any stage; or its tables or queues are preset, or it can read
    /// big-endian tables only.
    NotUsable,
    /// A queue could not be made.
    Queue(QueueSetupError),
    /// The stream table cannot have this shape: a split other than 6, 8, 10; two
    /// levels on an SMMU without; more bits than the SMMU has, or a linear table
    /// of more than 20 bits.
    StreamTable,
    /// No memory for the stream table.
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A register handshake (`CR0ACK`) did not end in time.
    NoAnswer {
        /// Offset of the register that was written.
        register: u32,
    },
    /// The first commands did not complete.
    Commands(QueueError),
    /// Nor did the sync behind them.
    Sync(WaitError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::NotUsable => f.write_str(
                "the SMMU has no VMSAv8-64 little-endian translation or its tables are preset",
            ),
            SetupError::Queue(error) => error.fmt(f),
            SetupError::StreamTable => f.write_str(
                "the stream table's shape does not fit the SMMU; use StreamTableKind::Auto",
            ),
            SetupError::NoMemory { bytes } => {
                write!(
                    f,
                    "no memory for a stream table of {bytes} bytes; use fewer bits"
                )
            }
            SetupError::NoAnswer { register } => {
                write!(f, "the SMMU did not acknowledge register {register:#x}")
            }
            SetupError::Commands(error) => error.fmt(f),
            SetupError::Sync(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetupError {}

impl From<QueueSetupError> for SetupError {
    fn from(error: QueueSetupError) -> Self {
        SetupError::Queue(error)
    }
}

/// Why a translation context cannot be made or destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContextError {
    /// No ASID or VMID is free.
    NoId,
    /// No memory for a context descriptor.
    NoMemory,
    /// The SMMU would refuse the context descriptor.
    BadCd(CdIllegal),
    /// The SMMU would refuse the stream table entry.
    BadSte(SteIllegal),
    /// No such context on this SMMU, or it was destroyed.
    Unknown,
    /// Streams are attached.
    InUse {
        /// How many.
        streams: usize,
    },
    /// Its translations could not be invalidated; its number and memory stay
    /// taken (A11). Destroy it again later.
    NotInvalidated(WaitError),
    /// As `NotInvalidated`: the commands could not be queued.
    Queue(QueueError),
}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContextError::NoId => f.write_str("every ASID or VMID is taken; destroy a context"),
            ContextError::NoMemory => f.write_str("no memory for a context descriptor"),
            ContextError::BadCd(illegal) => write!(f, "context descriptor: {illegal}"),
            ContextError::BadSte(illegal) => write!(f, "stream table entry: {illegal}"),
            ContextError::Unknown => f.write_str("no such context on this SMMU"),
            ContextError::InUse { streams } => {
                write!(f, "{streams} streams are attached; detach them first")
            }
            ContextError::NotInvalidated(error) => {
                write!(f, "the context stays until it can be invalidated: {error}")
            }
            ContextError::Queue(error) => {
                write!(f, "the context stays until it can be invalidated: {error}")
            }
        }
    }
}

impl core::error::Error for ContextError {}

/// Why a stream was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The stream ID is beyond the table.
    StreamId {
        /// The stream.
        sid: u32,
    },
    /// The stream was never attached.
    NotAttached {
        /// The stream.
        sid: u32,
    },
    /// No memory for a second-level table.
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// No such context on this SMMU.
    UnknownContext,
    /// ATS was asked for on an SMMU without.
    NoAts,
    /// The SMMU would refuse the entry.
    BadSte(SteIllegal),
    /// The SMMU is not known to have taken notice. The stream holds both its
    /// contexts, the old and the new; attach or detach it again.
    NotSynced(WaitError),
    /// As `NotSynced`: the commands could not be queued.
    Queue(QueueError),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::StreamId { sid } => {
                write!(f, "stream {sid:#x} is beyond the stream table")
            }
            AttachError::NotAttached { sid } => write!(f, "stream {sid:#x} was never attached"),
            AttachError::NoMemory { bytes } => {
                write!(
                    f,
                    "no memory for a second-level stream table of {bytes} bytes"
                )
            }
            AttachError::UnknownContext => f.write_str("no such context on this SMMU"),
            AttachError::NoAts => f.write_str("the SMMU has no ATS"),
            AttachError::BadSte(illegal) => write!(f, "stream table entry: {illegal}"),
            AttachError::NotSynced(error) => {
                write!(
                    f,
                    "the SMMU may still use the old entry; attach again: {error}"
                )
            }
            AttachError::Queue(error) => {
                write!(
                    f,
                    "the SMMU may still use the old entry; attach again: {error}"
                )
            }
        }
    }
}

impl core::error::Error for AttachError {}
