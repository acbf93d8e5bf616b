//! A device's address space in one mode, and its descriptor table.

use std::sync::Arc;

use dmabench_dma::{Device, Direction, Domain, DomainConfig, Mapping, Mode, Segment};
use dmabench_flushq::{CountingBackend, RangeCommands};
use dmabench_pgtable::{TableConfig, format::S1K4};
use dmabench_platform::{Fences, PhysAddr, Slots, ThreadSlots};
use dmabench_smmu::{
    driver::{AtsUse, SmmuContext, StreamTarget},
    qemu::{AdmaTable, AdmaWidth, GuestRam},
};

use super::{Stop, rig::Rig, tee::Tee};

pub(super) type QemuDomain = Domain<Tee, ThreadSlots, S1K4, GuestRam>;

/// Room for 5461 descriptors.
const TABLE_BYTES: u64 = 64 << 10;

/// Address space, stream and table of one card.
pub(super) struct Lane {
    pub(super) domain: QemuDomain,
    pub(super) counting: Arc<CountingBackend>,
    pub(super) table: AdmaTable,
    pub(super) device: Device,
    table_phys: PhysAddr,
    table_mapping: Mapping,
    context: SmmuContext,
    stream: u32,
}

impl Lane {
    /// Makes the address space, maps the descriptor table in it, and attaches
    /// the card's stream.
    pub(super) fn new(rig: &Rig, card: usize, config: DomainConfig) -> Result<Self, Stop> {
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
        let table_phys = rig.ram().alloc(TABLE_BYTES, 4096).map_err(Stop::refused)?;
        let memory = Segment {
            phys: table_phys,
            len_bytes: TABLE_BYTES,
        };
        let table_mapping =
            (domain.map(&device, memory, Direction::ToDevice)).map_err(|error| rig.cause(error))?;
        let addr = table_mapping.addr();
        let table = AdmaTable::new(rig.ram(), table_phys, TABLE_BYTES, addr, AdmaWidth::Bits64);
        Ok(Lane {
            domain,
            counting,
            table,
            device,
            table_phys,
            table_mapping,
            context,
            stream,
        })
    }

    /// Takes it all down again.
    pub(super) fn close(self, rig: &Rig) -> Result<(), Stop> {
        self.domain
            .unmap(self.table_mapping)
            .map_err(|error| rig.cause(error))?;
        (rig.driver.detach(self.stream)).map_err(|error| rig.cause(error))?;
        self.domain.close().map_err(|error| rig.cause(error))?;
        (rig.driver.destroy_context(self.context)).map_err(|error| rig.cause(error))?;
        rig.ram()
            .free(self.table_phys, TABLE_BYTES)
            .map_err(Stop::refused)
    }
}
