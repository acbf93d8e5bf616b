//! Which commands are illegal, and which do not do what they say.

use core::fmt;

use dmabench_platform::Granule;

use super::{Command, Features, RawCommand, TlbiAddress};

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandIssue {
    /// A reserved opcode, one of another security state, or an implementation
    /// defined one (4.1.4): `CERROR_ILL`.
    Reserved {
        /// The opcode.
        opcode: u8,
    },
    /// The ID registers do not have what the command is for: `CERROR_ILL`.
    NotSupported {
        /// The opcode.
        opcode: u8,
    },
    /// `SSec` = 1 on the Non-secure queue (4.1.5): `CERROR_ILL`.
    SecureStream,
    /// `CMD_SYNC.CS` = 3 or `CMD_RESUME` with a reserved response: `CERROR_ILL`.
    ReservedField {
        /// The opcode.
        opcode: u8,
    },
    /// `TG` is not 0 and `NUM` = `SCALE` = `TTL` = 0 (4.4.1.1): `CERROR_ILL`.
    EmptyRange,
    /// The range goes beyond the address space (4.4.1.1): UNPREDICTABLE what is
    /// invalidated.
    RangeWraps,
    /// `SCALE` above 31, with `IDR5.DS` 39: reserved.
    Scale {
        /// The field.
        scale: u8,
    },
    /// The address is not aligned to the leaf size that `TTL` names (4.4.1.1):
    /// UNPREDICTABLE what is invalidated.
    AddressAlignment {
        /// The field.
        ttl: u8,
    },
    /// `TTL` = 1 with 16K where `IDR5.DS` = 0: there are no such leaves, the
    /// field acts as 0.
    LevelWithoutLeaves,
    /// The granule is not one the SMMU supports.
    Granule {
        /// `TG` as a granule.
        granule: Granule,
    },
    /// The stream ID has more bits than `IDR1.SIDSIZE` (4.1.7: CONSTRAINED
    /// UNPREDICTABLE).
    StreamId {
        /// The stream ID.
        sid: u32,
    },
    /// The substream ID has more bits than `IDR1.SSIDSIZE` (4.1.7).
    SubstreamId {
        /// The substream ID.
        ssid: u32,
    },
    /// The ASID has more than 8 bits without `IDR0.ASID16`.
    Asid {
        /// The ASID.
        asid: u16,
    },
    /// The VMID has more than 8 bits without `IDR0.VMID16`.
    Vmid {
        /// The VMID.
        vmid: u16,
    },
    /// `CMD_ATC_INV.Size` above 52, or an address not aligned to it (4.5.1).
    AtcSize {
        /// The field.
        size: u8,
    },
    /// `CMD_PRI_RESP.Resp` = 3: reserved (4.5.2).
    PriResponse,
    /// Bits that must be 0 are not, or are not used by this SMMU.
    ReservedBits,
}

impl CommandIssue {
    /// Whether the SMMU stops at the command with `CERROR_ILL`. The other issues
    /// are commands that it executes, but not as their writer hoped.
    pub const fn is_cerror_ill(&self) -> bool {
        matches!(
            self,
            CommandIssue::Reserved { .. }
                | CommandIssue::NotSupported { .. }
                | CommandIssue::SecureStream
                | CommandIssue::ReservedField { .. }
                | CommandIssue::EmptyRange
        )
    }
}

impl fmt::Display for CommandIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandIssue::Reserved { opcode } => {
                write!(
                    f,
                    "opcode {opcode:#04x} is reserved on the Non-secure queue"
                )
            }
            CommandIssue::NotSupported { opcode } => write!(
                f,
                "the SMMU's ID registers do not offer command {opcode:#04x}; use another one"
            ),
            CommandIssue::SecureStream => f.write_str("SSec must be 0 on the Non-secure queue"),
            CommandIssue::ReservedField { opcode } => {
                write!(f, "command {opcode:#04x} has a reserved signal or response")
            }
            CommandIssue::EmptyRange => f.write_str(
                "TG with NUM = SCALE = TTL = 0: use TG = 0 for one address, or give the level",
            ),
            CommandIssue::RangeWraps => f.write_str("the range ends beyond the address space"),
            CommandIssue::Scale { scale } => {
                write!(f, "SCALE {scale} is reserved; split the range")
            }
            CommandIssue::AddressAlignment { ttl } => write!(
                f,
                "the address is not aligned to a leaf of level {ttl}; use TTL 0"
            ),
            CommandIssue::LevelWithoutLeaves => {
                f.write_str("16K has no leaves at level 1 without DS; use TTL 0")
            }
            CommandIssue::Granule { granule } => {
                write!(f, "the SMMU does not have the {granule:?} granule")
            }
            CommandIssue::StreamId { sid } => write!(f, "stream {sid:#x} is beyond SIDSIZE"),
            CommandIssue::SubstreamId { ssid } => {
                write!(f, "substream {ssid:#x} is beyond SSIDSIZE")
            }
            CommandIssue::Asid { asid } => write!(f, "ASID {asid:#x} has more than 8 bits"),
            CommandIssue::Vmid { vmid } => write!(f, "VMID {vmid:#x} has more than 8 bits"),
            CommandIssue::AtcSize { size } => write!(
                f,
                "ATC size {size} is reserved or its address is not aligned to it"
            ),
            CommandIssue::PriResponse => f.write_str("page response 3 is reserved"),
            CommandIssue::ReservedBits => f.write_str("bits that must be 0 are set"),
        }
    }
}

impl core::error::Error for CommandIssue {}

/// Checks a command before it is queued: that an SMMU with these features
/// executes it, and executes it as it reads.
///
/// # Errors
///
/// The first [`CommandIssue`] found; those with
/// [`is_cerror_ill`](CommandIssue::is_cerror_ill) come first.
pub fn check_command(raw: &RawCommand, features: &Features) -> Result<Command, CommandIssue> {
    let command = Command::decode(raw, features)?;
    check_operands(&command, features)?;
    // Whatever decoding ignored has to be 0.
    if command.encode() != *raw {
        return Err(CommandIssue::ReservedBits);
    }
    Ok(command)
}

fn check_operands(command: &Command, features: &Features) -> Result<(), CommandIssue> {
    match *command {
        Command::PrefetchConfig { sid, ssid } | Command::PrefetchAddr { sid, ssid, .. } => {
            check_stream(sid, ssid, features)
        }
        Command::CfgiSte { sid, .. }
        | Command::CfgiSteRange { sid, .. }
        | Command::CfgiCdAll { sid }
        | Command::Resume { sid, .. }
        | Command::StallTerm { sid } => check_stream(sid, None, features),
        Command::CfgiCd { sid, ssid, .. } => check_stream(sid, Some(ssid), features),
        Command::TlbiNhAll { vmid } | Command::TlbiS12VmAll { vmid } => check_vmid(vmid, features),
        Command::TlbiNhAsid { vmid, asid } => {
            check_vmid(vmid, features)?;
            check_asid(asid, features)
        }
        Command::TlbiNhVa { vmid, asid, at } => {
            check_vmid(vmid, features)?;
            check_asid(asid, features)?;
            check_address(&at, features)
        }
        Command::TlbiNhVaa { vmid, at } => {
            check_vmid(vmid, features)?;
            check_address(&at, features)
        }
        Command::TlbiS2Ipa { vmid, at } => {
            check_vmid(vmid, features)?;
            check_address(&at, features)?;
            // 4.4.3: an address beyond the intermediate address size.
            if at.covers().1.0 >> 52 != 0 {
                return Err(CommandIssue::RangeWraps);
            }
            Ok(())
        }
        Command::TlbiEl2Asid { asid } => check_asid(asid, features),
        Command::TlbiEl2Va { asid, at } => {
            check_asid(asid, features)?;
            check_address(&at, features)
        }
        Command::TlbiEl2Vaa { at } => check_address(&at, features),
        Command::AtcInv {
            sid,
            ssid,
            address,
            size,
            ..
        } => {
            check_stream(sid, ssid, features)?;
            let aligned = size == 52 || address.is_aligned_lg2(u32::from(size) + 12);
            if size > 52 || !aligned {
                return Err(CommandIssue::AtcSize { size });
            }
            Ok(())
        }
        Command::PriResp {
            sid,
            ssid,
            response,
            ..
        } => {
            check_stream(sid, ssid, features)?;
            if response == 3 {
                return Err(CommandIssue::PriResponse);
            }
            Ok(())
        }
        Command::CfgiAll | Command::TlbiEl2All | Command::TlbiNsnhAll | Command::Sync { .. } => {
            Ok(())
        }
    }
}

fn check_stream(sid: u32, ssid: Option<u32>, features: &Features) -> Result<(), CommandIssue> {
    if u64::from(sid) >> features.sid_bits != 0 {
        return Err(CommandIssue::StreamId { sid });
    }
    match ssid {
        Some(ssid) if ssid >> features.ssid_bits != 0 => Err(CommandIssue::SubstreamId { ssid }),
        _ => Ok(()),
    }
}

fn check_asid(asid: u16, features: &Features) -> Result<(), CommandIssue> {
    if u32::from(asid) >> features.asid_bits() != 0 {
        return Err(CommandIssue::Asid { asid });
    }
    Ok(())
}

fn check_vmid(vmid: u16, features: &Features) -> Result<(), CommandIssue> {
    if u32::from(vmid) >> features.vmid_bits() != 0 {
        return Err(CommandIssue::Vmid { vmid });
    }
    Ok(())
}

/// 4.4.1.1.
fn check_address(at: &TlbiAddress, features: &Features) -> Result<(), CommandIssue> {
    let Some(granule) = at.granule else {
        return Ok(());
    };
    if !features.supports(granule) {
        return Err(CommandIssue::Granule { granule });
    }
    if u32::from(at.scale) > features.scale_max() {
        return Err(CommandIssue::Scale { scale: at.scale });
    }
    if granule == Granule::K16 && at.ttl == 1 && !features.ds {
        return Err(CommandIssue::LevelWithoutLeaves);
    }
    // A leaf of level TTL, or, without a level, a page.
    let level = if at.ttl == 0 { 3 } else { u32::from(at.ttl) };
    let leaf_lg2 = granule.lg2() + (3 - level) * granule.index_bits();
    if !at.address.is_aligned_lg2(leaf_lg2) {
        return Err(CommandIssue::AddressAlignment { ttl: at.ttl });
    }
    let bytes = (u128::from(at.num) + 1) << at.scale << granule.lg2();
    if u128::from(at.address.0) + bytes > 1 << 64 {
        return Err(CommandIssue::RangeWraps);
    }
    Ok(())
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "command_tests.rs"]
mod tests;
