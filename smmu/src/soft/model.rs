//! The software SMMU behind its register frame: what a driver programs.
//!
//! Registers, command queue, event queue and stream table stand in front of the
//! same TLB and walk cache that [`SoftSmmu`] feeds with decoded commands. All
//! tables and queues are bytes in [`SimMemory`]; nothing is passed on the side.

use alloc::sync::Arc;
use core::fmt;

use dmabench_platform::{Clock, Iova, PhysAddr, TimeNs, VirtualClock, sync::Mutex};

use super::{
    bytes::{self, Action},
    command::{Command, SyncSignal},
    device::SimDevice,
    memory::SimMemory,
    range::RangeSupport,
    registers::Bank,
    report::{Access, Fault, FaultKind, Outcome, Stage, Violation, ViolationKind},
    state::{Paths, State},
    streams::{Reader, Resolved},
    translate::{Notes, Regime},
    unit::{Defects, SoftConfig, SoftSmmu},
};
use crate::{
    SmmuHost,
    format::{Features, IdRegisters},
};

/// What the modelled SMMU is, and how it behaves where it may choose.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The ID registers. Default: both stages, 16-bit streams, ASIDs and VMIDs,
    /// 8-bit substreams, two-level tables, 52-bit addresses with the 64K
    /// granule, ranges, access and dirty flags by hardware, no stalls, no ATS.
    pub ids: IdRegisters,
    /// `None` (default): it takes no time; a write of `CMDQ_PROD` has the
    /// commands consumed before it returns. `Some(seed)`: it consumes a random
    /// number of commands at each register access, lets enables take effect
    /// late, and completes invalidations out of order up to their sync.
    pub seed: Option<u64>,
    /// What is wrong with it. Default: nothing.
    pub defects: Defects,
    /// How much time passes in each round of a driver's wait, in ns.
    pub relax_ns: u64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            ids: IdRegisters {
                // S2P S1P TTF=2 COHACC HTTU=2 ASID16 MSI SEV VMID16 CD2L
                // TTENDIAN=2 STALL_MODEL=1 TERM_MODEL ST_LEVEL=1.
                idr0: 0x0d4c_709b,
                // SIDSIZE 16, SSIDSIZE 8, EVENTQS 19, CMDQS 19.
                idr1: 0x0273_0210,
                // HAD, XNX, FWB, RIL, BBML=2.
                idr3: 0x0000_1514,
                // OAS 52, all granules, VAX.
                idr5: 0x0000_0476,
            },
            seed: None,
            defects: Defects::default(),
            relax_ns: 100,
        }
    }
}

impl ModelConfig {
    /// An SMMU with these ID registers.
    pub fn with_ids(mut self, ids: IdRegisters) -> Self {
        self.ids = ids;
        self
    }

    /// One with these faults.
    pub fn with_defects(mut self, defects: Defects) -> Self {
        self.defects = defects;
        self
    }

    /// One in front of which a wait takes this long per round.
    pub fn with_relax_ns(mut self, relax_ns: u64) -> Self {
        self.relax_ns = relax_ns;
        self
    }

    /// One that takes its time, reproducibly.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// A software SMMU with registers: an [`SmmuHost`].
///
/// # Concurrency
///
/// Any thread may access registers, and devices run on any threads. Two locks:
/// the register bank's is taken first, then the one of what is remembered.
pub struct SmmuModel {
    smmu: Arc<SoftSmmu>,
    clock: Arc<VirtualClock>,
    config: ModelConfig,
    features: Features,
    bank: Mutex<Bank>,
}

/// The stream table and the switches, as one access sees them.
#[derive(Clone, Copy)]
struct View {
    enabled: bool,
    abort: bool,
    table: super::streams::StreamTable,
}

impl SmmuModel {
    /// An SMMU out of reset: disabled, all traffic passes.
    pub fn new(memory: Arc<SimMemory>, clock: Arc<VirtualClock>, config: ModelConfig) -> Arc<Self> {
        let features = Features::decode(&config.ids);
        let mut soft = SoftConfig::default().with_range(RangeSupport {
            ril: features.range_invalidation,
            ds: features.ds,
        });
        soft.seed = config.seed;
        soft.defects = config.defects;
        Arc::new(SmmuModel {
            smmu: SoftSmmu::new(memory, clock.clone(), soft),
            clock,
            config,
            features,
            bank: Mutex::new(Bank::new(config.ids)),
        })
    }

    /// What stands behind the registers: counters, violations, declarations.
    pub fn smmu(&self) -> &Arc<SoftSmmu> {
        &self.smmu
    }

    /// A device whose transactions carry this StreamID, and a SubstreamID if
    /// given.
    pub fn device(self: &Arc<Self>, sid: u32, ssid: Option<u32>) -> SimDevice {
        SimDevice::of_stream(Arc::clone(self), sid, ssid)
    }

    /// Lets `after` more commands go and stops the queue at the next one, with
    /// this code of `CMDQ_CONS.ERR` (1: illegal, 2: fetch abort, 3: ATC timeout,
    /// others are reserved).
    pub fn inject_command_error(&self, code: u8, after: u32) {
        self.bank.lock().inject = Some((code & 0x7f, after));
    }

    /// While set, syncs do not complete: a device that hangs. Unset, the queue
    /// goes on at once.
    pub fn set_stalled(&self, stalled: bool) {
        self.smmu.set_stalled(stalled);
        let mut bank = self.bank.lock();
        self.consume(&mut bank, u32::MAX);
    }

    /// Writes of registers that were not allowed in the state the SMMU was in,
    /// and queue indices that are inconsistent. Hardware may do anything then;
    /// this one ignores the write or stops the queue.
    pub fn misuses(&self) -> u64 {
        self.bank.lock().misuses
    }

    /// Declares that the stream's structures were changed and their
    /// invalidation has completed: what is still remembered and differs from
    /// memory is recorded as a [violation](ViolationKind::StaleConfiguration).
    pub fn declare_configured(&self, sid: u32, ssid: Option<u32>) {
        let view = self.view();
        let mut state = self.smmu.state.lock();
        let mut notes = Notes::default();
        let actual = self.resolve(&mut state, &view, sid, ssid, false, &mut notes);
        let used = self.resolve(&mut state, &view, sid, ssid, true, &mut notes);
        if differ(&used, &actual) {
            state.record(Violation {
                kind: ViolationKind::StaleConfiguration,
                iova: Iova(0),
                phys: None,
                access: Access::Read,
                at: self.clock.now(),
            });
        }
    }

    fn view(&self) -> View {
        let bank = self.bank.lock();
        View {
            enabled: bank.translates(),
            abort: bank.aborts(),
            table: bank.stream_table(),
        }
    }

    fn resolve(
        &self,
        state: &mut State,
        view: &View,
        sid: u32,
        ssid: Option<u32>,
        remembered: bool,
        notes: &mut Notes,
    ) -> Result<Resolved, FaultKind> {
        let mut reader = Reader {
            memory: self.smmu.memory(),
            features: &self.features,
            table: &view.table,
            caches: remembered.then_some(&mut state.configs),
            notes,
        };
        reader.resolve(sid, ssid)
    }

    /// One access that stays inside a 4 KiB page.
    pub(super) fn access(
        &self,
        sid: u32,
        ssid: Option<u32>,
        iova: Iova,
        access: Access,
    ) -> Outcome {
        let view = self.view();
        let now = self.clock.now();
        if !view.enabled {
            if view.abort {
                return Outcome::Faulted(Fault {
                    kind: FaultKind::Aborted,
                    iova,
                    access,
                    stage: Stage::One,
                });
            }
            let bypass = Regime {
                vmid: 0,
                stage1: None,
                stage2: None,
            };
            let paths = Paths {
                used: Ok(bypass),
                actual: Ok(bypass),
            };
            let mut state = self.smmu.state.lock();
            let memory = self.smmu.memory();
            return state.access(memory, &paths, iova, access, now, Notes::default());
        }
        let mut state = self.smmu.state.lock();
        let mut notes = Notes::default();
        let mut actual = self.resolve(&mut state, &view, sid, ssid, false, &mut notes);
        let used = self.resolve(&mut state, &view, sid, ssid, true, &mut notes);
        if differ(&used, &actual) {
            // Read again: the driver may have been writing.
            actual = self.resolve(&mut state, &view, sid, ssid, false, &mut notes);
            state.stats.stale_configurations += u64::from(differ(&used, &actual));
        }
        let records = used.as_ref().map_or([true; 2], |r| r.records);
        let paths = Paths {
            used: used.map(|r| r.regime),
            actual: actual.map(|r| r.regime),
        };
        let outcome = state.access(self.smmu.memory(), &paths, iova, access, now, notes);
        drop(state);
        if let Outcome::Faulted(fault) = &outcome {
            let quiet = fault.kind.is_translation() && !records[fault.stage as usize];
            if !quiet {
                self.report(sid, ssid, fault);
            }
        }
        outcome
    }

    /// Writes an event record (7.3) if there is one for it and the queue has
    /// room.
    fn report(&self, sid: u32, ssid: Option<u32>, fault: &Fault) {
        let Some(code) = fault.kind.event_code() else {
            return;
        };
        let substream = ssid.map_or(0, |ssid| 1 << 11 | u64::from(ssid & 0xf_ffff) << 12);
        let mut record = [
            u64::from(code) | substream | u64::from(sid) << 32,
            u64::from(fault.access == Access::Read) << 35,
            fault.iova.0,
            0,
        ];
        if fault.kind.is_translation() {
            // CLASS: the input address.
            record[1] |= 2 << 40;
            if fault.stage == Stage::Two {
                record[1] |= 1 << 39;
            }
        }
        self.bank.lock().push_event(self.smmu.memory(), &record);
    }

    /// Consumes up to `most` commands.
    fn consume(&self, bank: &mut Bank, most: u32) {
        for _ in 0..most {
            let Some(at) = bank.next_command() else {
                return;
            };
            match bank.inject {
                Some((code, 0)) => {
                    bank.inject = None;
                    bank.command_error(code);
                    return;
                }
                Some((code, after)) => bank.inject = Some((code, after - 1)),
                None => {}
            }
            let memory = self.smmu.memory();
            let raw = [memory.read_u64(at), memory.read_u64(PhysAddr(at.0 + 8))];
            match bytes::read(&raw, &self.features) {
                Err(_illegal) => {
                    bank.command_error(1);
                    return;
                }
                Ok(Action::Nothing) => {}
                Ok(Action::Forget(command)) => {
                    if !self.execute(bank, command) {
                        return;
                    }
                }
            }
            bank.command_done();
        }
    }

    /// `false` if the command does not complete yet.
    fn execute(&self, bank: &mut Bank, command: Command) -> bool {
        let Command::Sync(signal) = command else {
            // The judge has passed it, so it is not the reserved encoding.
            return self.smmu.command(command).is_ok();
        };
        if self.smmu.is_stalled() {
            return false;
        }
        if self.smmu.command(command).is_err() {
            return false;
        }
        if let SyncSignal::Interrupt { address, data } = signal
            && address != 0
        {
            let written = self
                .smmu
                .memory()
                .write(PhysAddr(address), &data.to_le_bytes());
            if written.is_err() {
                bank.msi_error();
            }
        }
        true
    }

    /// How many commands go at this register access.
    fn pace(&self) -> u32 {
        match self.config.seed {
            None => u32::MAX,
            Some(_) => (self.smmu.state.lock().random() % 4) as u32,
        }
    }
}

/// Whether two readings of a stream's structures come to different things.
fn differ(a: &Result<Resolved, FaultKind>, b: &Result<Resolved, FaultKind>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a.regime != b.regime || a.records != b.records,
        (Err(a), Err(b)) => a != b,
        _ => true,
    }
}

// SAFETY: the registers are those of an SMMUv3 that executes what its queue says
// (a `Tamper` of a test aside), and only the driver writes them. Order: register
// accesses take a lock, which orders stores made before them for whoever holds
// it next, and memory is read with acquire. No method unwinds or calls back.
unsafe impl SmmuHost for SmmuModel {
    fn read32(&self, offset: u32) -> u32 {
        let pace = self.pace();
        let mut bank = self.bank.lock();
        if self.config.seed.is_some() {
            self.consume(&mut bank, pace);
            if pace != 0 {
                bank.acknowledge();
            }
        }
        bank.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        let pace = self.pace();
        let mut bank = self.bank.lock();
        bank.write32(offset, value);
        if self.config.seed.is_none() {
            bank.acknowledge();
        }
        self.consume(&mut bank, pace);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.bank.lock().write64(offset, value);
    }

    fn now(&self) -> TimeNs {
        self.clock.now()
    }

    fn relax(&self) {
        self.clock.advance_ns(self.config.relax_ns);
        let pace = self.pace();
        let mut bank = self.bank.lock();
        self.consume(&mut bank, pace);
        bank.acknowledge();
    }
}

impl fmt::Debug for SmmuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmmuModel")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
