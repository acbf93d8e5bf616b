//! What map and unmap refuse. In every case the translations are as before.

use core::fmt;

use dmabench_platform::{Iova, PhysAddr};

use crate::{Level, Prot};

/// Why a map was refused. No translation has changed; tables that hold nothing
/// may have been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// Nothing to map, or a piece of a scatter list is empty.
    ZeroLength,
    /// The IOVA, the physical address or the length is no multiple of the page
    /// size.
    Misaligned {
        /// First IOVA of the call.
        iova: Iova,
        /// A physical address of the call.
        paddr: PhysAddr,
        /// A length in bytes.
        len_bytes: u64,
    },
    /// The range leaves the input address space.
    IovaRange {
        /// First IOVA.
        iova: Iova,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The physical range leaves the output address space.
    PhysRange {
        /// First physical address.
        paddr: PhysAddr,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The fixed page size is none of this table's.
    PageSize {
        /// What was asked for, in bytes.
        page_bytes: u64,
    },
    /// Neither read nor write.
    NoAccess(Prot),
    /// Something is mapped there already.
    Exists {
        /// The first page in the way.
        iova: Iova,
    },
    /// No memory for a table.
    OutOfTables,
    /// The memory gave a table at an address that the walker cannot reach.
    TableAddress(PhysAddr),
    /// Another call changed the same range at the same time: a bug of the
    /// callers. The range may be mapped in part.
    Conflict {
        /// Where it was noticed.
        iova: Iova,
    },
    /// The guard is of another slot table than this page table.
    WrongSlots,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::ZeroLength => f.write_str("length 0: map at least one page"),
            MapError::Misaligned {
                iova,
                paddr,
                len_bytes,
            } => write!(
                f,
                "IOVA {iova}, physical address {paddr} or length {len_bytes:#x} is no multiple of the page size: align them"
            ),
            MapError::IovaRange { iova, len_bytes } => write!(
                f,
                "{len_bytes:#x} bytes at {iova} leave the input address space: choose a lower IOVA"
            ),
            MapError::PhysRange { paddr, len_bytes } => write!(
                f,
                "{len_bytes:#x} bytes at {paddr} leave the output address space: use memory the table can reach"
            ),
            MapError::PageSize { page_bytes } => write!(
                f,
                "page size {page_bytes:#x} is none of this table's: use one of `page_sizes()`"
            ),
            MapError::NoAccess(prot) => {
                write!(f, "protection {prot:?} grants nothing: add READ or WRITE")
            }
            MapError::Exists { iova } => write!(f, "{iova} is mapped already: unmap it first"),
            MapError::OutOfTables => f.write_str("no memory for a table: free some and try again"),
            MapError::TableAddress(phys) => write!(
                f,
                "the memory gave a table at {phys}, which the walker cannot reach"
            ),
            MapError::Conflict { iova } => write!(
                f,
                "another call changes {iova} at the same time: callers must own their ranges"
            ),
            MapError::WrongSlots => f.write_str(
                "slot guard of another table: make all parts of a domain from one `Slots`",
            ),
        }
    }
}

impl core::error::Error for MapError {}

/// Why an unmap was refused. No translation has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnmapError {
    /// Nothing to unmap.
    ZeroLength,
    /// The IOVA or the length is no multiple of the page size.
    Misaligned {
        /// First IOVA.
        iova: Iova,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The range leaves the input address space.
    IovaRange {
        /// First IOVA.
        iova: Iova,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// A page of the range is not mapped.
    NotMapped {
        /// The first such page.
        iova: Iova,
    },
    /// The range holds part of a block or of a contiguous run. Unmap the whole
    /// of it, or split it first.
    PartOfLeaf {
        /// Where the block or run begins.
        iova: Iova,
        /// Its size in bytes.
        len_bytes: u64,
        /// Its level.
        level: Level,
    },
    /// The guard is of another slot table than this page table.
    WrongSlots,
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmapError::ZeroLength => f.write_str("length 0: unmap at least one page"),
            UnmapError::Misaligned { iova, len_bytes } => write!(
                f,
                "IOVA {iova} or length {len_bytes:#x} is no multiple of the page size: align them"
            ),
            UnmapError::IovaRange { iova, len_bytes } => write!(
                f,
                "{len_bytes:#x} bytes at {iova} leave the input address space"
            ),
            UnmapError::NotMapped { iova } => {
                write!(f, "{iova} is not mapped: unmap only what was mapped")
            }
            UnmapError::PartOfLeaf {
                iova,
                len_bytes,
                level,
            } => write!(
                f,
                "the range holds a part of the level {level} entry of {len_bytes:#x} bytes at {iova}: unmap all of it, or split it first"
            ),
            UnmapError::WrongSlots => f.write_str(
                "slot guard of another table: make all parts of a domain from one `Slots`",
            ),
        }
    }
}

impl core::error::Error for UnmapError {}
