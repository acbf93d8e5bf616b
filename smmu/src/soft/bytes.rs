//! Command bytes as this SMMU reads them (Arm IHI 0070, 4.1 to 4.7).
//!
//! Written apart from [`format`](crate::format), whose encoder the driver uses:
//! a bit that the two see at different places shows up as a wrong invalidation.
//! Only the verdict *illegal* comes from there, so that one rule book judges
//! what the driver emits and what stops a queue.

use super::command::{Command, Span, SyncSignal};
use crate::format::{Command as Judge, CommandIssue, Features};

/// What a command does to this SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Something it remembers goes, or a sync.
    Forget(Command),
    /// Nothing here: hints, other regimes, answers to devices that never ask.
    Nothing,
}

/// Reads one command.
///
/// # Errors
///
/// The queue stops with `CERROR_ILL`.
pub(super) fn read(raw: &[u64; 2], features: &Features) -> Result<Action, CommandIssue> {
    Judge::decode(raw, features)?;
    let [low, high] = *raw;
    let sid = (low >> 32) as u32;
    let ssid = if features.ssid_bits == 0 {
        0
    } else {
        (low >> 12) as u32 & 0xf_ffff
    };
    // Without 16-bit identifiers the upper half is RES0; a command that sets it
    // need not affect anything, and is taken to name nobody.
    let vmid = (low >> 32) as u16;
    let asid = (low >> 48) as u16;
    let leaf = high & 1 != 0;
    let ranges = features.range_invalidation;
    let span = Span {
        address: high & !0xfff,
        leaf,
        ttl: if ranges { (high >> 8) as u8 & 3 } else { 0 },
        tg: if ranges { (high >> 10) as u8 & 3 } else { 0 },
        num: if ranges { (low >> 12) as u8 & 31 } else { 0 },
        scale: match (ranges, features.ds) {
            (false, _) => 0,
            (true, false) => (low >> 20) as u8 & 31,
            (true, true) => (low >> 20) as u8 & 63,
        },
    };
    let command = match low as u8 {
        0x03 => Command::CfgiSte { sid, leaf },
        0x04 => Command::CfgiSteRange {
            sid,
            range: high as u8 & 31,
        },
        0x05 => Command::CfgiCd { sid, ssid, leaf },
        0x06 => Command::CfgiCdAll { sid },
        0x10 => Command::TlbiNhAll { vmid },
        0x11 => Command::TlbiNhAsid { vmid, asid },
        0x12 => Command::TlbiNhVa { vmid, asid, span },
        0x13 => Command::TlbiNhVaa { vmid, span },
        0x28 => Command::TlbiS12Vmall { vmid },
        0x2a => Command::TlbiS2Ipa { vmid, span },
        0x30 => Command::TlbiNsnhAll,
        0x46 => Command::Sync(match low >> 12 & 3 {
            1 => SyncSignal::Interrupt {
                address: high & 0x000f_ffff_ffff_fffc,
                data: (low >> 32) as u32,
            },
            2 => SyncSignal::Event,
            _ => SyncSignal::None,
        }),
        _ => return Ok(Action::Nothing),
    };
    Ok(Action::Forget(command))
}
