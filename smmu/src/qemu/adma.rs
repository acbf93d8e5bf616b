//! ADMA2 descriptor tables (SD Host Controller Simplified Specification 1.13).

use alloc::vec::Vec;
use core::fmt;

use dmabench_platform::{Iova, PhysAddr};

use super::{BLOCK_BYTES, GuestRam, RamError};

/// Width of the addresses in descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmaWidth {
    /// 8 bytes each, data below 4 GiB.
    Bits32,
    /// 12 bytes each: the form of host controllers of version 3 and older.
    Bits64,
}

impl AdmaWidth {
    /// Bytes of a descriptor.
    pub const fn descriptor_bytes(self) -> u64 {
        match self {
            AdmaWidth::Bits32 => 8,
            AdmaWidth::Bits64 => 12,
        }
    }
}

/// Bytes that one descriptor moves at most (its length field then holds 0).
const DESCRIPTOR_MAX: u64 = 64 << 10;
/// `BLKCNT` has 16 bits.
const BLOCKS_MAX: u64 = 0xffff;

/// Attributes: valid, and "transfer".
const TRANSFER: u16 = 0x21;
const END: u16 = 0x02;

/// A list that the controller cannot be given. Nothing was written, or the table
/// holds what was there before and is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdmaError {
    /// No piece, or one of length 0.
    Empty,
    /// Pieces begin at multiples of 4.
    Misaligned {
        /// Where it begins.
        addr: Iova,
    },
    /// A piece ends beyond what the addresses can say.
    BeyondWidth {
        /// Where it begins.
        addr: Iova,
    },
    /// The pieces are not whole blocks together, or more than 65535.
    Blocks {
        /// Their length.
        bytes: u64,
    },
    /// The table is too short.
    TableFull {
        /// Descriptors that were needed.
        needed: u64,
        /// Descriptors it has.
        room: u64,
    },
    /// The table is not in RAM.
    Ram(RamError),
}

impl fmt::Display for AdmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdmaError::Empty => f.write_str("a list without bytes: give it at least one block"),
            AdmaError::Misaligned { addr } => {
                write!(f, "a piece at {addr}: ADMA2 needs multiples of 4")
            }
            AdmaError::BeyondWidth { addr } => write!(
                f,
                "the piece at {addr} lies beyond 32 bits: use AdmaWidth::Bits64 or lower addresses"
            ),
            AdmaError::Blocks { bytes } => write!(
                f,
                "{bytes} bytes are not 1 to {BLOCKS_MAX} whole blocks of {BLOCK_BYTES}"
            ),
            AdmaError::TableFull { needed, room } => write!(
                f,
                "the list needs {needed} descriptors, its table has room for {room}"
            ),
            AdmaError::Ram(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AdmaError {}

/// A descriptor table: memory of the machine, and the address at which the
/// controller finds it, which must be mapped for reading.
#[derive(Clone, Debug)]
pub struct AdmaTable {
    ram: GuestRam,
    phys: PhysAddr,
    len_bytes: u64,
    addr: Iova,
    width: AdmaWidth,
}

/// A filled table: what [`SdHost`](super::SdHost) is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmaList {
    pub(super) table: Iova,
    pub(super) width: AdmaWidth,
    pub(super) blocks: u16,
    pub(super) descriptors: u32,
}

impl AdmaList {
    /// Blocks that the list holds.
    pub fn blocks(&self) -> u64 {
        self.blocks.into()
    }

    /// Its descriptors: one for each 64 KiB or part of a piece.
    pub fn descriptors(&self) -> u32 {
        self.descriptors
    }

    /// The same list with its table at another address of the device.
    pub fn at(mut self, table: Iova) -> Self {
        self.table = table;
        self
    }
}

impl AdmaTable {
    /// A table in the `len_bytes` bytes of RAM at `phys`, which the device calls
    /// `addr`.
    pub fn new(
        ram: &GuestRam,
        phys: PhysAddr,
        len_bytes: u64,
        addr: Iova,
        width: AdmaWidth,
    ) -> Self {
        AdmaTable {
            ram: ram.clone(),
            phys,
            len_bytes,
            addr,
            width,
        }
    }

    /// Where the device finds it.
    pub fn addr(&self) -> Iova {
        self.addr
    }

    /// Writes the descriptors of `pieces`, (address, bytes) each, in order. The
    /// table must not be in use.
    ///
    /// # Errors
    ///
    /// [`AdmaError`]; nothing was written.
    pub fn fill(
        &self,
        pieces: impl IntoIterator<Item = (Iova, u64)>,
    ) -> Result<AdmaList, AdmaError> {
        let (bytes, list) = encode(pieces, self.width)?;
        let room = self.len_bytes / self.width.descriptor_bytes();
        let needed = u64::from(list.descriptors);
        if needed > room {
            return Err(AdmaError::TableFull { needed, room });
        }
        self.ram.write(self.phys, &bytes).map_err(AdmaError::Ram)?;
        Ok(list.at(self.addr))
    }
}

fn encode(
    pieces: impl IntoIterator<Item = (Iova, u64)>,
    width: AdmaWidth,
) -> Result<(Vec<u8>, AdmaList), AdmaError> {
    let mut bytes = Vec::new();
    let mut total = 0_u64;
    let mut descriptors = 0;
    let mut last = 0;
    for (addr, mut left) in pieces {
        if left == 0 {
            return Err(AdmaError::Empty);
        }
        if addr.0 & 3 != 0 {
            return Err(AdmaError::Misaligned { addr });
        }
        total = total.saturating_add(left);
        if total > BLOCKS_MAX * BLOCK_BYTES {
            return Err(AdmaError::Blocks { bytes: total });
        }
        let end = addr.last_byte(left);
        let narrow = width == AdmaWidth::Bits32;
        if end.is_none_or(|end| narrow && end.0 >> 32 != 0) {
            return Err(AdmaError::BeyondWidth { addr });
        }
        let mut at = addr.0;
        while left > 0 {
            let now = left.min(DESCRIPTOR_MAX);
            last = bytes.len();
            bytes.extend(TRANSFER.to_le_bytes());
            // 64 KiB is written as 0.
            bytes.extend((now as u16).to_le_bytes());
            bytes.extend((at as u32).to_le_bytes());
            if width == AdmaWidth::Bits64 {
                bytes.extend(((at >> 32) as u32).to_le_bytes());
            }
            descriptors += 1;
            at = at.wrapping_add(now);
            left -= now;
        }
    }
    if total == 0 {
        return Err(AdmaError::Empty);
    }
    if !total.is_multiple_of(BLOCK_BYTES) {
        return Err(AdmaError::Blocks { bytes: total });
    }
    bytes[last] |= END as u8;
    let list = AdmaList {
        table: Iova(0),
        width,
        blocks: (total / BLOCK_BYTES) as u16,
        descriptors,
    };
    Ok((bytes, list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_both_widths() {
        let pieces = [(Iova(0x8000_0200), 512), (Iova(0x9000_0000), 0x1_0200)];
        let (bytes, list) = encode(pieces, AdmaWidth::Bits32).unwrap();
        assert_eq!((list.blocks, list.descriptors), (130, 3));
        assert_eq!(bytes[..8], [0x21, 0, 0, 2, 0, 2, 0, 0x80]);
        assert_eq!(bytes[8..16], [0x21, 0, 0, 0, 0, 0, 0, 0x90]);
        assert_eq!(bytes[16..], [0x23, 0, 0, 2, 0, 0, 1, 0x90]);
        let (bytes, list) = encode([(Iova(0xffff_1234_5670), 512)], AdmaWidth::Bits64).unwrap();
        assert_eq!((list.blocks, list.descriptors), (1, 1));
        assert_eq!(
            bytes,
            [0x23, 0, 0, 2, 0x70, 0x56, 0x34, 0x12, 0xff, 0xff, 0, 0]
        );
    }

    #[test]
    fn bad_lists_are_refused() {
        let of = |pieces: &[(u64, u64)], width| {
            let pieces = pieces.iter().map(|(addr, len)| (Iova(*addr), *len));
            encode(pieces, width).unwrap_err()
        };
        use AdmaWidth::{Bits32, Bits64};
        assert_eq!(of(&[], Bits32), AdmaError::Empty);
        assert_eq!(of(&[(0, 0)], Bits32), AdmaError::Empty);
        let addr = Iova(2);
        assert_eq!(of(&[(2, 512)], Bits64), AdmaError::Misaligned { addr });
        assert_eq!(of(&[(0, 300)], Bits64), AdmaError::Blocks { bytes: 300 });
        let bytes = 65536 * 512;
        assert_eq!(of(&[(0, bytes)], Bits64), AdmaError::Blocks { bytes });
        let addr = Iova(0xffff_ff00);
        assert_eq!(
            of(&[(addr.0, 512)], Bits32),
            AdmaError::BeyondWidth { addr }
        );
        let addr = Iova(u64::MAX - 3);
        assert_eq!(
            of(&[(addr.0, 512)], Bits64),
            AdmaError::BeyondWidth { addr }
        );
        assert_eq!(
            of(&[(0, u64::MAX)], Bits64),
            AdmaError::Blocks { bytes: u64::MAX }
        );
    }
}
