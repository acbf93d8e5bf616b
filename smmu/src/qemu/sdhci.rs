//! The SD host controller and its card, from reset to "ready to transfer".

use alloc::vec::Vec;

use super::{Batch, CardImage, QemuError, Qtest, pci::Function};

/// Bytes of a block, the unit of transfer.
pub const BLOCK_BYTES: u64 = 512;

/// Registers (SD Host Controller Simplified Specification 2.2), by offset.
pub(super) mod reg {
    pub(crate) const BLOCK_SIZE_COUNT: u64 = 0x04;
    pub(crate) const ARGUMENT: u64 = 0x08;
    /// Transfer mode, and in the upper half the command.
    pub(crate) const MODE_COMMAND: u64 = 0x0c;
    pub(crate) const RESPONSE: u64 = 0x10;
    pub(crate) const HOST_CONTROL: u64 = 0x28;
    pub(crate) const POWER: u64 = 0x29;
    pub(crate) const CLOCK: u64 = 0x2c;
    pub(crate) const DATA_TIMEOUT: u64 = 0x2e;
    pub(crate) const SOFTWARE_RESET: u64 = 0x2f;
    /// Normal and error interrupt status.
    pub(crate) const STATUS: u64 = 0x30;
    pub(crate) const STATUS_ENABLE: u64 = 0x34;
    pub(crate) const SIGNAL_ENABLE: u64 = 0x38;
    pub(crate) const ADMA_ERROR: u64 = 0x54;
    pub(crate) const ADMA_TABLE: u64 = 0x58;
}

/// Bits of `STATUS`.
pub(super) mod status {
    pub(crate) const COMMAND_DONE: u32 = 1 << 0;
    pub(crate) const TRANSFER_DONE: u32 = 1 << 1;
    pub(crate) const ERROR: u32 = 1 << 15;
    pub(crate) const ADMA_ERROR: u32 = 1 << 25;
}

/// Commands: index, and how the response is checked (its length, CRC, index).
pub(super) mod command {
    pub(crate) const GO_IDLE: u16 = 0x0000;
    pub(crate) const ALL_SEND_CID: u16 = 0x0209;
    pub(crate) const SEND_RELATIVE_ADDR: u16 = 0x031a;
    pub(crate) const SELECT_CARD: u16 = 0x071b;
    pub(crate) const SEND_IF_COND: u16 = 0x081a;
    pub(crate) const SEND_CSD: u16 = 0x0909;
    /// Of the type "abort".
    pub(crate) const STOP_TRANSMISSION: u16 = 0x0cdb;
    pub(crate) const SEND_STATUS: u16 = 0x0d1a;
    pub(crate) const SET_BLOCKLEN: u16 = 0x101a;
    pub(crate) const APP_CMD: u16 = 0x371a;
    pub(crate) const APP_SEND_OP_COND: u16 = 0x2902;
}

/// Card status: "transfer" state, ready for data.
pub(super) const CARD_READY: u32 = 0x900;

/// An SD host controller and its card. Every transfer goes through the SMMU, as
/// stream [`stream_id`](Self::stream_id).
#[derive(Debug)]
pub struct SdHost {
    pub(super) qtest: Qtest,
    pub(super) function: Function,
    pub(super) image: CardImage,
    /// In the upper half of a word.
    pub(super) address: u32,
    high_capacity: bool,
}

impl SdHost {
    pub(super) fn bring_up(
        qtest: Qtest,
        function: Function,
        image: CardImage,
    ) -> Result<Self, QemuError> {
        let mut host = SdHost {
            qtest,
            function,
            image,
            address: 0,
            high_capacity: false,
        };
        let mut reset = Batch::new();
        host.reset_registers(&mut reset);
        host.qtest.run(&reset)?;
        use command as c;
        host.card(c::GO_IDLE, 0)?;
        // 2.7 to 3.6 V, and a pattern that comes back.
        let pattern = 0x1aa;
        host.expect(c::SEND_IF_COND, pattern, |r| r & 0xfff == pattern)?;
        // With a voltage window, so that no enquiry is meant and the card powers
        // up at once; bit 30: high capacity is welcome.
        let mut answer = (0, 0);
        for _ in 0..4 {
            host.card(c::APP_CMD, 0)?;
            answer = host.card(c::APP_SEND_OP_COND, 0x40ff_8000)?;
            if answer.1 >> 31 != 0 {
                break;
            }
        }
        let (status, response) = answer;
        if response >> 31 == 0 {
            return Err(QemuError::Card {
                command: 41,
                status,
                response,
            });
        }
        host.high_capacity = response >> 30 & 1 != 0;
        host.card(c::ALL_SEND_CID, 0)?;
        let address = host.expect(c::SEND_RELATIVE_ADDR, 0, |r| r >> 16 != 0)?;
        host.address = address & 0xffff_0000;
        host.card(c::SEND_CSD, host.address)?;
        host.card(c::SELECT_CARD, host.address)?;
        host.card(c::SET_BLOCKLEN, BLOCK_BYTES as u32)?;
        host.expect(c::SEND_STATUS, host.address, |r| r == CARD_READY)?;
        Ok(host)
    }

    /// What the SMMU calls it.
    pub fn stream_id(&self) -> u32 {
        self.function.stream_id
    }

    /// What is on the card.
    pub fn image(&self) -> &CardImage {
        &self.image
    }

    /// Blocks of the card.
    pub fn blocks(&self) -> u64 {
        self.image.blocks()
    }

    /// Whether the card counts in blocks (above 2 GiB) and not in bytes.
    pub fn is_high_capacity(&self) -> bool {
        self.high_capacity
    }

    /// How the card's commands name a block.
    pub(super) fn card_address(&self, block: u64) -> Option<u32> {
        let unit = if self.high_capacity { 1 } else { BLOCK_BYTES };
        u32::try_from(block.checked_mul(unit)?).ok()
    }

    pub(super) fn at(&self, register: u64) -> u64 {
        self.function.base + register
    }

    /// Everything about the controller, but not the card, as after power-on.
    pub(super) fn reset_registers(&self, batch: &mut Batch) {
        const ALL: u8 = 1;
        batch
            .write8(self.at(reg::SOFTWARE_RESET), ALL)
            .write16(self.at(reg::CLOCK), 1)
            .write16(self.at(reg::CLOCK), 7)
            .write8(self.at(reg::POWER), 0x0f)
            .write8(self.at(reg::DATA_TIMEOUT), 0x0e)
            .write32(self.at(reg::STATUS_ENABLE), 0x03ff_00ff)
            .write32(self.at(reg::SIGNAL_ENABLE), 0);
    }

    /// Adds a command without data; its last two answers are status and response.
    pub(super) fn add_command(&self, batch: &mut Batch, command: u16, argument: u32) {
        batch
            .write32(self.at(reg::STATUS), u32::MAX)
            .write32(self.at(reg::ARGUMENT), argument)
            .write32(self.at(reg::MODE_COMMAND), u32::from(command) << 16)
            .read32(self.at(reg::STATUS))
            .read32(self.at(reg::RESPONSE));
    }

    /// A command without data: status and first word of the response.
    pub(super) fn card(&self, command: u16, argument: u32) -> Result<(u32, u32), QemuError> {
        let mut batch = Batch::new();
        self.add_command(&mut batch, command, argument);
        let answers = self.qtest.run(&batch)?;
        let [.., status, response] = answers[..] else {
            return Ok((0, 0));
        };
        Ok((status as u32, response as u32))
    }

    /// As [`card`](Self::card); the response must be as `right` says.
    pub(super) fn expect(
        &self,
        command: u16,
        argument: u32,
        right: impl Fn(u32) -> bool,
    ) -> Result<u32, QemuError> {
        let (status, response) = self.card(command, argument)?;
        let fine = status & status::COMMAND_DONE != 0 && status & status::ERROR == 0;
        if !fine || !right(response) {
            return Err(QemuError::Card {
                command: (command >> 8) as u8,
                status,
                response,
            });
        }
        Ok(response)
    }

    /// Runs a batch: the answers of its last `count` accesses.
    pub(super) fn last(&self, batch: &Batch, count: usize) -> Result<Vec<u32>, QemuError> {
        let answers = self.qtest.run(batch)?;
        let from = answers.len().saturating_sub(count);
        Ok(answers[from..].iter().map(|value| *value as u32).collect())
    }
}
