//! What a workload runs on: a domain for each of its devices, in one mode, on
//! one kind of backend.

use std::{ptr::NonNull, sync::Arc};

use dmabench_dma::{Device, DmaSegment, Domain, DomainConfig, Mapping, Mode, Parkable, Segment};
use dmabench_flushq::{BackendCounts, CostModel, CountingBackend, QueueConfig, TlbBackend};
use dmabench_pgtable::{HeapTables, TableMemory, format::S1K4};
use dmabench_platform::{Fences, Iova, Slots, ThreadSlots, TimeNs, VirtualClock};
use dmabench_smmu::soft::{
    SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, Stage1Regs, StreamConfig,
};

use super::{
    RunError,
    exposure::{Backend, Lab},
    ground::{Counted, Ground},
    plan::Plan,
    watch::{Watch, Watched},
};
use crate::{
    cli::ModeArg,
    workload::{Request, Workload},
};

/// The domain of a device.
pub(super) type BedDomain<B, M = HeapTables> = Domain<B, ThreadSlots, S1K4, M>;

/// The domain of a device of an exposure run.
pub(super) type SimDomain = BedDomain<Backend, Arc<SimMemory>>;

/// Domains of one mode and backend.
pub(super) struct Bed<B: TlbBackend, M: TableMemory = HeapTables> {
    pub(super) domains: Vec<BedDomain<B, M>>,
    pub(super) device: Device,
    /// Unmaps hand over a buffer. (It is nobody's: see `disciplines.rs` for the
    /// others.)
    parked: bool,
}

/// Slots for `more` threads besides those that may have used others before:
/// this one, and rayon's.
fn slots(more: usize) -> Result<Arc<Slots>, RunError> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let own = threads
        .saturating_add(2)
        .saturating_add(more)
        .min(Slots::MAX);
    let slots = Slots::new(own, Fences::detect()).map_err(RunError::refused)?;
    Ok(Arc::new(slots))
}

/// How a domain in that mode is set up.
pub(crate) fn config(mode: ModeArg, plan: &Plan) -> DomainConfig {
    let queue = QueueConfig {
        entries_per_slot: plan.flush_queue_entries,
        timeout_ns: plan.flush_timeout_ns,
    };
    let mode = match mode {
        ModeArg::Passthrough => Mode::Passthrough,
        // What copies or registers memory stands on a strict domain.
        ModeArg::Strict | ModeArg::Bounce | ModeArg::Premapped => Mode::Strict,
        ModeArg::StrictBatched => Mode::StrictBatched,
        ModeArg::StrictPipelined => Mode::StrictPipelined,
        ModeArg::Lazy => Mode::Lazy(queue),
        ModeArg::LazySingle => Mode::LazySingle(plan.single_queue),
        ModeArg::LazyParked => Mode::LazyParked(queue),
    };
    // As Linux does for PCI devices: short addresses first, whatever the mask.
    // No reclaim of tables, which Linux does not have: its invalidations would
    // be counted among those of the unmaps.
    DomainConfig::new(mode).low32_first(true).reclaim(None)
}

impl Bed<CountingBackend> {
    /// For timing: a backend that counts and takes no time.
    pub(super) fn counting(
        workload: &Workload,
        mode: ModeArg,
        plan: &Plan,
    ) -> Result<Self, RunError> {
        Ok(Bed {
            domains: counting_domains(workload, mode, plan)?,
            device: Device::new(),
            parked: false,
        })
    }

    /// For many threads on one address space: as [`counting`](Self::counting),
    /// with a slot for each of `threads`.
    pub(super) fn shared(
        mode: ModeArg,
        plan: &Plan,
        threads: usize,
        device: Device,
    ) -> Result<Self, RunError> {
        if matches!(mode, ModeArg::Bounce | ModeArg::Premapped) {
            return Err(RunError::refused(
                "threads on one domain map and unmap their buffers themselves",
            ));
        }
        if matches!(mode, ModeArg::StrictBatched | ModeArg::StrictPipelined) {
            return Err(RunError::refused(
                "threads on one domain unmap each buffer at once: that is mode strict",
            ));
        }
        let slots = slots(threads)?;
        let backend = counting(&slots, plan);
        let domain =
            Domain::new(config(mode, plan), slots, backend, ()).map_err(RunError::refused)?;
        Ok(Bed {
            domains: vec![domain],
            device,
            parked: mode == ModeArg::LazyParked,
        })
    }
    /// What the backends were asked for.
    pub(super) fn counts(&self) -> BackendCounts {
        sum_counts(self.domains.iter().map(Domain::backend))
    }
}

/// A domain for each device of `workload`, on a backend that counts.
pub(super) fn counting_domains(
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
) -> Result<Vec<BedDomain<CountingBackend>>, RunError> {
    let slots = slots(0)?;
    (workload.devices.iter())
        .map(|_| {
            Domain::new(
                config(mode, plan),
                Arc::clone(&slots),
                counting(&slots, plan),
                (),
            )
        })
        .collect::<Result<_, _>>()
        .map_err(RunError::refused)
}

/// Counts the commands of the profile's hardware, and joins ranges as that has it.
fn counting(slots: &Slots, plan: &Plan) -> CountingBackend {
    CountingBackend::with_range_commands(slots, plan.profile.costs.range_commands)
        .joining_by(plan.profile.join_cost())
}

pub(super) fn sum_counts<'b>(backends: impl Iterator<Item = &'b CountingBackend>) -> BackendCounts {
    let mut sum = BackendCounts::default();
    for backend in backends {
        let counts = backend.counts();
        sum.ranges += counts.ranges;
        sum.commands_by_address += counts.commands_by_address;
        sum.commands_by_context += counts.commands_by_context;
        sum.flush_alls += counts.flush_alls;
        sum.syncs += counts.syncs;
    }
    sum
}

impl Bed<Backend, Arc<SimMemory>> {
    /// For exposure: the software SMMU, tables in its memory, and a virtual
    /// clock on which commands take the profile's time.
    pub(super) fn simulated(
        workload: &Workload,
        mode: ModeArg,
        plan: &Plan,
    ) -> Result<(Self, Lab), RunError> {
        let (domains, lab) = simulated_domains(workload, mode, plan)?;
        let device = Device::new();
        let bed = Bed {
            domains,
            device,
            parked: false,
        };
        Ok((bed, lab))
    }
}

/// As [`counting_domains`], in front of one software SMMU.
pub(super) fn simulated_domains(
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
) -> Result<(Vec<SimDomain>, Lab), RunError> {
    let clock = Arc::new(VirtualClock::new(TimeNs(0)));
    let memory = SimMemory::new(SimMemoryConfig::default()).map_err(RunError::refused)?;
    let smmu = SoftSmmu::new(
        Arc::clone(&memory),
        Arc::clone(&clock) as _,
        SoftConfig::default(),
    );
    let watch = Watch::new(Arc::clone(&clock));
    let ranges = plan.profile.costs.range_commands;
    let watched = Watched::new(Arc::clone(&smmu), Arc::clone(&watch), ranges);
    let model = CostModel::new(watched, plan.profile.costs, Arc::clone(&clock))
        .joining_by(plan.profile.join_cost());
    let backend = Arc::new(model);
    let slots = slots(0)?;
    let mut domains = Vec::new();
    let mut devices = Vec::new();
    for index in 0..workload.devices.len() as u16 {
        let domain = Domain::with_parts(
            config(mode, plan),
            Arc::clone(&slots),
            ThreadSlots,
            Arc::clone(&memory),
            Arc::clone(&backend),
            context(index),
        )
        .map_err(RunError::refused)?;
        let registers = Stage1Regs::for_table(&domain.registers());
        let stream = StreamConfig::stage1(asid(index), registers);
        devices.push(smmu.attach(stream).map_err(RunError::refused)?);
        domains.push(domain);
    }
    watch.set_devices(devices);
    Ok((domains, Lab { clock, smmu, watch }))
}

/// ASID 0 is left to nobody, so that a context that was never set is seen.
fn asid(device: u16) -> u16 {
    device + 1
}

/// What the SMMU calls the address space of a device.
pub(super) fn context(device: u16) -> SmmuContext {
    SmmuContext::Stage1 {
        vmid: 0,
        asid: asid(device),
    }
}

impl<B: TlbBackend, M: TableMemory> Bed<B, M> {
    /// One map call. `out` has room for the request's segments.
    #[inline]
    pub(super) fn map(
        &self,
        request: &Request,
        segments: &[Segment],
        out: &mut [DmaSegment],
    ) -> Result<Mapping, RunError> {
        self.domains[usize::from(request.device)]
            .map_sg(&self.device, segments, out, request.direction)
            .map_err(RunError::refused)
    }

    /// One unmap call.
    #[inline]
    pub(super) fn unmap(&self, device: u16, mapping: Mapping) -> Result<(), RunError> {
        let domain = &self.domains[usize::from(device)];
        if self.parked {
            return (domain.unmap_parked(mapping, Nobodys)).map_err(RunError::refused);
        }
        domain.unmap(mapping).map_err(RunError::refused)
    }

    /// The earliest deadline of all domains.
    pub(super) fn next_deadline(&self) -> Option<TimeNs> {
        self.domains.iter().filter_map(Domain::next_deadline).min()
    }

    pub(super) fn poll(&self, now: TimeNs) -> Result<(), RunError> {
        for domain in &self.domains {
            domain.poll(now).map_err(RunError::refused)?;
        }
        Ok(())
    }

    pub(super) fn drain(&self) -> Result<(), RunError> {
        for domain in &self.domains {
            domain.drain().map_err(RunError::refused)?;
        }
        Ok(())
    }

    /// I/O pages in use and bytes of tables, of all domains.
    pub(super) fn held(&self) -> (u64, u64) {
        let mut held = (0, 0);
        for domain in &self.domains {
            let stats = domain.stats();
            held.0 += stats.iova_pages_held;
            held.1 += stats.page_table_bytes;
        }
        held
    }
}

/// A buffer without an owner.
struct Nobodys;

impl Parkable for Nobodys {
    fn into_pointer(self) -> NonNull<()> {
        NonNull::dangling()
    }

    // SAFETY (of callers): as the trait says; there is nothing behind the pointer.
    unsafe fn from_pointer(_pointer: NonNull<()>) -> Self {
        Nobodys
    }
}

impl<'w, B: TlbBackend, M: TableMemory> Ground<'w> for Bed<B, M> {
    type Live = Mapping;

    #[inline]
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<Mapping, RunError> {
        Bed::map(self, request, segments, out)
    }

    #[inline]
    fn unmap(&self, device: u16, mapping: Mapping) -> Result<(), RunError> {
        Bed::unmap(self, device, mapping)
    }

    fn range(mapping: &Mapping) -> Option<(Iova, u64)> {
        mapping.mapped_range()
    }

    fn next_deadline(&self) -> Option<TimeNs> {
        Bed::next_deadline(self)
    }

    fn poll(&self, now: TimeNs) -> Result<(), RunError> {
        Bed::poll(self, now)
    }

    fn drain(&self) -> Result<(), RunError> {
        Bed::drain(self)
    }

    fn held(&self) -> (u64, u64) {
        Bed::held(self)
    }
}

impl Counted for Bed<CountingBackend> {
    fn counts(&self) -> BackendCounts {
        Bed::counts(self)
    }
}
