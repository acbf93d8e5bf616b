//! What requests are mapped on in a mode: a domain, one that copies, or one whose
//! memory is registered.

use dmabench_dma::{
    Batch, BatchError, Device, Direction, DmaSegment, Domain, Mapping, Mode, NoCacheOps, Parcel,
    Pending, Segment,
    bounce::{BounceConfig, BounceDomain, BouncePolicy, Bounced},
    premapped::{Premapped, Region},
};
use dmabench_pgtable::format::S1K4;
use dmabench_platform::{ThreadSlots, TimeNs};
use dmabench_smmu::qemu::GuestRam;

use super::{
    Stop,
    rig::{Driver, Rig},
    tee::Tee,
};
use crate::cli::ModeArg;

pub(super) type QemuDomain = Domain<Tee<Driver>, ThreadSlots, S1K4, GuestRam>;
type Copies = BounceDomain<Tee<Driver>, ThreadSlots, S1K4, GuestRam, GuestRam>;
type Registered = Premapped<Tee<Driver>, ThreadSlots, S1K4, GuestRam>;

/// Bytes of a bounce pool: slots for all requests that are mapped at once.
const POOL_BYTES: u64 = 64 << 20;

/// A mode's way to map. Each has the descriptor table mapped in its own way.
pub(super) enum Ground {
    /// The table is mapped for good.
    Domain {
        domain: Box<QemuDomain>,
        table: Mapping,
    },
    /// The table is copied for each transfer, as all the device sees.
    Bounce { domain: Box<Copies>, pool: Segment },
    /// Buffers and table are registered.
    Premapped {
        domain: Box<Registered>,
        regions: Vec<Region>,
        table: Mapping,
    },
}

/// A request that is mapped.
pub(super) enum Mapped {
    Domain(Mapping),
    Bounced(Box<Bounced<Vec<Segment>>>),
    Registered,
}

impl Ground {
    /// Maps `table`, and what the mode maps for good.
    pub(super) fn new(
        rig: &Rig,
        mode: ModeArg,
        domain: QemuDomain,
        device: &Device,
        table: Segment,
    ) -> Result<Self, Stop> {
        if mode == ModeArg::Bounce {
            let phys = (rig.ram().alloc(POOL_BYTES, 2 << 20)).map_err(Stop::refused)?;
            let pool = Segment {
                phys,
                len_bytes: POOL_BYTES,
            };
            let config = BounceConfig::new(BouncePolicy::Everything, pool);
            let domain = BounceDomain::new(domain, config, rig.ram().clone(), NoCacheOps);
            let domain = Box::new(domain.map_err(|error| rig.cause(error))?);
            return Ok(Ground::Bounce { domain, pool });
        }
        let table = domain.map(device, table, Direction::ToDevice);
        let table = table.map_err(|error| rig.cause(error))?;
        if mode == ModeArg::Premapped {
            let domain = Box::new(Premapped::new(domain));
            let memory = [rig.arena.memory];
            let regions = domain.register_all(device, &memory, Direction::Bidirectional);
            return Ok(Ground::Premapped {
                regions: regions.map_err(|error| rig.cause(error))?,
                domain,
                table,
            });
        }
        let domain = Box::new(domain);
        Ok(Ground::Domain { domain, table })
    }

    /// Maps a request.
    pub(super) fn map(
        &self,
        rig: &Rig,
        device: &Device,
        list: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Mapped, Stop> {
        match self {
            Ground::Domain { domain, .. } => (domain.map_sg(device, list, out, direction))
                .map(Mapped::Domain)
                .map_err(|error| rig.cause(error)),
            Ground::Bounce { domain, .. } => (domain.map_sg(device, list.to_vec(), out, direction))
                .map(|bounced| Mapped::Bounced(Box::new(bounced)))
                .map_err(|error| rig.cause(error)),
            Ground::Premapped { domain, .. } => (domain.map_sg(device, list, out, direction))
                .map(|()| Mapped::Registered)
                .map_err(|error| rig.cause(error)),
        }
    }

    /// Unmaps one; when this returns, the buffer is its owner's as far as the mode
    /// says.
    pub(super) fn unmap(&self, rig: &Rig, mapped: Mapped) -> Result<(), Stop> {
        match (self, mapped) {
            (Ground::Domain { domain, .. }, Mapped::Domain(mapping)) => {
                domain.unmap(mapping).map_err(|error| rig.cause(error))
            }
            (Ground::Bounce { domain, .. }, Mapped::Bounced(bounced)) => {
                let done = domain.unmap(*bounced).map(|_| ());
                done.map_err(|error| rig.cause(error))
            }
            (_, Mapped::Registered) => Ok(()),
            _ => Err(Stop::Defect("a mapping of another ground".to_owned())),
        }
    }

    /// Unmaps one and hands `buffer` to `sink` when the mode gives it back.
    pub(super) fn unmap_parked<T: Send + 'static>(
        &self,
        rig: &Rig,
        mapped: Mapped,
        buffer: T,
        sink: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Stop> {
        match (self, mapped) {
            (Ground::Domain { domain, .. }, Mapped::Domain(mapping)) => domain
                .unmap_parked(mapping, Parcel::new(buffer, sink))
                .map_err(|error| rig.cause(error)),
            _ => Err(Stop::Defect("only a domain parks buffers".to_owned())),
        }
    }

    /// Begins an unmap.
    pub(super) fn unmap_begin(&self, rig: &Rig, mapped: Mapped) -> Result<Pending, Stop> {
        match (self, mapped) {
            (Ground::Domain { domain, .. }, Mapped::Domain(mapping)) => (domain)
                .unmap_begin(mapping)
                .map_err(|error| rig.cause(error)),
            _ => Err(Stop::Defect("only a domain has pending unmaps".to_owned())),
        }
    }

    /// Ends it.
    pub(super) fn complete(&self, rig: &Rig, pending: Pending) -> Result<(), Stop> {
        match self {
            Ground::Domain { domain, .. } => {
                domain.complete(pending).map_err(|error| rig.cause(error))
            }
            _ => Err(Stop::Defect("only a domain has pending unmaps".to_owned())),
        }
    }

    /// A batch of the domain, where the mode has them.
    pub(super) fn batch(&self, capacity: usize) -> Result<Option<Batch>, Stop> {
        match self {
            Ground::Domain { domain, .. } if domain.mode() == Mode::StrictBatched => {
                let batch = domain.batch(capacity);
                batch
                    .map(Some)
                    .map_err(|error| Stop::Defect(error.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// Unmaps what is in it.
    pub(super) fn unmap_batch(&self, rig: &Rig, batch: &mut Batch) -> Result<(), Stop> {
        let done = match self {
            Ground::Domain { domain, .. } => domain.unmap_batch(batch),
            _ => Err(BatchError::OtherDomain),
        };
        done.map_err(|error| rig.cause(error))
    }

    /// What the device wrote is in the buffer afterwards.
    pub(super) fn sync_for_cpu(&self, rig: &Rig, mapped: &Mapped) -> Result<(), Stop> {
        match (self, mapped) {
            (Ground::Bounce { domain, .. }, Mapped::Bounced(bounced)) => (domain)
                .sync_for_cpu(bounced, 0, bounced.len_bytes())
                .map_err(|error| rig.cause(error)),
            _ => Ok(()),
        }
    }

    /// What is in the buffer the device reads afterwards.
    pub(super) fn sync_for_device(&self, rig: &Rig, mapped: &Mapped) -> Result<(), Stop> {
        match (self, mapped) {
            (Ground::Bounce { domain, .. }, Mapped::Bounced(bounced)) => (domain)
                .sync_for_device(bounced, 0, bounced.len_bytes())
                .map_err(|error| rig.cause(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<TimeNs> {
        match self {
            Ground::Domain { domain, .. } => domain.next_deadline(),
            Ground::Bounce { domain, .. } => domain.next_deadline(),
            Ground::Premapped { domain, .. } => domain.domain().next_deadline(),
        }
    }

    pub(super) fn poll(&self, rig: &Rig, now: TimeNs) -> Result<(), Stop> {
        let polled = match self {
            Ground::Domain { domain, .. } => domain.poll(now),
            Ground::Bounce { domain, .. } => domain.poll(now),
            Ground::Premapped { domain, .. } => domain.domain().poll(now),
        };
        polled.map(|_| ()).map_err(|error| rig.cause(error))
    }

    /// Flushes what waits.
    pub(super) fn drain(&self, rig: &Rig) -> Result<(), Stop> {
        let drained = match self {
            Ground::Domain { domain, .. } => domain.drain(),
            // Nothing waits in a strict domain.
            Ground::Bounce { .. } => return Ok(()),
            Ground::Premapped { domain, .. } => domain.domain().drain(),
        };
        drained.map(|_| ()).map_err(|error| rig.cause(error))
    }

    /// Unmaps what was mapped for good.
    fn strip(&mut self, rig: &Rig) -> Result<(), Stop> {
        if let Ground::Premapped {
            domain, regions, ..
        } = self
        {
            for region in regions.drain(..) {
                let gone = domain.unregister(region);
                gone.map_err(|error| rig.cause(error))?;
            }
        }
        Ok(())
    }

    /// Takes everything down. `detach` is called once nothing is mapped, before
    /// the tables go.
    pub(super) fn close(
        mut self,
        rig: &Rig,
        detach: impl FnOnce() -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        self.strip(rig)?;
        match self {
            Ground::Domain { domain, table } => {
                domain.unmap(table).map_err(|error| rig.cause(error))?;
                detach()?;
                domain.close().map_err(|error| rig.cause(error))
            }
            Ground::Bounce { domain, pool } => {
                detach()?;
                domain.close().map_err(|error| rig.cause(error))?;
                (rig.ram().free(pool.phys, pool.len_bytes)).map_err(Stop::refused)
            }
            Ground::Premapped { domain, table, .. } => {
                (domain.domain().unmap(table)).map_err(|error| rig.cause(error))?;
                detach()?;
                domain.close().map_err(|error| rig.cause(error))
            }
        }
    }
}
