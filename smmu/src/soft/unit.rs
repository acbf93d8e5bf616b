//! The software SMMU as its users see it: made, attached to, asked.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use dmabench_pgtable::Registers;
use dmabench_platform::{Clock, Iova, TimeNs, sync::Mutex};

use super::{
    command::{Command, Reach, Span, SpanFlaw},
    device::SimDevice,
    memory::SimMemory,
    range::RangeSupport,
    regs::{self, RegsError, Stage1Regs, Stage2Regs},
    report::{Access, Outcome, SoftStats, Violation},
    state::{Paths, State, Tamper},
    translate::{Notes, Regime},
};

/// How the accesses of a device are translated: what a stream table entry and a
/// context descriptor say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// The VMID that tags everything of this stream.
    pub vmid: u16,
    /// Stage 1: the ASID and the registers. `None`: bypassed.
    pub stage1: Option<(u16, Stage1Regs)>,
    /// Stage 2. `None`: bypassed.
    pub stage2: Option<Stage2Regs>,
}

impl StreamConfig {
    /// No translation at all.
    pub const BYPASS: StreamConfig = StreamConfig {
        vmid: 0,
        stage1: None,
        stage2: None,
    };

    /// Stage 1 only, VMID 0.
    pub const fn stage1(asid: u16, regs: Stage1Regs) -> Self {
        StreamConfig {
            vmid: 0,
            stage1: Some((asid, regs)),
            stage2: None,
        }
    }

    /// Stage 2 only.
    pub const fn stage2(vmid: u16, regs: Stage2Regs) -> Self {
        StreamConfig {
            vmid,
            stage1: None,
            stage2: Some(regs),
        }
    }

    /// For one table of `pgtable`: `id` is its ASID (stage 1) or VMID (stage 2).
    pub fn for_table(id: u16, registers: &Registers) -> Self {
        match registers.stage {
            dmabench_pgtable::Stage::One => Self::stage1(id, Stage1Regs::for_table(registers)),
            dmabench_pgtable::Stage::Two => Self::stage2(id, Stage2Regs::for_table(registers)),
        }
    }

    /// The context that invalidations of this stream's translations name.
    pub const fn context(&self) -> SmmuContext {
        let vmid = self.vmid;
        match (self.stage1, self.stage2) {
            (Some((asid, _)), _) => SmmuContext::Stage1 { vmid, asid },
            _ => SmmuContext::Stage2 {
                vmid,
                nested: false,
            },
        }
    }

    /// Stage 1 on top of stage 2; stage 1's table addresses are translated too.
    pub const fn nested(asid: u16, stage1: Stage1Regs, vmid: u16, stage2: Stage2Regs) -> Self {
        StreamConfig {
            vmid,
            stage1: Some((asid, stage1)),
            stage2: Some(stage2),
        }
    }
}

/// Names an address space in invalidations: the `Context` of the
/// [`TlbBackend`](dmabench_flushq::TlbBackend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmmuContext {
    /// Stage 1 entries of an ASID.
    Stage1 {
        /// The VMID the stream is tagged with; 0 without stage 2.
        vmid: u16,
        /// The ASID.
        asid: u16,
    },
    /// Stage 2 entries of a VMID.
    Stage2 {
        /// The VMID.
        vmid: u16,
        /// A stage 1 lies on top for some stream. Entries that combine both
        /// stages do not answer to intermediate addresses, so all stage 1
        /// entries of the VMID go with every range.
        nested: bool,
    },
}

/// Faults of real SMMUs that the model can be given, to see that the driver's
/// [`Errata`](crate::driver::Errata) avoid them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defects {
    /// A range command removes the entry of its first granule only.
    pub range_is_one_page: bool,
    /// A command with a level hint (TTL) removes nothing.
    pub hinted_is_lost: bool,
    /// A command without a range (TG = 0) removes nothing.
    pub single_is_lost: bool,
}

impl Defects {
    /// What is left of what a command should remove.
    pub(super) fn spoil(&self, span: &Span, reach: Reach) -> Option<Reach> {
        if self.hinted_is_lost && span.ttl != 0 || self.single_is_lost && span.tg == 0 {
            return None;
        }
        match reach.granule {
            Some(granule) if self.range_is_one_page => Some(Reach {
                last: reach.first | granule.mask(),
                ..reach
            }),
            _ => Some(reach),
        }
    }
}

/// What a [`SoftSmmu`] can do, and how it behaves where it may choose.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SoftConfig {
    /// What its commands by address can say. Default: ranges, no 52-bit tables.
    pub range: RangeSupport,
    /// `None` (default): an invalidation takes effect as late as it may, at the
    /// sync. `Some(seed)`: each takes effect at a random point between its
    /// command and the sync, in any order.
    pub seed: Option<u64>,
    /// What is wrong with it. Default: nothing.
    pub defects: Defects,
}

impl Default for SoftConfig {
    fn default() -> Self {
        SoftConfig {
            range: RangeSupport {
                ril: true,
                ds: false,
            },
            seed: None,
            defects: Defects::default(),
        }
    }
}

impl SoftConfig {
    /// Chooses what the commands can say.
    pub fn with_range(mut self, range: RangeSupport) -> Self {
        self.range = range;
        self
    }

    /// Completes invalidations out of order, reproducibly.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// A software SMMU.
///
/// One lock guards it: all calls may come from any thread. The clock tells only
/// how old stale entries are.
pub struct SoftSmmu {
    memory: Arc<SimMemory>,
    clock: Arc<dyn Clock>,
    pub(super) config: SoftConfig,
    pub(super) state: Mutex<State>,
}

impl SoftSmmu {
    /// An SMMU in front of `memory` that remembers nothing yet.
    pub fn new(memory: Arc<SimMemory>, clock: Arc<dyn Clock>, config: SoftConfig) -> Arc<Self> {
        Arc::new(SoftSmmu {
            memory,
            clock,
            config,
            state: Mutex::new(State::new(config.seed.unwrap_or(0))),
        })
    }

    /// The memory behind it.
    pub fn memory(&self) -> &Arc<SimMemory> {
        &self.memory
    }

    /// A device whose accesses go through this SMMU as `config` says.
    ///
    /// # Errors
    ///
    /// [`RegsError`] for registers that the specification calls ILLEGAL.
    pub fn attach(self: &Arc<Self>, config: StreamConfig) -> Result<SimDevice, RegsError> {
        let stage1 = match &config.stage1 {
            Some((asid, regs)) => Some((*asid, regs::stage1(regs)?)),
            None => None,
        };
        let stage2 = config.stage2.as_ref().map(regs::stage2).transpose()?;
        let regime = Regime {
            vmid: config.vmid,
            stage1,
            stage2,
        };
        Ok(SimDevice::new(Arc::clone(self), regime))
    }

    /// Counters.
    pub fn stats(&self) -> SoftStats {
        let state = self.state.lock();
        let mut stats = state.stats;
        for space in state.caches.spaces.values() {
            let (entries, walks) = space.counts();
            stats.tlb_entries += entries;
            stats.walk_entries += walks;
        }
        stats
    }

    /// The first 64 broken rules; [`SoftStats::violations`] counts all.
    pub fn violations(&self) -> Vec<Violation> {
        self.state.lock().violations.clone()
    }

    /// Passes every command through `tamper` first, until called with `None`:
    /// for tests that show that a defect is seen.
    pub fn set_tamper(&self, tamper: Option<Tamper>) {
        self.state.lock().tamper = tamper;
    }

    /// While set, no sync completes: a device that hangs.
    pub fn set_stalled(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.state.lock().stalled
    }

    /// Queues a command, as a driver would. A sync completes before the call
    /// returns, unless the SMMU is [stalled](Self::set_stalled).
    ///
    /// # Errors
    ///
    /// [`SpanFlaw::Illegal`] for a reserved encoding, at which a queue would
    /// stop. Other flaws are not errors: the command then removes nothing.
    pub fn command(&self, command: Command) -> Result<(), SpanFlaw> {
        let mut state = self.state.lock();
        if !matches!(command, Command::Sync(_)) {
            return state.push(command, &self.config);
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.push(command, &self.config)?;
        if !state.stalled {
            state.complete(ticket, &self.config);
        }
        Ok(())
    }

    /// Declares that no translation of the range may be used from now on: the
    /// caller has given its memory back. A later access that still goes through
    /// is a [violation](super::ViolationKind::AfterInvalidation).
    ///
    /// Strict mode calls it after each unmap, lazy mode when the address range
    /// goes back to the allocator.
    pub fn declare_gone(&self, context: &SmmuContext, iova: Iova, len_bytes: u64) {
        let Some(last) = iova.last_byte(len_bytes) else {
            return;
        };
        let reach = Reach {
            first: iova.0,
            last: last.0,
            granule: None,
            level: None,
            leaf_only: true,
        };
        let mut state = self.state.lock();
        let step = state.caches.step + 1;
        state.condemn(context, &reach, step);
    }

    /// One access that stays inside a 4 KiB page.
    pub(super) fn access(&self, regime: &Regime, iova: Iova, access: Access) -> Outcome {
        let now = self.clock.now();
        self.state.lock().access(
            &self.memory,
            &direct(regime),
            iova,
            access,
            now,
            Notes::default(),
        )
    }

    /// Accesses at `first`, `first + step`, ... up to `last`, under one lock.
    pub(super) fn accesses(
        &self,
        regime: &Regime,
        first: Iova,
        last: Iova,
        step: u64,
        access: Access,
        mut each: impl FnMut(&Outcome),
    ) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let paths = direct(regime);
        let mut at = first;
        while at <= last {
            let outcome = state.access(&self.memory, &paths, at, access, now, Notes::default());
            each(&outcome);
            match at.checked_add(step) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// The clock's time.
    pub(super) fn now(&self) -> TimeNs {
        self.clock.now()
    }
}

impl fmt::Debug for SoftSmmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftSmmu")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The paths of a device that is attached without a stream table.
fn direct(regime: &Regime) -> Paths {
    Paths {
        used: Ok(*regime),
        actual: Ok(*regime),
    }
}
