//! What a device can address, and what it is asked to do.

use core::fmt;

use dmabench_pgtable::Prot;
use dmabench_platform::{Iova, PhysAddr};

/// Which way the data goes, seen from memory. There is no "none": a mapping
/// that allows nothing is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device reads memory (a write to the card).
    ToDevice,
    /// The device writes memory (a read from the card).
    FromDevice,
    /// Both.
    Bidirectional,
}

impl Direction {
    /// Whether the device may read the buffer.
    #[inline]
    pub const fn device_reads(self) -> bool {
        !matches!(self, Direction::FromDevice)
    }

    /// Whether the device may write the buffer.
    #[inline]
    pub const fn device_writes(self) -> bool {
        !matches!(self, Direction::ToDevice)
    }

    #[inline]
    const fn prot(self) -> Prot {
        match self {
            Direction::ToDevice => Prot::READ,
            Direction::FromDevice => Prot::WRITE,
            Direction::Bidirectional => Prot::READ_WRITE,
        }
    }
}

/// A piece of memory, as the CPU's side names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte. Any alignment.
    pub phys: PhysAddr,
    /// Length in bytes, at least 1.
    pub len_bytes: u64,
}

/// The same piece, as the device names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaSegment {
    /// First byte, for the device's descriptor.
    pub addr: Iova,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl DmaSegment {
    /// To fill arrays with before [`Domain::map_sg`](crate::Domain::map_sg).
    pub const EMPTY: DmaSegment = DmaSegment {
        addr: Iova(0),
        len_bytes: 0,
    };
}

/// No segment is longer, so that sums of a few lengths fit into 64 bits. More
/// than any page table can map.
pub(crate) const LONGEST_SEGMENT: u64 = 1 << 62;

/// The limits of one device. The default has none but those of 64 bits.
///
/// ```
/// use dmabench_dma::Device;
///
/// // An SD host with 64 KiB ADMA descriptors, 128 of them, and 32 address bits.
/// let sdhci = Device::new()
///     .mask_bits(32)?
///     .max_segment_bytes(64 << 10)?
///     .max_segments(128)?;
/// # Ok::<(), dmabench_dma::DeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub(crate) last_address: Iova,
    /// At most `LONGEST_SEGMENT`.
    pub(crate) max_segment_bytes: u64,
    pub(crate) max_segments: usize,
    /// Segments must not cross a multiple of the lowest bit here; all bits from
    /// that on, or none.
    pub(crate) beyond_boundary: u64,
    /// [`Prot::CACHE`] if it is coherent, else nothing: what its mappings add.
    cache: Prot,
}

impl Default for Device {
    fn default() -> Self {
        Device::new()
    }
}

impl Device {
    /// A coherent device without limits.
    pub const fn new() -> Self {
        Device {
            last_address: Iova(u64::MAX),
            max_segment_bytes: LONGEST_SEGMENT,
            max_segments: usize::MAX,
            beyond_boundary: 0,
            cache: Prot::CACHE,
        }
    }

    /// The device drives `bits` address bits (its DMA mask): 1 to 64.
    ///
    /// # Errors
    ///
    /// [`DeviceError::MaskBits`].
    pub const fn mask_bits(mut self, bits: u32) -> Result<Self, DeviceError> {
        if bits == 0 || bits > 64 {
            return Err(DeviceError::MaskBits { bits });
        }
        self.last_address = Iova(u64::MAX >> (64 - bits));
        Ok(self)
    }

    /// One descriptor moves at most `bytes`.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Zero`].
    pub const fn max_segment_bytes(mut self, bytes: u64) -> Result<Self, DeviceError> {
        if bytes == 0 {
            return Err(DeviceError::Zero);
        }
        self.max_segment_bytes = if bytes < LONGEST_SEGMENT {
            bytes
        } else {
            LONGEST_SEGMENT
        };
        Ok(self)
    }

    /// One request has at most `count` descriptors.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Zero`].
    pub const fn max_segments(mut self, count: usize) -> Result<Self, DeviceError> {
        if count == 0 {
            return Err(DeviceError::Zero);
        }
        self.max_segments = count;
        Ok(self)
    }

    /// No segment may cross a multiple of `bytes`, a power of two (SDMA of SD
    /// hosts: 512 KiB).
    ///
    /// # Errors
    ///
    /// [`DeviceError::Boundary`].
    pub const fn boundary_bytes(mut self, bytes: u64) -> Result<Self, DeviceError> {
        if !bytes.is_power_of_two() {
            return Err(DeviceError::Boundary { bytes });
        }
        self.beyond_boundary = !(bytes - 1);
        Ok(self)
    }

    /// Whether the device snoops the CPU's caches. If not, its mappings are
    /// made non-cacheable.
    pub const fn coherent(mut self, coherent: bool) -> Self {
        self.cache = if coherent { Prot::CACHE } else { Prot::NONE };
        self
    }

    /// Whether the device snoops the CPU's caches.
    #[inline]
    pub const fn is_coherent(&self) -> bool {
        self.cache.contains(Prot::CACHE)
    }

    /// The same device with the limits of its address alone: for memory that is
    /// not moved by descriptors.
    pub(crate) const fn as_one_segment(&self) -> Self {
        Device {
            max_segment_bytes: LONGEST_SEGMENT,
            beyond_boundary: 0,
            ..*self
        }
    }

    #[inline]
    pub(crate) const fn prot(&self, direction: Direction) -> Prot {
        direction.prot().with(self.cache)
    }

    /// Whether `len_bytes` bytes, `offset` bytes into a range of IOVAs, would
    /// cross a boundary. The range starts on a multiple of its size rounded up
    /// to a power of two: if it is longer than the boundary, it starts on a
    /// multiple of the boundary too; if not, it crosses none.
    #[inline]
    pub(crate) const fn crosses_boundary(&self, offset: u64, len_bytes: u64) -> bool {
        (offset ^ offset.wrapping_add(len_bytes.wrapping_sub(1))) & self.beyond_boundary != 0
    }
}

/// A limit that no device can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// 0 address bits, or more than 64.
    MaskBits {
        /// What was asked for.
        bits: u32,
    },
    /// A limit of zero.
    Zero,
    /// The boundary is not a power of two.
    Boundary {
        /// What was asked for, in bytes.
        bytes: u64,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::MaskBits { bits } => {
                write!(f, "a DMA mask of {bits} bits: give 1 to 64")
            }
            DeviceError::Zero => f.write_str("a limit of 0 allows no transfer: give at least 1"),
            DeviceError::Boundary { bytes } => {
                write!(f, "a boundary of {bytes} bytes: give a power of two")
            }
        }
    }
}

impl core::error::Error for DeviceError {}
