//! Event records (7.3).

use dmabench_platform::{Iova, PhysAddr};

use super::bits::{bit, flag, get, put, span};

/// A record as the queue holds it: 32 bytes.
pub type RawEvent = [u64; 4];

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// 0x01 `F_UUT`: unsupported upstream transaction.
    UnsupportedTransaction,
    /// 0x02 `C_BAD_STREAMID`.
    BadStreamId,
    /// 0x03 `F_STE_FETCH`.
    SteFetch,
    /// 0x04 `C_BAD_STE`.
    BadSte,
    /// 0x05 `F_BAD_ATS_TREQ`.
    BadAtsRequest,
    /// 0x06 `F_STREAM_DISABLED`.
    StreamDisabled,
    /// 0x07 `F_TRANSL_FORBIDDEN`.
    TranslationForbidden,
    /// 0x08 `C_BAD_SUBSTREAMID`.
    BadSubstreamId,
    /// 0x09 `F_CD_FETCH`.
    CdFetch,
    /// 0x0a `C_BAD_CD`.
    BadCd,
    /// 0x0b `F_WALK_EABT`.
    WalkAbort,
    /// 0x10 `F_TRANSLATION`.
    Translation,
    /// 0x11 `F_ADDR_SIZE`.
    AddressSize,
    /// 0x12 `F_ACCESS`.
    Access,
    /// 0x13 `F_PERMISSION`.
    Permission,
    /// 0x20 `F_TLB_CONFLICT`.
    TlbConflict,
    /// 0x21 `F_CFG_CONFLICT`.
    ConfigConflict,
    /// 0x24 `E_PAGE_REQUEST`.
    PageRequest,
    /// 0x25 `F_VMS_FETCH`.
    VmsFetch,
    /// 0xe0 to 0xef: implementation defined.
    ImplementationDefined(u8),
    /// Any other number.
    Reserved(u8),
}

impl EventKind {
    /// The number of the record.
    pub const fn code(self) -> u8 {
        match self {
            EventKind::UnsupportedTransaction => 0x01,
            EventKind::BadStreamId => 0x02,
            EventKind::SteFetch => 0x03,
            EventKind::BadSte => 0x04,
            EventKind::BadAtsRequest => 0x05,
            EventKind::StreamDisabled => 0x06,
            EventKind::TranslationForbidden => 0x07,
            EventKind::BadSubstreamId => 0x08,
            EventKind::CdFetch => 0x09,
            EventKind::BadCd => 0x0a,
            EventKind::WalkAbort => 0x0b,
            EventKind::Translation => 0x10,
            EventKind::AddressSize => 0x11,
            EventKind::Access => 0x12,
            EventKind::Permission => 0x13,
            EventKind::TlbConflict => 0x20,
            EventKind::ConfigConflict => 0x21,
            EventKind::PageRequest => 0x24,
            EventKind::VmsFetch => 0x25,
            EventKind::ImplementationDefined(code) | EventKind::Reserved(code) => code,
        }
    }

    /// The kind of a number.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0x01 => EventKind::UnsupportedTransaction,
            0x02 => EventKind::BadStreamId,
            0x03 => EventKind::SteFetch,
            0x04 => EventKind::BadSte,
            0x05 => EventKind::BadAtsRequest,
            0x06 => EventKind::StreamDisabled,
            0x07 => EventKind::TranslationForbidden,
            0x08 => EventKind::BadSubstreamId,
            0x09 => EventKind::CdFetch,
            0x0a => EventKind::BadCd,
            0x0b => EventKind::WalkAbort,
            0x10 => EventKind::Translation,
            0x11 => EventKind::AddressSize,
            0x12 => EventKind::Access,
            0x13 => EventKind::Permission,
            0x20 => EventKind::TlbConflict,
            0x21 => EventKind::ConfigConflict,
            0x24 => EventKind::PageRequest,
            0x25 => EventKind::VmsFetch,
            0xe0..=0xef => EventKind::ImplementationDefined(code),
            other => EventKind::Reserved(other),
        }
    }

    /// Whether the record may stand for a stalled transaction, which waits for a
    /// `CMD_RESUME` (7.3.13 to 7.3.16).
    pub const fn may_stall(self) -> bool {
        matches!(
            self,
            EventKind::Translation
                | EventKind::AddressSize
                | EventKind::Access
                | EventKind::Permission
        )
    }
}

/// `CLASS`: what the SMMU was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// 0: fetching a context descriptor.
    Cd,
    /// 1: walking a table.
    Table,
    /// 2: translating the input address.
    Input,
    /// 3: reserved.
    Reserved,
}

/// A record, its fields as 7.3 lays them out. Fields that a kind of event does
/// not have are 0 or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The stream.
    pub sid: u32,
    /// The substream, if the transaction had one.
    pub ssid: Option<u32>,
    /// The transaction waits; `stag` names it.
    pub stall: bool,
    /// `STAG`.
    pub stag: u16,
    /// `PnU`: privileged.
    pub privileged: bool,
    /// `InD`: instruction.
    pub instruction: bool,
    /// `RnW`: a read by the device.
    pub read: bool,
    /// `S2`: stage 2 faulted.
    pub stage2: bool,
    /// `CLASS`.
    pub class: EventClass,
    /// The input address.
    pub address: Iova,
    /// The intermediate address (`S2`), or the address that could not be
    /// fetched.
    pub second: PhysAddr,
}

impl Event {
    /// Reads a record. Every bit pattern is one: an unknown number becomes
    /// [`EventKind::Reserved`].
    pub const fn decode(raw: &RawEvent) -> Self {
        let [q0, q1, q2, q3] = *raw;
        let kind = EventKind::from_code(q0 as u8);
        Event {
            kind,
            sid: get(q0, 32, 32) as u32,
            ssid: if bit(q0, 11) {
                Some(get(q0, 12, 20) as u32)
            } else {
                None
            },
            stall: kind.may_stall() && bit(q1, 31),
            stag: q1 as u16,
            privileged: bit(q1, 33),
            instruction: bit(q1, 34),
            read: bit(q1, 35),
            stage2: bit(q1, 39),
            class: match get(q1, 40, 2) {
                0 => EventClass::Cd,
                1 => EventClass::Table,
                2 => EventClass::Input,
                _ => EventClass::Reserved,
            },
            address: Iova(q2),
            second: PhysAddr(q3 & span(55, 3)),
        }
    }

    /// The record, as an SMMU writes it.
    pub const fn encode(&self) -> RawEvent {
        let substream = match self.ssid {
            None => 0,
            Some(ssid) => 1 << 11 | put(ssid as u64, 12, 20),
        };
        let class = match self.class {
            EventClass::Cd => 0,
            EventClass::Table => 1,
            EventClass::Input => 2,
            EventClass::Reserved => 3,
        };
        [
            self.kind.code() as u64 | substream | (self.sid as u64) << 32,
            self.stag as u64
                | flag(self.stall, 31)
                | flag(self.privileged, 33)
                | flag(self.instruction, 34)
                | flag(self.read, 35)
                | flag(self.stage2, 39)
                | put(class, 40, 2),
            self.address.0,
            self.second.0 & span(55, 3),
        ]
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_blocked_read_as_emulators_write_it() {
        // F_TRANSLATION, stream 0x20, RnW, class IN, address 0x8000_1000.
        let raw = [0x20_0000_0010, 1 << 35 | 2 << 40, 0x8000_1000, 0];
        let event = Event::decode(&raw);
        assert_eq!(event.kind, EventKind::Translation);
        assert_eq!((event.sid, event.ssid, event.read), (0x20, None, true));
        assert_eq!(event.class, EventClass::Input);
        assert_eq!(event.address, Iova(0x8000_1000));
        assert_eq!(event.encode(), raw);
    }

    #[test]
    fn bad_input_63_every_number_decodes_and_survives() {
        for code in 0..=255_u8 {
            assert_eq!(EventKind::from_code(code).code(), code);
            let noise = [
                u64::from(code) | 0x0123_4567_89ab_cd00,
                0xfedc_ba98_7654_3210,
                u64::MAX,
                u64::MAX,
            ];
            let event = Event::decode(&noise);
            assert_eq!(Event::decode(&event.encode()), event);
        }
        assert_eq!(EventKind::from_code(0x7f), EventKind::Reserved(0x7f));
    }
}
