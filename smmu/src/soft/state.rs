//! What is under way and what is remembered, behind the SMMU's lock; and the
//! judgement of every access.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use dmabench_platform::{Iova, PhysAddr, TimeNs};

use super::{
    command::{Command, Reach, Span, SpanFlaw},
    memory::SimMemory,
    report::{
        Access, Fault, FaultKind, Freshness, Outcome, SoftStats, Stage, Violation, ViolationKind,
    },
    streams::ConfigCaches,
    tlb::NEVER,
    translate::{Caches, Notes, Regime, Stop, Tag, Target, truth},
    unit::{SmmuContext, SoftConfig},
};

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

/// The translation an access gets, and the one it should get.
pub(super) struct Paths {
    /// By what the SMMU remembers of the stream.
    pub(super) used: Result<Regime, FaultKind>,
    /// By what memory says.
    pub(super) actual: Result<Regime, FaultKind>,
}

impl Paths {
    fn truth(
        &self,
        memory: &SimMemory,
        iova: Iova,
        access: Access,
        notes: &mut Notes,
    ) -> Result<Target, Stop> {
        match &self.actual {
            Ok(regime) => truth(memory, regime, iova.0, access, notes),
            Err(kind) => Err(Stop {
                kind: *kind,
                stage: Stage::One,
            }),
        }
    }
}

pub(super) struct State {
    pub(super) caches: Caches,
    pub(super) configs: ConfigCaches,
    pub(super) pending: VecDeque<Pending>,
    /// Ticket of the last sync that was begun.
    pub(super) last_ticket: u64,
    /// All tickets up to this one are complete.
    pub(super) completed: u64,
    /// Syncs do not complete (until told otherwise).
    pub(super) stalled: bool,
    pub(super) tamper: Option<Tamper>,
    pub(super) stats: SoftStats,
    pub(super) violations: Vec<Violation>,
    random: u64,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        State {
            caches: Caches::default(),
            configs: ConfigCaches::default(),
            pending: VecDeque::new(),
            last_ticket: 0,
            completed: 0,
            stalled: false,
            tamper: None,
            stats: SoftStats::default(),
            violations: Vec::new(),
            // The generator must not start at zero.
            random: seed | 1,
        }
    }

    pub(super) fn random(&mut self) -> u64 {
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
            Command::CfgiSte { .. }
            | Command::CfgiSteRange { .. }
            | Command::CfgiCd { .. }
            | Command::CfgiCdAll { .. } => self.stats.commands_by_stream += 1,
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
            Command::CfgiSte { .. }
            | Command::CfgiSteRange { .. }
            | Command::CfgiCd { .. }
            | Command::CfgiCdAll { .. } => self.configs.apply(command),
            Command::Sync(_) => {}
        }
    }

    fn apply_span(&mut self, span: &Span, config: &SoftConfig, goes: impl Fn(&Tag) -> bool) {
        // A range that is not certain removes nothing for certain.
        let Ok(reach) = span.reach(config.range.ds) else {
            return;
        };
        let Some(reach) = config.defects.spoil(span, reach) else {
            return;
        };
        for (tag, space) in &mut self.caches.spaces {
            if goes(tag) {
                space.invalidate(&reach);
            }
        }
    }

    pub(super) fn condemn(&mut self, context: &SmmuContext, reach: &Reach, before: u64) {
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

    pub(super) fn record(&mut self, violation: Violation) {
        self.stats.violations += 1;
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// One access, and the judgement of it.
    pub(super) fn access(
        &mut self,
        memory: &SimMemory,
        paths: &Paths,
        iova: Iova,
        access: Access,
        now: TimeNs,
        mut notes: Notes,
    ) -> Outcome {
        self.stats.accesses += 1;
        let truth = |notes: &mut Notes| paths.truth(memory, iova, access, notes);
        let should = truth(&mut notes);
        let got = match &paths.used {
            Ok(regime) => self.got(
                memory, regime, iova, access, now, &should, &truth, &mut notes,
            ),
            Err(kind) => Err(Stop {
                kind: *kind,
                stage: Stage::One,
            }),
        };
        let mut violated = None;
        let outcome = match got {
            Ok((target, freshness)) => {
                if !freshness.is_fresh() {
                    self.stats.stale_accesses += 1;
                    let age = freshness.age_ns(now);
                    self.stats.stale_age_max_ns = self.stats.stale_age_max_ns.max(age);
                    // Read again: the mapping may have changed since.
                    if let Ok(now_at) = truth(&mut notes)
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
                if should.is_ok() && truth(&mut notes).is_ok() {
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
        truth: &dyn Fn(&mut Notes) -> Result<Target, Stop>,
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
        let fresh = backed(should) || backed(&truth(&mut Notes::default()));
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
            // Only a bypass goes through no entry, and the stream may be one no
            // longer.
            None if fresh => Freshness::Fresh,
            None => Freshness::Stale {
                first_seen: now,
                last_fresh: now,
            },
        };
        Ok((target, freshness))
    }
}
