//! Commands (4.1 to 4.7).

use dmabench_platform::{Iova, PhysAddr};

use super::{
    Features, TlbiAddress,
    bits::{bit, flag, get, put, span},
    command_check::CommandIssue,
};

/// A command as the queue holds it: 16 bytes.
pub type RawCommand = [u64; 2];

/// Opcodes (4.1.1).
pub(super) mod opcode {
    pub(crate) const PREFETCH_CONFIG: u8 = 0x01;
    pub(crate) const PREFETCH_ADDR: u8 = 0x02;
    pub(crate) const CFGI_STE: u8 = 0x03;
    pub(crate) const CFGI_STE_RANGE: u8 = 0x04;
    pub(crate) const CFGI_CD: u8 = 0x05;
    pub(crate) const CFGI_CD_ALL: u8 = 0x06;
    pub(crate) const TLBI_NH_ALL: u8 = 0x10;
    pub(crate) const TLBI_NH_ASID: u8 = 0x11;
    pub(crate) const TLBI_NH_VA: u8 = 0x12;
    pub(crate) const TLBI_NH_VAA: u8 = 0x13;
    pub(crate) const TLBI_EL2_ALL: u8 = 0x20;
    pub(crate) const TLBI_EL2_ASID: u8 = 0x21;
    pub(crate) const TLBI_EL2_VA: u8 = 0x22;
    pub(crate) const TLBI_EL2_VAA: u8 = 0x23;
    pub(crate) const TLBI_S12_VMALL: u8 = 0x28;
    pub(crate) const TLBI_S2_IPA: u8 = 0x2a;
    pub(crate) const TLBI_NSNH_ALL: u8 = 0x30;
    pub(crate) const ATC_INV: u8 = 0x40;
    pub(crate) const PRI_RESP: u8 = 0x41;
    pub(crate) const RESUME: u8 = 0x44;
    pub(crate) const STALL_TERM: u8 = 0x45;
    pub(crate) const SYNC: u8 = 0x46;
}

/// How `CMD_SYNC` tells that it has completed (4.7.3), apart from the consumer
/// index passing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncSignal {
    /// `CS` = 0: not at all.
    None,
    /// `CS` = 1: an interrupt, by a write of `data` to `address` where MSIs are
    /// used.
    Interrupt {
        /// `MSIAddress[51:2]`; 0: the wired interrupt.
        address: PhysAddr,
        /// `MSIData`.
        data: u32,
        /// `MSH`: shareability.
        shareability: u8,
        /// `MSIAttr`: memory type.
        attributes: u8,
    },
    /// `CS` = 2: an event that wakes CPUs from `WFE`.
    Event,
}

/// `CMD_RESUME.{Abort, Resp}` (4.6.1): what becomes of a stalled transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// 0: terminate, as `CD.A` says.
    Terminate,
    /// 1: try again.
    Retry,
    /// 2: abort.
    Abort,
}

/// A command of the Non-secure queue.
///
/// Stream IDs are `sid`, substream IDs `ssid` (`None`: `SSV` = 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // The fields are the operands of the command's section.
pub enum Command {
    /// `CMD_PREFETCH_CONFIG` (4.2.1): a hint.
    PrefetchConfig { sid: u32, ssid: Option<u32> },
    /// `CMD_PREFETCH_ADDR` (4.2.2): a hint.
    PrefetchAddr {
        sid: u32,
        ssid: Option<u32>,
        address: Iova,
    },
    /// `CMD_CFGI_STE` (4.3.1): forget the entry of a stream, and what was
    /// reached through it; with `leaf` not the level 1 descriptor.
    CfgiSte { sid: u32, leaf: bool },
    /// `CMD_CFGI_STE_RANGE` (4.3.2): the aligned block of `2^(range + 1)` streams
    /// around `sid`.
    CfgiSteRange { sid: u32, range: u8 },
    /// `CMD_CFGI_ALL`: the same code with `Range` = 31.
    CfgiAll,
    /// `CMD_CFGI_CD` (4.3.3).
    CfgiCd { sid: u32, ssid: u32, leaf: bool },
    /// `CMD_CFGI_CD_ALL` (4.3.4).
    CfgiCdAll { sid: u32 },
    /// `CMD_TLBI_NH_ALL` (4.4.2): stage 1 of a VMID.
    TlbiNhAll { vmid: u16 },
    /// `CMD_TLBI_NH_ASID`.
    TlbiNhAsid { vmid: u16, asid: u16 },
    /// `CMD_TLBI_NH_VA`.
    TlbiNhVa {
        vmid: u16,
        asid: u16,
        at: TlbiAddress,
    },
    /// `CMD_TLBI_NH_VAA`: of any ASID.
    TlbiNhVaa { vmid: u16, at: TlbiAddress },
    /// `CMD_TLBI_EL2_ALL`.
    TlbiEl2All,
    /// `CMD_TLBI_EL2_ASID`.
    TlbiEl2Asid { asid: u16 },
    /// `CMD_TLBI_EL2_VA`.
    TlbiEl2Va { asid: u16, at: TlbiAddress },
    /// `CMD_TLBI_EL2_VAA`.
    TlbiEl2Vaa { at: TlbiAddress },
    /// `CMD_TLBI_S12_VMALL`: both stages of a VMID.
    TlbiS12VmAll { vmid: u16 },
    /// `CMD_TLBI_S2_IPA`: stage 2 by intermediate address.
    TlbiS2Ipa { vmid: u16, at: TlbiAddress },
    /// `CMD_TLBI_NSNH_ALL`: everything Non-secure below EL2.
    TlbiNsnhAll,
    /// `CMD_ATC_INV` (4.5.1): `2^size` pages in the device's own cache; 52 is
    /// everything.
    AtcInv {
        sid: u32,
        ssid: Option<u32>,
        global: bool,
        address: Iova,
        size: u8,
    },
    /// `CMD_PRI_RESP` (4.5.2).
    PriResp {
        sid: u32,
        ssid: Option<u32>,
        group: u16,
        response: u8,
    },
    /// `CMD_RESUME` (4.6.1).
    Resume { sid: u32, stag: u16, resume: Resume },
    /// `CMD_STALL_TERM` (4.6.2).
    StallTerm { sid: u32 },
    /// `CMD_SYNC` (4.7.3).
    Sync { signal: SyncSignal },
}

impl Command {
    /// `CMD_SYNC` without a signal: its completion shows in the consumer index.
    pub const SYNC: Command = Command::Sync {
        signal: SyncSignal::None,
    };

    /// The bytes of the command, all reserved bits 0.
    #[inline(always)]
    pub const fn encode(&self) -> RawCommand {
        use opcode as op;
        match *self {
            Command::PrefetchConfig { sid, ssid } => {
                [head(op::PREFETCH_CONFIG) | stream(sid) | substream(ssid), 0]
            }
            Command::PrefetchAddr { sid, ssid, address } => [
                head(op::PREFETCH_ADDR) | stream(sid) | substream(ssid),
                address.0 & span(63, 12),
            ],
            Command::CfgiSte { sid, leaf } => [head(op::CFGI_STE) | stream(sid), flag(leaf, 0)],
            Command::CfgiSteRange { sid, range } => [
                head(op::CFGI_STE_RANGE) | stream(sid),
                put(range as u64, 0, 5),
            ],
            Command::CfgiAll => [head(op::CFGI_STE_RANGE), 31],
            Command::CfgiCd { sid, ssid, leaf } => [
                head(op::CFGI_CD) | stream(sid) | put(ssid as u64, 12, 20),
                flag(leaf, 0),
            ],
            Command::CfgiCdAll { sid } => [head(op::CFGI_CD_ALL) | stream(sid), 0],
            Command::TlbiNhAll { vmid } => [head(op::TLBI_NH_ALL) | ids(vmid, 0), 0],
            Command::TlbiNhAsid { vmid, asid } => [head(op::TLBI_NH_ASID) | ids(vmid, asid), 0],
            Command::TlbiNhVa { vmid, asid, at } => by_address(op::TLBI_NH_VA, vmid, asid, &at),
            Command::TlbiNhVaa { vmid, at } => by_address(op::TLBI_NH_VAA, vmid, 0, &at),
            Command::TlbiEl2All => [head(op::TLBI_EL2_ALL), 0],
            Command::TlbiEl2Asid { asid } => [head(op::TLBI_EL2_ASID) | ids(0, asid), 0],
            Command::TlbiEl2Va { asid, at } => by_address(op::TLBI_EL2_VA, 0, asid, &at),
            Command::TlbiEl2Vaa { at } => by_address(op::TLBI_EL2_VAA, 0, 0, &at),
            Command::TlbiS12VmAll { vmid } => [head(op::TLBI_S12_VMALL) | ids(vmid, 0), 0],
            Command::TlbiS2Ipa { vmid, at } => by_address(op::TLBI_S2_IPA, vmid, 0, &at),
            Command::TlbiNsnhAll => [head(op::TLBI_NSNH_ALL), 0],
            Command::AtcInv {
                sid,
                ssid,
                global,
                address,
                size,
            } => [
                head(op::ATC_INV) | stream(sid) | substream(ssid) | flag(global, 9),
                (address.0 & span(63, 12)) | put(size as u64, 0, 6),
            ],
            Command::PriResp {
                sid,
                ssid,
                group,
                response,
            } => [
                head(op::PRI_RESP) | stream(sid) | substream(ssid),
                put(group as u64, 0, 9) | put(response as u64, 12, 2),
            ],
            Command::Resume { sid, stag, resume } => [
                head(op::RESUME) | stream(sid) | (resume as u64) << 12,
                stag as u64,
            ],
            Command::StallTerm { sid } => [head(op::STALL_TERM) | stream(sid), 0],
            Command::Sync { signal } => encode_sync(signal),
        }
    }

    /// Reads a command as an SMMU with these features would. Bits that are
    /// reserved or that its features do not use are ignored, as hardware
    /// ignores them.
    ///
    /// # Errors
    ///
    /// What stops the queue with `CERROR_ILL` (4.1.4, and the notes of each
    /// command): [`CommandIssue::Reserved`], [`CommandIssue::NotSupported`],
    /// [`CommandIssue::SecureStream`], [`CommandIssue::ReservedField`],
    /// [`CommandIssue::EmptyRange`].
    pub const fn decode(raw: &RawCommand, features: &Features) -> Result<Self, CommandIssue> {
        use opcode as op;
        let [word0, word1] = *raw;
        let op = word0 as u8;
        let sid = get(word0, 32, 32) as u32;
        let ssid = if bit(word0, 11) {
            Some(get(word0, 12, 20) as u32)
        } else {
            None
        };
        let vmid = get(word0, 32, 16) as u16;
        let asid = get(word0, 48, 16) as u16;
        // SSec of the commands that have a stream; on the Non-secure queue it
        // must be 0 (4.1.5).
        let has_stream = matches!(
            op,
            op::PREFETCH_CONFIG..=op::CFGI_CD_ALL | op::ATC_INV..=op::STALL_TERM
        );
        if has_stream && bit(word0, 10) {
            return Err(CommandIssue::SecureStream);
        }
        let supported = match op {
            op::CFGI_CD | op::CFGI_CD_ALL | op::TLBI_NH_ALL..=op::TLBI_NH_VAA => features.stage1,
            op::TLBI_EL2_ALL..=op::TLBI_EL2_VAA => features.hyp,
            op::TLBI_S12_VMALL | op::TLBI_S2_IPA => features.stage2,
            op::ATC_INV => features.ats,
            op::PRI_RESP => features.pri,
            op::RESUME | op::STALL_TERM => features.can_stall(),
            _ => true,
        };
        if !supported {
            return Err(CommandIssue::NotSupported { opcode: op });
        }
        let at = TlbiAddress::decode(raw, features.range_invalidation, features.ds);
        let by_address = matches!(
            op,
            op::TLBI_NH_VA | op::TLBI_NH_VAA | op::TLBI_EL2_VA | op::TLBI_EL2_VAA | op::TLBI_S2_IPA
        );
        if by_address && at.granule.is_some() && at.num == 0 && at.scale == 0 && at.ttl == 0 {
            return Err(CommandIssue::EmptyRange);
        }
        Ok(match op {
            op::PREFETCH_CONFIG => Command::PrefetchConfig { sid, ssid },
            op::PREFETCH_ADDR => Command::PrefetchAddr {
                sid,
                ssid,
                address: Iova(word1 & span(63, 12)),
            },
            op::CFGI_STE => Command::CfgiSte {
                sid,
                leaf: bit(word1, 0),
            },
            op::CFGI_STE_RANGE => match get(word1, 0, 5) as u8 {
                31 => Command::CfgiAll,
                range => Command::CfgiSteRange { sid, range },
            },
            op::CFGI_CD => Command::CfgiCd {
                sid,
                // SSV is not used here; without substreams the ID is 0.
                ssid: if features.ssid_bits == 0 {
                    0
                } else {
                    get(word0, 12, 20) as u32
                },
                leaf: bit(word1, 0),
            },
            op::CFGI_CD_ALL => Command::CfgiCdAll { sid },
            op::TLBI_NH_ALL => Command::TlbiNhAll { vmid },
            op::TLBI_NH_ASID => Command::TlbiNhAsid { vmid, asid },
            op::TLBI_NH_VA => Command::TlbiNhVa { vmid, asid, at },
            op::TLBI_NH_VAA => Command::TlbiNhVaa { vmid, at },
            op::TLBI_EL2_ALL => Command::TlbiEl2All,
            op::TLBI_EL2_ASID => Command::TlbiEl2Asid { asid },
            op::TLBI_EL2_VA => Command::TlbiEl2Va { asid, at },
            op::TLBI_EL2_VAA => Command::TlbiEl2Vaa { at },
            op::TLBI_S12_VMALL => Command::TlbiS12VmAll { vmid },
            op::TLBI_S2_IPA => Command::TlbiS2Ipa { vmid, at },
            op::TLBI_NSNH_ALL => Command::TlbiNsnhAll,
            op::ATC_INV => Command::AtcInv {
                sid,
                ssid,
                global: bit(word0, 9),
                address: Iova(word1 & span(63, 12)),
                size: get(word1, 0, 6) as u8,
            },
            op::PRI_RESP => Command::PriResp {
                sid,
                ssid,
                group: get(word1, 0, 9) as u16,
                response: get(word1, 12, 2) as u8,
            },
            op::RESUME => Command::Resume {
                sid,
                stag: word1 as u16,
                resume: match get(word0, 12, 2) {
                    0 => Resume::Terminate,
                    1 => Resume::Retry,
                    2 => Resume::Abort,
                    _ => return Err(CommandIssue::ReservedField { opcode: op }),
                },
            },
            op::STALL_TERM => Command::StallTerm { sid },
            op::SYNC => match decode_sync(raw) {
                Some(command) => command,
                None => return Err(CommandIssue::ReservedField { opcode: op }),
            },
            _ => return Err(CommandIssue::Reserved { opcode: op }),
        })
    }
}

const fn head(opcode: u8) -> u64 {
    opcode as u64
}

const fn stream(sid: u32) -> u64 {
    (sid as u64) << 32
}

const fn substream(ssid: Option<u32>) -> u64 {
    match ssid {
        None => 0,
        Some(ssid) => 1 << 11 | put(ssid as u64, 12, 20),
    }
}

const fn ids(vmid: u16, asid: u16) -> u64 {
    (vmid as u64) << 32 | (asid as u64) << 48
}

#[inline(always)]
const fn by_address(opcode: u8, vmid: u16, asid: u16, at: &TlbiAddress) -> RawCommand {
    let [word0, word1] = at.encode();
    [head(opcode) | ids(vmid, asid) | word0, word1]
}

const fn encode_sync(signal: SyncSignal) -> RawCommand {
    match signal {
        SyncSignal::None => [head(opcode::SYNC), 0],
        SyncSignal::Interrupt {
            address,
            data,
            shareability,
            attributes,
        } => [
            head(opcode::SYNC)
                | 1 << 12
                | put(shareability as u64, 22, 2)
                | put(attributes as u64, 24, 4)
                | (data as u64) << 32,
            address.0 & span(51, 2),
        ],
        SyncSignal::Event => [head(opcode::SYNC) | 2 << 12, 0],
    }
}

const fn decode_sync(raw: &RawCommand) -> Option<Command> {
    let signal = match get(raw[0], 12, 2) {
        0 => SyncSignal::None,
        1 => SyncSignal::Interrupt {
            address: PhysAddr(raw[1] & span(51, 2)),
            data: get(raw[0], 32, 32) as u32,
            shareability: get(raw[0], 22, 2) as u8,
            attributes: get(raw[0], 24, 4) as u8,
        },
        2 => SyncSignal::Event,
        _ => return None,
    };
    Some(Command::Sync { signal })
}
