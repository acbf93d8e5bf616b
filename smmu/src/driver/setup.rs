//! Bringing an SMMU up and down (6.3.9, 3.11).

use alloc::{collections::BTreeMap, sync::Arc, vec, vec::Vec};
use core::{fmt, mem::ManuallyDrop};

use dmabench_pgtable::TableMemory;
use dmabench_platform::sync::{
    Backoff, Mutex,
    atomic::{AtomicU32, Ordering},
};

use super::{
    Errata, RangeEncoder, SetupError, SmmuConfig, StreamTableKind, attach::Stream,
    context::Context, faults::Faults, ids::Ids, stream_table::StreamTable,
};
use crate::{
    SmmuHost,
    format::{Command, Features, IdRegisters, RawCommand, TtEndian, registers as r},
    queue::{CommandQueue, EventQueue, GlobalErrors, WaitError},
};

/// What the configuration lock guards.
pub(super) struct Tables<M: TableMemory> {
    pub(super) streams: StreamTable<M>,
    /// By stream ID: streams that were ever attached.
    pub(super) attached: BTreeMap<u32, Stream>,
    /// By the number in a `SmmuContext`.
    pub(super) contexts: BTreeMap<u32, Context>,
    pub(super) next_context: u32,
    pub(super) asids: Ids,
    pub(super) vmids: Ids,
}

/// One SMMUv3. See the [module](super).
///
/// Dropping it turns the SMMU off and then gives its tables and queues back; if
/// the SMMU does not acknowledge, they are leaked rather than freed under it. The
/// translation tables of contexts belong to others, who must outlive it.
pub struct Smmu<H: SmmuHost, M: TableMemory> {
    pub(super) host: Arc<H>,
    pub(super) memory: Arc<M>,
    pub(super) features: Features,
    pub(super) errata: Errata,
    pub(super) encoder: RangeEncoder,
    pub(super) config: SmmuConfig,
    pub(super) errors: Arc<GlobalErrors>,
    pub(super) commands: ManuallyDrop<CommandQueue<Arc<H>, Arc<M>>>,
    pub(super) tables: Mutex<Tables<Arc<M>>>,
    pub(super) events: ManuallyDrop<Mutex<EventQueue<Arc<H>, Arc<M>>>>,
    pub(super) faults: Mutex<Faults>,
    /// Streams that use ATS: (context, stream), sorted. `ats_count` is its
    /// length.
    pub(super) ats: Mutex<Vec<(u32, u32)>>,
    pub(super) ats_count: AtomicU32,
}

impl<H: SmmuHost, M: TableMemory> Smmu<H, M> {
    /// Reads the ID registers, makes queues and an empty stream table, and turns
    /// the SMMU on. No stream is configured: the SMMU aborts and reports
    /// whatever arrives.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; the SMMU is off.
    pub fn new(host: H, memory: M, config: SmmuConfig) -> Result<Self, SetupError> {
        let (host, memory) = (Arc::new(host), Arc::new(memory));
        let features = Features::decode(&IdRegisters {
            idr0: host.read32(r::IDR0),
            idr1: host.read32(r::IDR1),
            idr3: host.read32(r::IDR3),
            idr5: host.read32(r::IDR5),
        });
        let translates = (features.stage1 || features.stage2) && features.aarch64_tables;
        if !translates || features.preset || features.tt_endian == TtEndian::Big {
            return Err(SetupError::NotUsable);
        }
        let errata = config
            .errata
            .unwrap_or_else(|| Errata::for_iidr(host.read32(r::IIDR)));
        let (bits, kind) = table_shape(&features, &config)?;
        // Off before anything else: firmware may have left it on.
        write_enables(&*host, 0, config.timeout)?;
        let errors = Arc::new(GlobalErrors::new(&host));
        errors.acknowledge(&host, r::GERROR_ALL);
        let commands = CommandQueue::new(
            host.clone(),
            memory.clone(),
            features,
            errors.clone(),
            config.command_queue,
        )?;
        let events = EventQueue::new(
            host.clone(),
            memory.clone(),
            &features,
            config.event_queue_lg2,
        )?;
        let streams = StreamTable::new(memory.clone(), features.coherent, bits, kind)
            .map_err(|no| SetupError::NoMemory { bytes: no.bytes })?;
        let mut smmu = Smmu {
            encoder: RangeEncoder::new(&features, &errata),
            host,
            memory,
            features,
            errata,
            config,
            errors,
            commands: ManuallyDrop::new(commands),
            tables: Mutex::new(Tables {
                streams,
                attached: BTreeMap::new(),
                contexts: BTreeMap::new(),
                next_context: 0,
                asids: Ids::new(features.asid_bits()),
                vmids: Ids::new(features.vmid_bits()),
            }),
            events: ManuallyDrop::new(Mutex::new(events)),
            faults: Mutex::new(Faults::default()),
            ats: Mutex::new(Vec::new()),
            ats_count: AtomicU32::new(0),
        };
        smmu.commands.write_pointers();
        smmu.commands.set_heal(smmu.heal_commands(&[]));
        smmu.start()?;
        Ok(smmu)
    }

    /// What the SMMU can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The faults that are worked around.
    pub fn errata(&self) -> &Errata {
        &self.errata
    }

    /// The command queue, for its state and statistics.
    pub fn command_queue(&self) -> &CommandQueue<Arc<H>, Arc<M>> {
        &self.commands
    }

    /// The registers.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Turns the SMMU off and on again, with an empty command queue and the
    /// stream table as it is: after the queue has stopped. What was invalidated
    /// or synced before and not known to be complete has to be done again.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; the SMMU may be off.
    pub fn reset(&mut self) -> Result<(), SetupError> {
        write_enables(&*self.host, 0, self.config.timeout)?;
        self.errors.acknowledge(&self.host, r::GERROR_ALL);
        self.commands.reset();
        self.start()
    }

    /// What makes up for lost commands: configuration, translations and the
    /// devices' own caches, all of them.
    pub(super) fn heal_commands(&self, ats: &[(u32, u32)]) -> Vec<RawCommand> {
        let mut heal = vec![Command::CfgiAll.encode(), Command::TlbiNsnhAll.encode()];
        if !ats.is_empty() {
            heal.push(Command::SYNC.encode());
        }
        for (_, sid) in ats {
            heal.push(super::backend::whole_atc(*sid));
        }
        heal
    }

    /// From "off" to "on"; the queues' pointers are set.
    fn start(&mut self) -> Result<(), SetupError> {
        let host = &*self.host;
        let timeout = self.config.timeout;
        let cr1 = if self.features.coherent {
            r::CR1_COHERENT
        } else {
            r::CR1_NON_COHERENT
        };
        host.write32(r::CR1, cr1);
        host.write32(r::CR2, r::CR2_PTM | r::CR2_RECINVSID);
        {
            let tables = self.tables.lock();
            let base = r::strtab_base(tables.streams.base(), self.features.coherent);
            host.write64(r::STRTAB_BASE, base);
            host.write32(r::STRTAB_BASE_CFG, tables.streams.config().encode());
        }
        host.write64(r::CMDQ_BASE, self.commands.base_register());
        {
            let mut events = self.events.lock();
            host.write64(r::EVENTQ_BASE, events.base_register());
            events.write_pointers();
        }
        let interrupts = if self.config.interrupts {
            r::IRQ_CTRL_GERROR | r::IRQ_CTRL_EVENTQ
        } else {
            0
        };
        host.write32(r::IRQ_CTRL, interrupts);
        host.publish();
        let mut enables = r::CR0_CMDQEN;
        write_enables(host, enables, timeout)?;
        self.forget_everything()?;
        enables |= r::CR0_EVENTQEN;
        write_enables(host, enables, timeout)?;
        enables |= r::CR0_SMMUEN;
        write_enables(host, enables, timeout)
    }

    /// Caches may hold anything after a reset.
    fn forget_everything(&self) -> Result<(), SetupError> {
        let mut commands = vec![Command::CfgiAll.encode()];
        if self.features.hyp {
            commands.push(Command::TlbiEl2All.encode());
        }
        commands.push(Command::TlbiNsnhAll.encode());
        let mut tries = 0;
        loop {
            let ticket = self
                .commands
                .push_sync(&commands)
                .map_err(SetupError::Commands)?;
            match self.commands.sync_wait(ticket, self.config.timeout) {
                Ok(()) => return Ok(()),
                // After a queue reset: before the heal batch. Once more.
                Err(WaitError::Lost { .. }) if tries < 3 => tries += 1,
                Err(error) => return Err(SetupError::Sync(error)),
            }
        }
    }
}

/// Bits and shape of the stream table.
fn table_shape(
    features: &Features,
    config: &SmmuConfig,
) -> Result<(u32, StreamTableKind), SetupError> {
    let bits = config.stream_bits.min(features.sid_bits);
    const LINEAR_MAX: u32 = 20;
    let kind = match config.stream_table {
        StreamTableKind::Auto if features.st_two_level && bits > 8 => {
            StreamTableKind::TwoLevel { split: 8 }
        }
        StreamTableKind::Auto => StreamTableKind::Linear,
        chosen => chosen,
    };
    let fits = match kind {
        StreamTableKind::TwoLevel { split } => features.st_two_level && matches!(split, 6 | 8 | 10),
        _ => bits <= LINEAR_MAX,
    };
    if fits {
        Ok((bits, kind))
    } else {
        Err(SetupError::StreamTable)
    }
}

/// Writes `CR0` and waits until `CR0ACK` has it (6.3.9).
fn write_enables<H: SmmuHost>(
    host: &H,
    enables: u32,
    timeout: dmabench_platform::Timeout,
) -> Result<(), SetupError> {
    host.write32(r::CR0, enables);
    let used = r::CR0_SMMUEN | r::CR0_EVENTQEN | r::CR0_CMDQEN;
    let mut deadline = None;
    let mut backoff = Backoff::new();
    while host.read32(r::CR0ACK) & used != enables {
        let now = host.now();
        if now > *deadline.get_or_insert(now.saturating_add_ns(timeout.0)) {
            return Err(SetupError::NoAnswer { register: r::CR0 });
        }
        backoff.wait();
        host.relax();
    }
    Ok(())
}

impl<H: SmmuHost, M: TableMemory> Drop for Smmu<H, M> {
    fn drop(&mut self) {
        if write_enables(&*self.host, 0, self.config.timeout).is_err() {
            // It may still read what it was given: leak it all.
            return;
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.commands) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.events) };
        let tables = &mut *self.tables.lock();
        for context in tables.contexts.values_mut() {
            // SAFETY: the SMMU is off and reads no descriptor any more.
            unsafe { context.free(&self.memory) };
        }
        // SAFETY: nor the stream table.
        unsafe { tables.streams.free() };
    }
}

impl<H: SmmuHost, M: TableMemory> fmt::Debug for Smmu<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smmu")
            .field("features", &self.features)
            .field("commands", &*self.commands)
            .field("ats_streams", &self.ats_count.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
