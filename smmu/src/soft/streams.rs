//! From a stream to its tables: stream table, context descriptors, and what the
//! SMMU remembers of them (Arm IHI 0070, 3.3 and chapter 5).
//!
//! Like everything it remembers, a structure stays until an invalidation that
//! is certain to remove it, *invalid* structures included: after `V` went from 0
//! to 1 without a `CMD_CFGI` the stream goes on faulting (3.21.3).

use alloc::collections::BTreeMap;

use dmabench_platform::PhysAddr;

use super::{
    command::Command,
    memory::SimMemory,
    regs::{self, Geometry, Stage1Regs, Stage2Regs},
    report::{Access, FaultKind},
    translate::{Notes, Regime, truth_of_stage2},
};
use crate::format::{Cd, Features, Ste, SteFields, SteIllegal, StreamContext, check_cd, check_ste};

/// `STRTAB_BASE` and `STRTAB_BASE_CFG` as they stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamTable {
    pub(super) base: u64,
    pub(super) lg2_size: u32,
    /// Two levels, split at this many bits.
    pub(super) split: Option<u32>,
}

/// What a stream's structures come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) regime: Regime,
    /// `CD.R` and `S2R`: faults of that stage are recorded.
    pub(super) records: [bool; 2],
}

const STE_BYTES: u64 = 64;
const CD_BYTES: u64 = 64;
/// Context descriptors of a second-level table of 4 KiB or 64 KiB, as powers
/// of two (5.2: S1Fmt 1 and 2).
const LEAF_LG2: [u32; 2] = [6, 10];

/// Every structure that was ever read and not invalidated since.
#[derive(Default)]
pub(super) struct ConfigCaches {
    /// Level 1 stream table descriptors, by StreamID above the split.
    blocks: BTreeMap<u32, u64>,
    /// The `SPLIT` those were read with.
    split: u32,
    entries: BTreeMap<u32, [u64; 8]>,
    /// Level 1 context descriptors, by stream and index.
    context_blocks: BTreeMap<(u32, u32), u64>,
    contexts: BTreeMap<(u32, u32), [u64; 8]>,
}

impl ConfigCaches {
    /// What a command makes it forget (4.3).
    pub(super) fn apply(&mut self, command: &Command) {
        match *command {
            Command::CfgiSte { sid, leaf } => {
                if !leaf {
                    self.blocks.remove(&(sid >> self.split));
                }
                self.forget_streams(|s| s == sid);
            }
            Command::CfgiSteRange { range: 31, .. } => {
                self.blocks.clear();
                self.forget_streams(|_| true);
            }
            Command::CfgiSteRange { sid, range } => {
                let group = |s: u32| u64::from(s) >> (range + 1);
                let split = self.split;
                // A level 1 descriptor goes if the group covers its block.
                self.blocks
                    .retain(|block, _| group(*block << split) != group(sid));
                self.forget_streams(|s| group(s) == group(sid));
            }
            Command::CfgiCd { sid, ssid, leaf } => {
                self.contexts.remove(&(sid, ssid));
                if !leaf {
                    for lg2 in LEAF_LG2 {
                        self.context_blocks.remove(&(sid, ssid >> lg2));
                    }
                }
            }
            Command::CfgiCdAll { sid } => self.forget_contexts(|s| s == sid),
            _ => {}
        }
    }

    fn forget_streams(&mut self, goes: impl Fn(u32) -> bool) {
        self.entries.retain(|sid, _| !goes(*sid));
        self.forget_contexts(goes);
    }

    fn forget_contexts(&mut self, goes: impl Fn(u32) -> bool) {
        self.contexts.retain(|(sid, _), _| !goes(*sid));
        self.context_blocks.retain(|(sid, _), _| !goes(*sid));
    }
}

/// Reads structures, through the caches if there are any.
pub(super) struct Reader<'a> {
    pub(super) memory: &'a SimMemory,
    pub(super) features: &'a Features,
    pub(super) table: &'a StreamTable,
    pub(super) caches: Option<&'a mut ConfigCaches>,
    pub(super) notes: &'a mut Notes,
}

impl Reader<'_> {
    fn words<const N: usize>(&mut self, at: u64) -> [u64; N] {
        core::array::from_fn(|i| {
            let (word, freed) = self.memory.fetch(PhysAddr(at + 8 * i as u64));
            self.notes.freed |= freed;
            word
        })
    }

    /// How transactions of the stream are translated.
    pub(super) fn resolve(&mut self, sid: u32, ssid: Option<u32>) -> Result<Resolved, FaultKind> {
        let raw = self.stream_entry(sid)?;
        let ste = match check_ste(&Ste(raw), self.features) {
            Ok(ste) => ste,
            // The one rule that is not of the entry but of the transaction.
            Err(SteIllegal::ReservedDss) => SteFields::decode(&Ste(raw)),
            Err(_) => return Err(FaultKind::BadSte),
        };
        let vmid = if self.features.stage2 {
            raw[2] as u16
        } else {
            0
        };
        let (stage1, stage2) = match raw[0] >> 1 & 7 {
            4 => (false, false),
            5 => (true, false),
            6 => (false, true),
            7 => (true, true),
            // Config = 0b0xx: stopped without an event.
            _ => return Err(FaultKind::Aborted),
        };
        let mut regime = Regime {
            vmid,
            stage1: None,
            stage2: None,
        };
        let mut records = [true, raw[2] >> 58 & 1 != 0];
        if stage2 {
            let regs = stage2_regs(&raw);
            regime.stage2 = Some(regs::stage2(&regs).map_err(|_| FaultKind::BadSte)?);
        }
        if stage1 && let Some(ssid) = self.substream(&raw, ssid)? {
            let raw_cd = self.context(sid, &raw, ssid, regime.stage2.as_ref())?;
            check_cd(&Cd(raw_cd), &StreamContext::of(&ste), self.features)
                .map_err(|_| FaultKind::BadCd)?;
            let halves = regs::stage1(&stage1_regs(&raw_cd)).map_err(|_| FaultKind::BadCd)?;
            regime.stage1 = Some(((raw_cd[0] >> 48) as u16, halves));
            records[0] = raw_cd[0] >> 45 & 1 != 0;
        } else if ssid.is_some() {
            // A substream where there is no stage 1 (3.9).
            return Err(FaultKind::BadSubstreamId);
        }
        Ok(Resolved { regime, records })
    }

    fn stream_entry(&mut self, sid: u32) -> Result<[u64; 8], FaultKind> {
        if let Some(raw) = self.caches.as_ref().and_then(|c| c.entries.get(&sid)) {
            return Ok(*raw);
        }
        let table = *self.table;
        let size = table.lg2_size.min(self.features.sid_bits);
        if u64::from(sid) >> size != 0 {
            return Err(FaultKind::BadStreamId);
        }
        let at = match table.split {
            None => table.base + u64::from(sid) * STE_BYTES,
            Some(split) => {
                let block = self.block(sid >> split, split);
                // Span (5.1): 2^(Span - 1) entries; 0 and what is beyond the
                // split is no table.
                let span = block & 31;
                let index = u64::from(sid) & ((1 << split) - 1);
                if span == 0 || span > u64::from(split) + 1 || index >> (span - 1) != 0 {
                    return Err(FaultKind::BadStreamId);
                }
                (block & 0x00ff_ffff_ffff_ffc0) + index * STE_BYTES
            }
        };
        let raw = self.words(at);
        if let Some(caches) = &mut self.caches {
            caches.entries.insert(sid, raw);
        }
        Ok(raw)
    }

    fn block(&mut self, index: u32, split: u32) -> u64 {
        if let Some(word) = self.caches.as_ref().and_then(|c| c.blocks.get(&index)) {
            return *word;
        }
        let [word] = self.words(self.table.base + u64::from(index) * 8);
        if let Some(caches) = &mut self.caches {
            caches.split = split;
            caches.blocks.insert(index, word);
        }
        word
    }

    /// The context descriptor a transaction uses; `None` skips stage 1 (5.2:
    /// S1CDMax, S1DSS).
    fn substream(&self, ste: &[u64; 8], ssid: Option<u32>) -> Result<Option<u32>, FaultKind> {
        let max = ste[0] >> 59;
        match ssid {
            Some(_) if max == 0 => Err(FaultKind::BadSubstreamId),
            Some(ssid) if u64::from(ssid) >> max != 0 => Err(FaultKind::BadSubstreamId),
            // Substream 0 belongs to those without one.
            Some(0) if ste[1] & 3 == 2 => Err(FaultKind::StreamDisabled),
            Some(ssid) => Ok(Some(ssid)),
            None if max == 0 => Ok(Some(0)),
            None => match ste[1] & 3 {
                1 => Ok(None),
                2 => Ok(Some(0)),
                _ => Err(FaultKind::StreamDisabled),
            },
        }
    }

    fn context(
        &mut self,
        sid: u32,
        ste: &[u64; 8],
        ssid: u32,
        stage2: Option<&Geometry>,
    ) -> Result<[u64; 8], FaultKind> {
        let key = (sid, ssid);
        if let Some(raw) = self.caches.as_ref().and_then(|c| c.contexts.get(&key)) {
            return Ok(*raw);
        }
        let base = ste[0] & 0x000f_ffff_ffff_ffc0;
        let at = match ste[0] >> 4 & 3 {
            0 => base + u64::from(ssid) * CD_BYTES,
            format => {
                let lg2 = LEAF_LG2[usize::from(format == 2)];
                let block = self.context_block(sid, base, ssid >> lg2, stage2)?;
                if block & 1 == 0 {
                    return Err(FaultKind::BadSubstreamId);
                }
                let index = u64::from(ssid) & ((1 << lg2) - 1);
                (block & 0x000f_ffff_ffff_f000) + index * CD_BYTES
            }
        };
        let at = self.through_stage2(at, stage2)?;
        let raw = self.words(at);
        if let Some(caches) = &mut self.caches {
            caches.contexts.insert(key, raw);
        }
        Ok(raw)
    }

    fn context_block(
        &mut self,
        sid: u32,
        base: u64,
        index: u32,
        stage2: Option<&Geometry>,
    ) -> Result<u64, FaultKind> {
        let key = (sid, index);
        let cached = self.caches.as_ref();
        if let Some(word) = cached.and_then(|c| c.context_blocks.get(&key)) {
            return Ok(*word);
        }
        let at = self.through_stage2(base + u64::from(index) * 8, stage2)?;
        let [word] = self.words(at);
        if let Some(caches) = &mut self.caches {
            caches.context_blocks.insert(key, word);
        }
        Ok(word)
    }

    /// Context descriptors of nested streams lie at intermediate addresses.
    fn through_stage2(&mut self, at: u64, stage2: Option<&Geometry>) -> Result<u64, FaultKind> {
        let Some(geometry) = stage2 else {
            return Ok(at);
        };
        match truth_of_stage2(self.memory, geometry, at, Access::Read, self.notes) {
            Ok(target) => Ok(target.phys),
            Err(stop) => Err(stop.kind),
        }
    }
}

/// Stage 1 fields of a context descriptor (5.4).
fn stage1_regs(cd: &[u64; 8]) -> Stage1Regs {
    let field = |shift: u32, bits: u32| (cd[0] >> shift & ((1 << bits) - 1)) as u8;
    let bit = |shift: u32| cd[0] >> shift & 1 != 0;
    Stage1Regs {
        ttb0: cd[1] & 0x000f_ffff_ffff_fff0,
        t0sz: field(0, 6),
        tg0: field(6, 2),
        epd0: bit(14),
        ttb1: cd[2] & 0x000f_ffff_ffff_fff0,
        t1sz: field(16, 6),
        tg1: field(22, 2),
        epd1: bit(30),
        ips: field(32, 3),
        ds: false,
        affd: bit(35),
        ha: bit(43),
        hd: bit(42),
    }
}

/// Stage 2 fields of a stream table entry (5.2).
fn stage2_regs(ste: &[u64; 8]) -> Stage2Regs {
    let field = |shift: u32, bits: u32| (ste[2] >> shift & ((1 << bits) - 1)) as u8;
    let bit = |shift: u32| ste[2] >> shift & 1 != 0;
    Stage2Regs {
        ttb: ste[3] & 0x000f_ffff_ffff_fff0,
        t0sz: field(32, 6),
        sl0: field(38, 2),
        tg: field(46, 2),
        ps: field(48, 3),
        ds: false,
        affd: bit(53),
        ha: bit(56),
        hd: bit(55),
    }
}
