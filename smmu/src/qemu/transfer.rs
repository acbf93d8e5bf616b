//! Moving blocks between card and memory, and getting over a fault.

use core::fmt;

use super::{
    AdmaList, AdmaWidth, BLOCK_BYTES, Batch, QemuError, SdHost,
    sdhci::{CARD_READY, command, reg, status},
};

/// A transfer that did not happen, or not wholly. The controller and the card are
/// ready for the next one, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferError {
    /// The blocks are not all on the card. Nothing was begun.
    BeyondCard {
        /// The first of them.
        block: u64,
        /// How many.
        blocks: u64,
    },
    /// The controller's DMA failed: an access to a descriptor or to data did not
    /// get through. Blocks before it were moved. Events of the SMMU say where it
    /// was; the controller does not.
    Dma {
        /// The controller's interrupt status.
        status: u32,
        /// `ADMAERR[1:0]`, as QEMU fills it in: 1 at a descriptor, 3 at the data of
        /// the last one, 0 at that of others.
        state: u8,
    },
    /// The controller neither ended nor reported an error, and was reset.
    Stuck {
        /// The controller's interrupt status.
        status: u32,
    },
    /// The card refused the command.
    Refused {
        /// The controller's interrupt status.
        status: u32,
    },
    /// QEMU is gone, or the card did not recover.
    Qemu(QemuError),
}

impl From<QemuError> for TransferError {
    fn from(error: QemuError) -> Self {
        TransferError::Qemu(error)
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferError::BeyondCard { block, blocks } => {
                write!(f, "{blocks} blocks from {block} on are not all on the card")
            }
            TransferError::Dma { status, state } => write!(
                f,
                "the controller could not reach memory (status {status:#x}, ADMA state {state}): \
                 look into the SMMU's events, and map what it names"
            ),
            TransferError::Stuck { status } => write!(
                f,
                "the controller did not end the transfer (status {status:#x}) and was reset; \
                 begin again"
            ),
            TransferError::Refused { status } => {
                write!(f, "the card refused the command (status {status:#x})")
            }
            TransferError::Qemu(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TransferError {}

/// Which way blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    FromCard,
    ToCard,
}

/// Descriptors that QEMU's controller works through at one register access.
const DESCRIPTORS_PER_ACCESS: u32 = 5;
/// Accesses beyond those after which a transfer counts as stuck.
const PATIENCE: u32 = 64;

impl SdHost {
    /// Reads blocks from the card into the memory of `list`, from `block` on.
    ///
    /// # Errors
    ///
    /// [`TransferError`].
    pub fn read(&mut self, block: u64, list: &AdmaList) -> Result<(), TransferError> {
        self.transfer(Way::FromCard, block, list)
    }

    /// Writes the memory of `list` to the card, from `block` on.
    ///
    /// # Errors
    ///
    /// [`TransferError`].
    pub fn write(&mut self, block: u64, list: &AdmaList) -> Result<(), TransferError> {
        self.transfer(Way::ToCard, block, list)
    }

    fn transfer(&mut self, way: Way, block: u64, list: &AdmaList) -> Result<(), TransferError> {
        let blocks = list.blocks();
        let beyond = TransferError::BeyondCard { block, blocks };
        if (block.checked_add(blocks)).is_none_or(|end| end > self.blocks()) {
            return Err(beyond);
        }
        let argument = self.card_address(block).ok_or(beyond)?;
        let mut batch = Batch::new();
        let select = match list.width {
            AdmaWidth::Bits32 => 0x10,
            AdmaWidth::Bits64 => 0x18,
        };
        batch
            .write32(self.at(reg::STATUS), u32::MAX)
            .write8(self.at(reg::HOST_CONTROL), select)
            .write32(self.at(reg::ADMA_TABLE), list.table.0 as u32)
            .write32(self.at(reg::ADMA_TABLE) + 4, (list.table.0 >> 32) as u32)
            .write32(
                self.at(reg::BLOCK_SIZE_COUNT),
                u32::from(list.blocks) << 16 | BLOCK_BYTES as u32,
            )
            .write32(self.at(reg::ARGUMENT), argument)
            .write32(self.at(reg::MODE_COMMAND), mode_command(way, list.blocks));
        // The command moves the first descriptors, each later access some more.
        for _ in 0..list.descriptors.div_ceil(DESCRIPTORS_PER_ACCESS) {
            batch.read32(self.at(reg::STATUS));
        }
        let mut seen = self.last(&batch, 1)?[0];
        let over = status::TRANSFER_DONE | status::ERROR;
        for _ in 0..PATIENCE {
            if seen & over != 0 {
                break;
            }
            seen = self.qtest.read32(self.at(reg::STATUS))?;
        }
        if seen & over == status::TRANSFER_DONE {
            return Ok(());
        }
        let state = self.recover()?;
        Err(if seen & status::ADMA_ERROR != 0 {
            TransferError::Dma {
                status: seen,
                state: (state & 3) as u8,
            }
        } else if seen & status::ERROR != 0 {
            TransferError::Refused { status: seen }
        } else {
            TransferError::Stuck { status: seen }
        })
    }

    /// Back to where a transfer may begin; `ADMAERR` as it was before. A whole
    /// reset: a controller that stopped inside a list would go on with it at each
    /// access.
    fn recover(&self) -> Result<u32, QemuError> {
        let mut batch = Batch::new();
        batch.read32(self.at(reg::ADMA_ERROR));
        self.reset_registers(&mut batch);
        // Not an error for a card that has nothing to stop, but for the status
        // that is read next, which forgets it.
        self.add_command(&mut batch, command::STOP_TRANSMISSION, 0);
        self.add_command(&mut batch, command::SEND_STATUS, self.address);
        let state = self.qtest.run(&batch)?[0] as u32;
        self.expect(command::SEND_STATUS, self.address, |r| r == CARD_READY)?;
        Ok(state)
    }
}

/// Transfer mode and command for so many blocks.
fn mode_command(way: Way, blocks: u16) -> u32 {
    const DMA: u32 = 1 << 0;
    const COUNT: u32 = 1 << 1;
    const STOP_AFTER: u32 = 1 << 2;
    const FROM_CARD: u32 = 1 << 4;
    const MANY: u32 = 1 << 5;
    /// Data, response of 48 bits, its CRC and index checked.
    const CHECKS: u32 = 0x3a;
    let (index, several) = match (way, blocks) {
        (Way::FromCard, 1) => (17, 0),
        (Way::FromCard, _) => (18, MANY | STOP_AFTER),
        (Way::ToCard, 1) => (24, 0),
        (Way::ToCard, _) => (25, MANY | STOP_AFTER),
    };
    let from = if way == Way::FromCard { FROM_CARD } else { 0 };
    DMA | COUNT | several | from | (index << 8 | CHECKS) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_commands_of_one_and_of_many_blocks() {
        assert_eq!(mode_command(Way::FromCard, 1), 0x113a_0013);
        assert_eq!(mode_command(Way::ToCard, 1), 0x183a_0003);
        assert_eq!(mode_command(Way::FromCard, 2), 0x123a_0037);
        assert_eq!(mode_command(Way::ToCard, 0xffff), 0x193a_0027);
    }
}
