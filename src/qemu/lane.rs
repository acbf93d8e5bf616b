//! A device's address space in one mode, and its descriptor table.

use std::sync::Arc;

use dmabench_dma::{Device, Direction, DmaSegment, DomainConfig, Mode, Segment};
use dmabench_flushq::{CountingBackend, RangeCommands};
use dmabench_pgtable::TableConfig;
use dmabench_platform::{Fences, Iova, Slots, ThreadSlots};
use dmabench_smmu::{
    driver::{AtsUse, SmmuContext, StreamTarget},
    qemu::{AdmaList, AdmaTable, AdmaWidth},
};

use super::{
    Stop,
    ground::{Ground, Mapped, QemuDomain},
    rig::Rig,
    tee::Tee,
};
use crate::cli::ModeArg;

/// Room for 5461 descriptors.
const TABLE_BYTES: u64 = 64 << 10;

/// Address space, stream and table of one card.
pub(super) struct Lane {
    pub(super) ground: Ground,
    pub(super) counting: Arc<CountingBackend>,
    pub(super) device: Device,
    table: AdmaTable,
    table_memory: Segment,
    context: SmmuContext,
    stream: u32,
}

impl Lane {
    /// Makes the address space, maps the descriptor table in it, and attaches
    /// the card's stream.
    pub(super) fn new(
        rig: &Rig,
        card: usize,
        mode: ModeArg,
        config: DomainConfig,
    ) -> Result<Self, Stop> {
        let features = rig.driver.features();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let slots = Slots::new((threads + 2).min(Slots::MAX), Fences::detect());
        let slots = Arc::new(slots.map_err(Stop::refused)?);
        let ranges = if features.range_invalidation {
            RangeCommands::Supported
        } else {
            RangeCommands::Absent
        };
        let counting = Arc::new(CountingBackend::with_range_commands(&slots, ranges));
        let tee = Tee {
            driver: Arc::clone(&rig.driver),
            counting: Arc::clone(&counting),
        };
        let passthrough = matches!(config.mode, Mode::Passthrough);
        let mut context = None;
        let domain = QemuDomain::with_context(
            config.tables(TableConfig::new(48, features.oas_bits.min(48))),
            slots,
            ThreadSlots,
            rig.ram().clone(),
            tee,
            |tee, registers| {
                let made = tee.driver.create_context(registers);
                made.inspect(|made| context = Some(*made))
            },
        )
        .map_err(|error| rig.cause(error))?;
        let context = context.ok_or_else(|| Stop::refused("no context was made"))?;
        let stream = rig.hosts[card].stream_id();
        let target = if passthrough {
            StreamTarget::Bypass
        } else {
            StreamTarget::Context(context)
        };
        (rig.driver.attach(stream, target, AtsUse::Off)).map_err(|error| rig.cause(error))?;
        let device = Device::new();
        let phys = rig.ram().alloc(TABLE_BYTES, 4096).map_err(Stop::refused)?;
        let table_memory = Segment {
            phys,
            len_bytes: TABLE_BYTES,
        };
        let ground = Ground::new(rig, mode, domain, &device, table_memory)?;
        let addr = match &ground {
            Ground::Domain { table, .. } | Ground::Premapped { table, .. } => table.addr(),
            // Another for each transfer.
            Ground::Bounce { .. } => Iova(0),
        };
        let table = AdmaTable::new(rig.ram(), phys, TABLE_BYTES, addr, AdmaWidth::Bits64);
        Ok(Lane {
            ground,
            counting,
            device,
            table,
            table_memory,
            context,
            stream,
        })
    }

    /// Writes the descriptors of `pieces` and lets `f` use them.
    pub(super) fn with_list<R>(
        &self,
        rig: &mut Rig,
        pieces: impl IntoIterator<Item = (Iova, u64)>,
        f: impl FnOnce(&mut Rig, &AdmaList) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let list = self.table.fill(pieces).map_err(Stop::refused)?;
        if !matches!(self.ground, Ground::Bounce { .. }) {
            return f(rig, &list);
        }
        let used = Segment {
            len_bytes: u64::from(list.descriptors()) * AdmaWidth::Bits64.descriptor_bytes(),
            ..self.table_memory
        };
        let mut out = [DmaSegment::EMPTY];
        let mapped: Mapped =
            (self.ground).map(rig, &self.device, &[used], &mut out, Direction::ToDevice)?;
        let result = f(rig, &list.at(out[0].addr));
        self.ground.unmap(rig, mapped)?;
        result
    }

    /// Takes it all down again.
    pub(super) fn close(self, rig: &Rig) -> Result<(), Stop> {
        let stream = self.stream;
        self.ground.close(rig, || {
            let detached = rig.driver.detach(stream);
            detached.map(|_| ()).map_err(|error| rig.cause(error))
        })?;
        (rig.driver.destroy_context(self.context)).map_err(|error| rig.cause(error))?;
        (rig.ram())
            .free(self.table_memory.phys, TABLE_BYTES)
            .map_err(Stop::refused)
    }
}
