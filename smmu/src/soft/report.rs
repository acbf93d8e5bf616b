//! What an access came to, and what went wrong on the way.

use core::fmt;

use dmabench_platform::{Iova, PhysAddr, TimeNs};

/// What a device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read from memory (the CPU's buffer goes to the device).
    Read,
    /// Write to memory.
    Write,
}

/// A translation stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Stage 1: I/O virtual to intermediate (or physical) addresses.
    One,
    /// Stage 2: intermediate to physical addresses.
    Two,
}

/// Why the SMMU stopped an access (Arm IHI 0070, 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// `F_TRANSLATION`: no valid descriptor, or an address outside the tables.
    Translation,
    /// `F_ADDR_SIZE`: an address beyond the output size, or one that sets bits
    /// it must not.
    AddressSize,
    /// `F_ACCESS`: access flag 0.
    AccessFlag,
    /// `F_PERMISSION`.
    Permission,
    /// `C_BAD_STREAMID`: no such stream.
    BadStreamId,
    /// `C_BAD_STE`: the stream table entry is ILLEGAL.
    BadSte,
    /// `C_BAD_SUBSTREAMID`: no such substream.
    BadSubstreamId,
    /// `F_STREAM_DISABLED`: a transaction without a substream where only those
    /// with one are allowed, or the other way round.
    StreamDisabled,
    /// `C_BAD_CD`: the context descriptor is ILLEGAL.
    BadCd,
    /// The stream, or the whole SMMU, is set to abort: no event.
    Aborted,
}

impl FaultKind {
    /// Name of the event record (IHI 0070, 7.3).
    pub const fn event_name(self) -> &'static str {
        match self {
            FaultKind::Translation => "F_TRANSLATION",
            FaultKind::AddressSize => "F_ADDR_SIZE",
            FaultKind::AccessFlag => "F_ACCESS",
            FaultKind::Permission => "F_PERMISSION",
            FaultKind::BadStreamId => "C_BAD_STREAMID",
            FaultKind::BadSte => "C_BAD_STE",
            FaultKind::BadSubstreamId => "C_BAD_SUBSTREAMID",
            FaultKind::StreamDisabled => "F_STREAM_DISABLED",
            FaultKind::BadCd => "C_BAD_CD",
            FaultKind::Aborted => "abort",
        }
    }

    /// Number of the event record; `None` for an abort without one.
    pub const fn event_code(self) -> Option<u8> {
        Some(match self {
            FaultKind::BadStreamId => 0x02,
            FaultKind::BadSte => 0x04,
            FaultKind::StreamDisabled => 0x06,
            FaultKind::BadSubstreamId => 0x08,
            FaultKind::BadCd => 0x0a,
            FaultKind::Translation => 0x10,
            FaultKind::AddressSize => 0x11,
            FaultKind::AccessFlag => 0x12,
            FaultKind::Permission => 0x13,
            FaultKind::Aborted => return None,
        })
    }

    /// Whether translation stopped the access, rather than what configures it.
    pub const fn is_translation(self) -> bool {
        matches!(
            self,
            FaultKind::Translation
                | FaultKind::AddressSize
                | FaultKind::AccessFlag
                | FaultKind::Permission
        )
    }
}

/// A stopped access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub kind: FaultKind,
    /// The address the device used.
    pub iova: Iova,
    /// What it wanted.
    pub access: Access,
    /// The stage that stopped it; stage 1 for what is of neither.
    pub stage: Stage,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {} ({:?}, stage {:?})",
            self.kind.event_name(),
            self.iova,
            self.access,
            self.stage
        )
    }
}

impl core::error::Error for Fault {}

/// A rule of the mapping layer that an access proved broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ViolationKind {
    /// The access went through a cached entry whose invalidation had completed:
    /// the commands did not cover what they should have (A6), or the caller
    /// [declared](super::SoftSmmu::declare_gone) it gone too early (S1).
    AfterInvalidation,
    /// The tables map the address to something else by now, but the access went
    /// where an old entry said: the address was reused while stale (A1).
    Reused,
    /// The walk read a table that had been given back (A2).
    FreedTable,
    /// The tables map the address, but the access faulted because of a stale
    /// entry: a table was put where a cached one had been, without an
    /// invalidation between; or a stream's structures changed without one.
    LostMapping,
    /// A stream's structure was used although its invalidation had completed,
    /// as the caller [declared](super::SmmuModel::declare_configured).
    StaleConfiguration,
}

/// One proof of a broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub kind: ViolationKind,
    /// The address the device used.
    pub iova: Iova,
    /// Where the access went, if it went anywhere.
    pub phys: Option<PhysAddr>,
    /// What the device wanted.
    pub access: Access,
    /// When.
    pub at: TimeNs,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {:?} of {} at {} ns",
            self.kind, self.access, self.iova, self.at.0
        )?;
        match self.phys {
            Some(phys) => write!(f, " reached {phys}"),
            None => f.write_str(" faulted"),
        }
    }
}

/// Whether the tables still say what an access used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// They do.
    Fresh,
    /// They do not: a cached entry outlived its mapping.
    Stale {
        /// When an access first found the entry stale.
        first_seen: TimeNs,
        /// When an access last found it fresh; the mapping ended at some time
        /// between the two.
        last_fresh: TimeNs,
    },
}

impl Freshness {
    /// Whether it is [`Fresh`](Freshness::Fresh).
    pub fn is_fresh(&self) -> bool {
        matches!(self, Freshness::Fresh)
    }

    /// How old a stale entry is for certain at `now`, in ns; 0 if fresh.
    /// Exact if the device looked right after the unmapping.
    pub fn age_ns(&self, now: TimeNs) -> u64 {
        match self {
            Freshness::Fresh => 0,
            Freshness::Stale { first_seen, .. } => now.since(*first_seen),
        }
    }
}

/// What became of one access that stays inside a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reached memory.
    Reached {
        /// Where.
        phys: PhysAddr,
        /// Whether it should have.
        freshness: Freshness,
    },
    /// It was stopped.
    Faulted(Fault),
}

impl Outcome {
    /// Whether the access reached memory through an entry that the tables no
    /// longer back.
    pub fn is_stale(&self) -> bool {
        matches!(
            self,
            Outcome::Reached {
                freshness: Freshness::Stale { .. },
                ..
            }
        )
    }

    /// Whether the access reached memory as the tables say.
    pub fn is_fresh(&self) -> bool {
        matches!(
            self,
            Outcome::Reached {
                freshness: Freshness::Fresh,
                ..
            }
        )
    }

    /// Where the access went, if it went anywhere.
    pub fn phys(&self) -> Option<PhysAddr> {
        match self {
            Outcome::Reached { phys, .. } => Some(*phys),
            Outcome::Faulted(_) => None,
        }
    }

    /// The fault, if it was stopped.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Outcome::Reached { .. } => None,
            Outcome::Faulted(fault) => Some(*fault),
        }
    }
}

/// Counters of a [`SoftSmmu`](super::SoftSmmu), since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoftStats {
    /// Accesses, one per page touched.
    pub accesses: u64,
    /// Accesses that a cached translation answered.
    pub tlb_hits: u64,
    /// Accesses that reached memory although the tables no longer said so.
    pub stale_accesses: u64,
    /// The oldest of them, in ns of the SMMU's clock, counted from the first
    /// access that found the entry stale.
    pub stale_age_max_ns: u64,
    /// Accesses that were stopped.
    pub faults: u64,
    /// Broken rules; [`SoftSmmu::violations`](super::SoftSmmu::violations) has
    /// the first of them.
    pub violations: u64,
    /// Accesses whose stream table entry or context descriptor was remembered
    /// and is no longer what memory says.
    pub stale_configurations: u64,
    /// Commands by address that were queued (`CMD_TLBI_NH_VA`, `..._S2_IPA`).
    pub commands_by_address: u64,
    /// Commands for a whole context (`CMD_TLBI_NH_ASID`, ...).
    pub commands_by_context: u64,
    /// Commands for stream table entries and context descriptors (`CMD_CFGI_*`).
    pub commands_by_stream: u64,
    /// `CMD_SYNC`s.
    pub syncs: u64,
    /// Ranges that a [`TlbBackend`](dmabench_flushq::TlbBackend) caller asked
    /// for.
    pub ranges: u64,
    /// Translations cached now.
    pub tlb_entries: u64,
    /// Table entries cached now.
    pub walk_entries: u64,
}
