//! The software SMMU itself: what it remembers, the commands under way, and the
//! judgement of every access.

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::fmt;

use dmabench_pgtable::Registers;
use dmabench_platform::{Clock, Iova, PhysAddr, TimeNs, sync::Mutex};

use super::{
    command::{Command, Reach, Span, SpanFlaw},
    device::SimDevice,
    memory::SimMemory,
    range::RangeSupport,
    regs::{self, RegsError, Stage1Regs, Stage2Regs},
    report::{Access, Fault, Freshness, Outcome, SoftStats, Violation, ViolationKind},
    tlb::NEVER,
    translate::{Caches, Notes, Regime, Stop, Tag, Target, truth},
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
}

impl Default for SoftConfig {
    fn default() -> Self {
        SoftConfig {
            range: RangeSupport {
                ril: true,
                ds: false,
            },
            seed: None,
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

/// Replaces or drops commands on their way in: for tests that must fail.
pub type Tamper = Box<dyn FnMut(Command) -> Option<Command> + Send>;

/// One step between a command queue and its sync.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    /// A command that has not taken effect.
    Command(Command),
    /// What the commands before it were meant to remove: from the sync on,
    /// whatever is left of it is condemned.
    Intent {
        context: SmmuContext,
        reach: Reach,
        step: u64,
    },
    /// The sync of a ticket.
    Sync(u64),
}

/// The most broken rules that are kept in full.
const KEPT_VIOLATIONS: usize = 64;

pub(super) struct State {
    pub(super) caches: Caches,
    pub(super) pending: VecDeque<Pending>,
    /// Ticket of the last sync that was begun.
    pub(super) last_ticket: u64,
    /// All tickets up to this one are complete.
    pub(super) completed: u64,
    /// Syncs do not complete (until told otherwise).
    pub(super) stalled: bool,
    pub(super) tamper: Option<Tamper>,
    pub(super) stats: SoftStats,
    violations: Vec<Violation>,
    random: u64,
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
            state: Mutex::new(State {
                caches: Caches::default(),
                pending: VecDeque::new(),
                last_ticket: 0,
                completed: 0,
                stalled: false,
                tamper: None,
                stats: SoftStats::default(),
                violations: Vec::new(),
                // The generator must not start at zero.
                random: config.seed.unwrap_or(0) | 1,
            }),
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
    /// is a [violation](ViolationKind::AfterInvalidation).
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
        self.state
            .lock()
            .access(&self.memory, regime, iova, access, now)
    }

    /// Accesses at `first`, `first + step`, ... up to `last`, under one lock.
    pub(super) fn accesses(
        &self,
        regime: &Regime,
        first: Iova,
        last: Iova,
        step: u64,
        access: Access,
        mut each: impl FnMut(Iova, &Outcome),
    ) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let mut at = first;
        while at <= last {
            let outcome = state.access(&self.memory, regime, at, access, now);
            each(at, &outcome);
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

impl State {
    fn random(&mut self) -> u64 {
        // xorshift64: period 2^64 - 1.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn push(&mut self, command: Command, config: &SoftConfig) -> Result<(), SpanFlaw> {
        let command = match &mut self.tamper {
            Some(tamper) => match tamper(command) {
                Some(command) => command,
                None => return Ok(()),
            },
            None => command,
        };
        match &command {
            Command::TlbiNhVa { span, .. }
            | Command::TlbiNhVaa { span, .. }
            | Command::TlbiS2Ipa { span, .. } => {
                self.stats.commands_by_address += 1;
                if span.reach(config.range.ds) == Err(SpanFlaw::Illegal) {
                    return Err(SpanFlaw::Illegal);
                }
            }
            Command::Sync(_) => self.stats.syncs += 1,
            _ => self.stats.commands_by_context += 1,
        }
        self.pending.push_back(match command {
            Command::Sync(_) => Pending::Sync(self.last_ticket),
            command => Pending::Command(command),
        });
        if config.seed.is_some() {
            self.execute_some(config);
        }
        Ok(())
    }

    /// Executes random commands before their sync, in any order.
    fn execute_some(&mut self, config: &SoftConfig) {
        // Those behind a sync may go before it completes, too.
        while !self.pending.is_empty() && self.random().is_multiple_of(2) {
            let at = self.random() as usize % self.pending.len();
            if let Pending::Command(command) = self.pending[at] {
                self.pending.remove(at);
                self.execute(Pending::Command(command), config);
            }
        }
    }

    /// Executes everything up to and including the sync of `ticket`, if it is
    /// queued.
    pub(super) fn complete(&mut self, ticket: u64, config: &SoftConfig) {
        let is_it = |p: &Pending| matches!(p, Pending::Sync(t) if *t >= ticket);
        let Some(at) = self.pending.iter().position(is_it) else {
            return;
        };
        for _ in 0..=at {
            if let Some(pending) = self.pending.pop_front() {
                self.execute(pending, config);
            }
        }
    }

    fn execute(&mut self, pending: Pending, config: &SoftConfig) {
        match pending {
            Pending::Command(command) => self.apply(&command, config),
            Pending::Intent {
                context,
                reach,
                step,
            } => self.condemn(&context, &reach, step),
            Pending::Sync(ticket) => self.completed = self.completed.max(ticket),
        }
    }

    /// What a command removes, to the letter (IHI 0070, 4.4).
    fn apply(&mut self, command: &Command, config: &SoftConfig) {
        let spaces = &mut self.caches.spaces;
        let mut clear = |goes: &dyn Fn(&Tag) -> bool| {
            for (tag, space) in spaces.iter_mut() {
                if goes(tag) {
                    space.clear();
                }
            }
        };
        match *command {
            Command::TlbiNhAll { vmid } => clear(&|tag| {
                matches!(tag, Tag::Asid { vmid: v, .. } | Tag::Global { vmid: v } if *v == vmid)
            }),
            Command::TlbiNhAsid { vmid, asid } => clear(&|tag| *tag == Tag::Asid { vmid, asid }),
            Command::TlbiS12Vmall { vmid } => clear(&|tag| match tag {
                Tag::Asid { vmid: v, .. } | Tag::Global { vmid: v } | Tag::Stage2 { vmid: v } => {
                    *v == vmid
                }
            }),
            Command::TlbiNsnhAll => clear(&|_| true),
            Command::TlbiNhVa { vmid, asid, span } => self.apply_span(&span, config, |tag| {
                *tag == Tag::Asid { vmid, asid } || *tag == Tag::Global { vmid }
            }),
            Command::TlbiNhVaa { vmid, span } => self.apply_span(&span, config, |tag| {
                matches!(tag, Tag::Asid { vmid: v, .. } | Tag::Global { vmid: v } if *v == vmid)
            }),
            Command::TlbiS2Ipa { vmid, span } => {
                self.apply_span(&span, config, |tag| *tag == Tag::Stage2 { vmid });
            }
            // Streams are attached by calls here: no configuration is cached.
            Command::CfgiSte { .. }
            | Command::CfgiSteRange { .. }
            | Command::CfgiCd { .. }
            | Command::CfgiCdAll { .. }
            | Command::Sync(_) => {}
        }
    }

    fn apply_span(&mut self, span: &Span, config: &SoftConfig, goes: impl Fn(&Tag) -> bool) {
        // A range that is not certain removes nothing for certain.
        let Ok(reach) = span.reach(config.range.ds) else {
            return;
        };
        for (tag, space) in &mut self.caches.spaces {
            if goes(tag) {
                space.invalidate(&reach);
            }
        }
    }

    fn condemn(&mut self, context: &SmmuContext, reach: &Reach, before: u64) {
        for (tag, space) in &mut self.caches.spaces {
            let meant = match *context {
                SmmuContext::Stage1 { vmid, asid } => {
                    *tag == Tag::Asid { vmid, asid } || *tag == Tag::Global { vmid }
                }
                SmmuContext::Stage2 { vmid, .. } => *tag == Tag::Stage2 { vmid },
            };
            if meant {
                space.condemn(reach, before);
            }
        }
    }

    fn record(&mut self, violation: Violation) {
        self.stats.violations += 1;
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// One access, and the judgement of it.
    fn access(
        &mut self,
        memory: &SimMemory,
        regime: &Regime,
        iova: Iova,
        access: Access,
        now: TimeNs,
    ) -> Outcome {
        self.stats.accesses += 1;
        let mut notes = Notes::default();
        let should = truth(memory, regime, iova.0, access, &mut notes);
        let got = self.got(memory, regime, iova, access, now, &should, &mut notes);
        let mut violated = None;
        let outcome = match got {
            Ok((target, freshness)) => {
                if !freshness.is_fresh() {
                    self.stats.stale_accesses += 1;
                    let age = freshness.age_ns(now);
                    self.stats.stale_age_max_ns = self.stats.stale_age_max_ns.max(age);
                    // Read again: the mapping may have changed since.
                    if let Ok(now_at) = truth(memory, regime, iova.0, access, &mut notes)
                        && now_at.phys != target.phys
                    {
                        violated = Some(ViolationKind::Reused);
                    }
                }
                Outcome::Reached {
                    phys: PhysAddr(target.phys),
                    freshness,
                }
            }
            Err(stop) => {
                self.stats.faults += 1;
                if should.is_ok() && truth(memory, regime, iova.0, access, &mut notes).is_ok() {
                    violated = Some(ViolationKind::LostMapping);
                }
                Outcome::Faulted(Fault {
                    kind: stop.kind,
                    iova,
                    access,
                    stage: stop.stage,
                })
            }
        };
        if notes.condemned {
            violated = Some(ViolationKind::AfterInvalidation);
        }
        if notes.freed {
            violated = Some(ViolationKind::FreedTable);
        }
        if let Some(kind) = violated {
            self.record(Violation {
                kind,
                iova,
                phys: outcome.phys(),
                access,
                at: now,
            });
        }
        outcome
    }

    /// What the caches make of the access, and whether `should` agrees.
    #[allow(clippy::too_many_arguments)] // The state of one access.
    fn got(
        &mut self,
        memory: &SimMemory,
        regime: &Regime,
        iova: Iova,
        access: Access,
        now: TimeNs,
        should: &Result<Target, Stop>,
        notes: &mut Notes,
    ) -> Result<(Target, Freshness), Stop> {
        let answer = self
            .caches
            .answer(memory, regime, iova.0, access, now.0, notes)?;
        let target = answer.target;
        let backed = |truth: &Result<Target, Stop>| {
            truth.is_ok_and(|t| t.phys == target.phys && t.rights.has(target.rights))
        };
        // A mapping made since `should` was read is fresh as well.
        let fresh = backed(should)
            || backed(&truth(
                memory,
                regime,
                iova.0,
                access,
                &mut Notes::default(),
            ));
        self.stats.tlb_hits += u64::from(answer.hit);
        let freshness = match answer.entry {
            Some(entry) if fresh => {
                entry.last_fresh = now.0;
                entry.stale_since = NEVER;
                Freshness::Fresh
            }
            Some(entry) => {
                if entry.stale_since == NEVER {
                    entry.stale_since = now.0;
                }
                Freshness::Stale {
                    first_seen: TimeNs(entry.stale_since),
                    last_fresh: TimeNs(entry.last_fresh),
                }
            }
            None => Freshness::Fresh,
        };
        Ok((target, freshness))
    }
}
