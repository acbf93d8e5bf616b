//! What is on a card, seen from this process.

use alloc::sync::Arc;

use super::{BLOCK_BYTES, QemuError, shared::Shared};

/// The content of an SD card. QEMU reads and writes the same memory as a file.
///
/// Cheap to clone. A transfer under way may change blocks while they are read
/// here; none is while the caller holds the [`SdHost`](super::SdHost).
#[derive(Clone, Debug)]
pub struct CardImage {
    bytes: Arc<Shared>,
}

impl CardImage {
    pub(super) fn new(bytes: Shared) -> Self {
        CardImage {
            bytes: Arc::new(bytes),
        }
    }

    /// Blocks of [`BLOCK_BYTES`] on the card.
    pub fn blocks(&self) -> u64 {
        self.bytes.len_bytes() / BLOCK_BYTES
    }

    /// Reads from the first byte of `block` on.
    ///
    /// # Errors
    ///
    /// [`QemuError::Config`] if that is not all on the card.
    pub fn read(&self, block: u64, into: &mut [u8]) -> Result<(), QemuError> {
        let offset = self.offset(block, into.len())?;
        self.bytes.read(offset, into);
        Ok(())
    }

    /// Writes from the first byte of `block` on.
    ///
    /// # Errors
    ///
    /// [`QemuError::Config`] if that is not all on the card; nothing is written.
    pub fn write(&self, block: u64, from: &[u8]) -> Result<(), QemuError> {
        let offset = self.offset(block, from.len())?;
        self.bytes.write(offset, from);
        Ok(())
    }

    fn offset(&self, block: u64, len: usize) -> Result<u64, QemuError> {
        (block.checked_mul(BLOCK_BYTES))
            .filter(|offset| self.bytes.holds(*offset, len))
            .ok_or(QemuError::Config {
                reason: "the blocks lie beyond the end of the card",
            })
    }
}
