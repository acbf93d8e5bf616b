//! Translation contexts: an ASID or VMID, and where its tables are.

use dmabench_pgtable::{Registers, Stage, TableMemory, TableRef};
use dmabench_platform::Granule;

use super::{
    ContextError, Smmu,
    stream_table::Entry,
    writer::{EntryKind, update_entry},
};
use crate::{
    SmmuHost,
    format::{
        CdFields, Command, Features, Stage2Fields, StallModel, Ste, SteFields, StreamContext,
        TableHalf, check_cd, check_ste,
    },
};

/// Which stage a context translates, and the number its translations are tagged
/// with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TranslationStage {
    /// Stage 1.
    One {
        /// The ASID; the VMID is 0.
        asid: u16,
    },
    /// Stage 2.
    Two {
        /// The VMID.
        vmid: u16,
    },
}

/// Names a context of one [`Smmu`]: what its invalidations are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SmmuContext {
    pub(super) number: u32,
    pub(super) stage: TranslationStage,
}

impl SmmuContext {
    /// Stage and tag.
    pub const fn stage(&self) -> TranslationStage {
        self.stage
    }
}

pub(super) struct Context {
    pub(super) name: SmmuContext,
    /// What the entries of its streams say, ATS aside.
    pub(super) entry: SteFields,
    descriptor: Option<TableRef>,
    /// Streams that hold it.
    pub(super) streams: usize,
}

// SAFETY: the descriptor's memory came from a `TableMemory`, is reached by its
// owner only, and a `TableRef` is just an address.
unsafe impl Send for Context {}

const CD_BYTES: usize = 64;

impl Context {
    /// Gives its memory back.
    ///
    /// # Safety
    ///
    /// The SMMU does not read the descriptor any more, and nobody uses the
    /// context again. `memory` is what it was made with.
    pub(super) unsafe fn free<M: TableMemory>(&mut self, memory: &M) {
        if let Some(descriptor) = self.descriptor.take() {
            // SAFETY: from `alloc(CD_BYTES)`; the rest is promised by the caller.
            unsafe { memory.free(descriptor, CD_BYTES) };
        }
    }
}

impl<H: SmmuHost, M: TableMemory> Smmu<H, M> {
    /// A context for the tables that `registers` describe
    /// ([`PageTable::registers`](dmabench_pgtable::PageTable::registers)). No
    /// stream uses it yet.
    ///
    /// # Errors
    ///
    /// [`ContextError`]; nothing is kept.
    pub fn create_context(&self, registers: &Registers) -> Result<SmmuContext, ContextError> {
        let tables = &mut *self.tables.lock();
        let ids = match registers.stage {
            Stage::One => &mut tables.asids,
            Stage::Two => &mut tables.vmids,
        };
        let id = ids.take().ok_or(ContextError::NoId)?;
        let made = match registers.stage {
            Stage::One => self.stage1(registers, id),
            Stage::Two => self.stage2(registers, id),
        };
        match made {
            Err(error) => {
                // It was not used, so nothing is tagged with it.
                ids.give_back(id);
                Err(error)
            }
            Ok((entry, descriptor)) => {
                // They come round, and there are far fewer contexts than numbers.
                while tables.contexts.contains_key(&tables.next_context) {
                    tables.next_context = tables.next_context.wrapping_add(1);
                }
                let number = tables.next_context;
                tables.next_context = number.wrapping_add(1);
                let name = SmmuContext {
                    number,
                    stage: match registers.stage {
                        Stage::One => TranslationStage::One { asid: id },
                        Stage::Two => TranslationStage::Two { vmid: id },
                    },
                };
                tables.contexts.insert(
                    name.number,
                    Context {
                        name,
                        entry,
                        descriptor,
                        streams: 0,
                    },
                );
                Ok(name)
            }
        }
    }

    fn stage1(
        &self,
        registers: &Registers,
        asid: u16,
    ) -> Result<(SteFields, Option<TableRef>), ContextError> {
        let cd = stage1_descriptor(registers, asid, &self.features);
        let bytes = cd.encode();
        check_cd(&bytes, &StreamContext::default(), &self.features).map_err(ContextError::BadCd)?;
        let descriptor = self.memory.alloc(CD_BYTES).ok_or(ContextError::NoMemory)?;
        let mut entry = SteFields::stage1(descriptor.phys, 0);
        if !self.features.coherent {
            (entry.s1_cir, entry.s1_cor, entry.s1_csh) = (0, 0, 2);
        }
        // Where faults may stall, ours must not: nobody would resume them.
        entry.s1_stall_disabled = self.features.stall_model == StallModel::Both;
        if let Err(illegal) = check_ste(&entry.encode(), &self.features) {
            // SAFETY: just allocated, and nobody knows it.
            unsafe { self.memory.free(descriptor, CD_BYTES) };
            return Err(ContextError::BadSte(illegal));
        }
        // SAFETY: 64 bytes from this memory, ours.
        let mut memory = unsafe { Entry::of(descriptor, &self.memory, self.features.coherent) };
        // No stream leads here yet, so the SMMU has nothing to forget.
        let Ok(_) = update_entry(EntryKind::Cd, &mut memory, &bytes.0, false, || {
            Ok::<_, core::convert::Infallible>(())
        });
        self.host.publish();
        Ok((entry, Some(descriptor)))
    }

    fn stage2(
        &self,
        registers: &Registers,
        vmid: u16,
    ) -> Result<(SteFields, Option<TableRef>), ContextError> {
        let stall = self.features.stall_model == StallModel::StallForced;
        let entry = SteFields::stage2(stage2_fields(registers, vmid, stall));
        let ste: Ste = entry.encode();
        check_ste(&ste, &self.features).map_err(ContextError::BadSte)?;
        Ok((entry, None))
    }

    /// Ends a context: invalidates what is tagged with it, waits, and gives its
    /// number and descriptor back.
    ///
    /// # Errors
    ///
    /// [`ContextError`]; the context stays, and can be destroyed again.
    pub fn destroy_context(&self, context: SmmuContext) -> Result<(), ContextError> {
        let tables = &mut *self.tables.lock();
        let found = tables
            .contexts
            .get(&context.number)
            .filter(|found| found.name == context)
            .ok_or(ContextError::Unknown)?;
        if found.streams != 0 {
            return Err(ContextError::InUse {
                streams: found.streams,
            });
        }
        let ticket = self
            .commands
            .push_sync(&[whole_context(&context.stage).encode()])
            .map_err(ContextError::Queue)?;
        self.commands
            .sync_wait(ticket, self.config.timeout)
            .map_err(ContextError::NotInvalidated)?;
        if let Some(mut gone) = tables.contexts.remove(&context.number) {
            // SAFETY: no stream leads to the descriptor: each was switched away
            // with a completed `CMD_CFGI_STE`, which forgets descriptors too.
            unsafe { gone.free(&self.memory) };
        }
        match context.stage {
            TranslationStage::One { asid } => tables.asids.give_back(asid),
            TranslationStage::Two { vmid } => tables.vmids.give_back(vmid),
        }
        Ok(())
    }
}

/// The command that invalidates a whole context.
#[inline]
pub(super) const fn whole_context(stage: &TranslationStage) -> Command {
    match *stage {
        TranslationStage::One { asid } => Command::TlbiNhAsid { vmid: 0, asid },
        TranslationStage::Two { vmid } => Command::TlbiS12VmAll { vmid },
    }
}

fn stage1_descriptor(registers: &Registers, asid: u16, features: &Features) -> CdFields {
    let half = TableHalf {
        base: registers.ttb,
        txsz: registers.tsz,
        granule: Some(registers.granule),
        inner: registers.irgn as u8,
        outer: registers.orgn as u8,
        shareability: registers.sh as u8,
        disabled: false,
    };
    let disabled_low = TableHalf {
        granule: Some(Granule::K4),
        ..TableHalf::DISABLED
    };
    let (low, high) = if registers.upper {
        (disabled_low, half)
    } else {
        (half, TableHalf::DISABLED)
    };
    CdFields {
        high,
        ha: registers.dirty,
        hd: registers.dirty,
        ds: registers.ds,
        stall: features.stall_model == StallModel::StallForced,
        ..CdFields::new(asid, low, registers.output_size, registers.mair)
    }
}

fn stage2_fields(registers: &Registers, vmid: u16, stall: bool) -> Stage2Fields {
    Stage2Fields {
        vmid,
        t0sz: registers.tsz,
        sl0: registers.sl(),
        ir0: registers.irgn as u8,
        or0: registers.orgn as u8,
        sh0: registers.sh as u8,
        granule: Some(registers.granule),
        ps: registers.output_size,
        ha: registers.dirty,
        hd: registers.dirty,
        stall,
        ds: registers.ds,
        ttb: registers.ttb,
        ..Stage2Fields::default()
    }
}
