//! The ground of mode `premapped`: all memory that the workload touches is
//! registered before the first request; a map is a look-up, an unmap nothing.

use dmabench_dma::{
    Device, Direction, DmaSegment, Segment,
    premapped::{Premapped, Region},
};
use dmabench_flushq::{BackendCounts, CountingBackend};
use dmabench_pgtable::{HeapTables, format::S1K4};
use dmabench_platform::{Iova, PhysAddr, ThreadSlots, TimeNs};

use super::{
    GRANULE, RunError,
    bed::{self, sum_counts},
    exposure::Exposed,
    ground::{Counted, Ground},
    plan::Plan,
};
use crate::{
    cli::ModeArg,
    report,
    workload::{Request, Workload},
};

/// For a report that has results of this mode.
pub(super) const MODE_NOTE: &str = "premapped: the memory that a workload touches stays in the \
    device's reach from its first request to its last, by agreement: no unmap takes it away, so \
    there is no access after one to count.";

/// A domain for each device, with its memory registered.
pub(super) struct Registered {
    domains: Vec<Premapped<CountingBackend, ThreadSlots, S1K4, HeapTables>>,
    device: Device,
    regions: Vec<Region>,
}

/// For timing: a backend that counts and takes no time.
pub(super) fn counting(workload: &Workload, plan: &Plan) -> Result<Registered, RunError> {
    let device = Device::new();
    let mut domains = Vec::new();
    let mut regions = Vec::new();
    let plain = bed::counting_domains(workload, ModeArg::Premapped, plan)?;
    for (number, domain) in (0..).zip(plain) {
        let premapped = Premapped::new(domain);
        let memory = memory_of(workload, number)?;
        let registered = premapped
            .register_all(&device, &memory, Direction::Bidirectional)
            .map_err(RunError::refused)?;
        regions.extend(registered);
        domains.push(premapped);
    }
    Ok(Registered {
        domains,
        device,
        regions,
    })
}

/// The granules that requests of one device touch, neighbours together.
fn memory_of(workload: &Workload, device: u16) -> Result<Vec<Segment>, RunError> {
    let mask = GRANULE.mask();
    let mut granules = Vec::new();
    let own = (workload.requests().iter()).filter(|request| request.device == device);
    for segment in own.flat_map(|request| workload.segments(request)) {
        let last = segment.phys.last_byte(segment.len_bytes).ok_or_else(|| {
            RunError::refused(format_args!("a segment at {} has no end", segment.phys))
        })?;
        granules.push((segment.phys.0 & !mask, last.0 | mask));
    }
    granules.sort_unstable();
    let mut memory: Vec<(u64, u64)> = Vec::new();
    for (first, last) in granules {
        match memory.last_mut() {
            Some(before) if first.checked_sub(1).is_none_or(|end| end <= before.1) => {
                before.1 = before.1.max(last);
            }
            _ => memory.push((first, last)),
        }
    }
    let segment = |(first, last): (u64, u64)| Segment {
        phys: PhysAddr(first),
        // All of 64 bits has no length; nobody can map it either.
        len_bytes: (last - first).wrapping_add(1),
    };
    Ok(memory.into_iter().map(segment).collect())
}

/// What an exposure run would find: nothing that was taken away, so nothing
/// that is left. The count is null and not 0: a device can reach every buffer
/// that was given back, as in passthrough, but no other memory.
pub(super) fn exposed(workload: &Workload, plan: &Plan) -> Result<Exposed, RunError> {
    let ground = counting(workload, plan)?;
    let bytes = (ground.domains.iter())
        .map(Premapped::registered_bytes)
        .sum::<u64>();
    let (iova_pages_held_max, page_table_bytes) = ground.held();
    Ok(Exposed {
        iova_pages_held_max,
        page_table_bytes,
        notes: vec![format!(
            "{} are registered, in {}.",
            report::bytes(bytes),
            report::plural(ground.regions.len() as u64, "region"),
        )],
        ..Exposed::default()
    })
}

impl<'w> Ground<'w> for Registered {
    type Live = ();

    #[inline]
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<(), RunError> {
        self.domains[usize::from(request.device)]
            .map_sg(&self.device, segments, out, request.direction)
            .map_err(RunError::refused)
    }

    #[inline]
    fn unmap(&self, _device: u16, (): ()) -> Result<(), RunError> {
        Ok(())
    }

    fn range((): &()) -> Option<(Iova, u64)> {
        None
    }

    fn next_deadline(&self) -> Option<TimeNs> {
        (self.domains.iter())
            .filter_map(|domain| domain.domain().next_deadline())
            .min()
    }

    fn poll(&self, now: TimeNs) -> Result<(), RunError> {
        for domain in &self.domains {
            domain.domain().poll(now).map_err(RunError::refused)?;
        }
        Ok(())
    }

    fn drain(&self) -> Result<(), RunError> {
        Ok(())
    }

    fn held(&self) -> (u64, u64) {
        let mut held = (0, 0);
        for domain in &self.domains {
            let stats = domain.domain().stats();
            held.0 += stats.iova_pages_held;
            held.1 += stats.page_table_bytes;
        }
        held
    }
}

impl Counted for Registered {
    fn counts(&self) -> BackendCounts {
        sum_counts(self.domains.iter().map(|domain| domain.domain().backend()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Builder;

    fn segment(phys: u64, len_bytes: u64) -> Segment {
        Segment {
            phys: PhysAddr(phys),
            len_bytes,
        }
    }

    fn workload() -> Workload {
        let mut builder = Builder::new();
        for list in [
            vec![segment(0x5800, 0x900), segment(0x1000, 0x1000)],
            vec![segment(0x7000, 0x1000), segment(0x1800, 8)],
            vec![segment(0xf_0000, 1)],
        ] {
            let request = builder.map(0, Direction::FromDevice, list);
            builder.unmap(request);
        }
        let source = crate::report::Source::Generated {
            generator: String::new(),
        };
        let devices = vec!["card".to_owned(), "idle".to_owned()];
        builder.finish("w".to_owned(), String::new(), source, None, devices)
    }

    #[test]
    fn memory_is_whole_granules_and_neighbours_are_one_region() {
        let workload = workload();
        assert_eq!(
            memory_of(&workload, 0).unwrap(),
            [
                segment(0x1000, 0x1000),
                segment(0x5000, 0x3000),
                segment(0xf_0000, 0x1000)
            ]
        );
        assert_eq!(memory_of(&workload, 1).unwrap(), []);
    }

    #[test]
    fn look_ups_find_every_request_and_the_hardware_is_asked_nothing() {
        let workload = workload();
        let plan = Plan::default();
        let ground = counting(&workload, &plan).unwrap();
        let before = ground.counts();
        let mut out = [DmaSegment::EMPTY; 2];
        for request in workload.requests() {
            let segments = workload.segments(request);
            ground.map(request, segments, &mut out).unwrap();
            for (out, segment) in out.iter().zip(segments) {
                let found = ground.domains[0].domain().translate(out.addr).unwrap();
                assert_eq!(found.paddr, segment.phys);
            }
            ground.unmap(0, ()).unwrap();
        }
        assert_eq!(ground.counts(), before);
        let exposed = exposed(&workload, &plan).unwrap();
        assert!(exposed.exposure.is_none());
        // Five, and one more as three are rounded to a cached size.
        assert_eq!(exposed.iova_pages_held_max, 6);
        assert!(exposed.notes[0].contains("20 KiB"), "{:?}", exposed.notes);
    }
}
