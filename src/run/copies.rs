//! The ground of mode `bounce`: every byte goes through the pool of its device's
//! domain, which stays mapped; or those of small requests, and the ends of others.
//!
//! In the timing run the copies are real. The trace's memory is an arena whose
//! bytes stand for the physical addresses modulo its size: traces name more
//! memory than a machine has, and what matters is that the bytes move. In the
//! exposure run nothing is copied; there the question is what the device reaches.

use std::{cell::UnsafeCell, sync::Arc};

use dmabench_dma::{
    Device, DmaSegment, NoCacheOps, Segment,
    bounce::{BounceConfig, BounceDomain, BouncePolicy, Bounced},
};
use dmabench_flushq::{BackendCounts, CountingBackend, TlbBackend};
use dmabench_pgtable::{HeapTables, TableMemory, format::S1K4};
use dmabench_platform::{
    Block, BlockMemory, CpuMemory, HeapBlocks, Iova, MemoryError, PhysAddr, ThreadSlots, TimeNs,
};
use dmabench_smmu::soft::SimMemory;

use super::{
    GRANULE, RunError,
    bed::{self, BedDomain, sum_counts},
    exposure::{Backend, Lab},
    ground::{Counted, Ground},
    plan::Plan,
};
use crate::{
    cli::ModeArg,
    report,
    workload::{Request, Step, Workload},
};

/// Bytes that stand for the trace's memory.
const ARENA_BYTES: u64 = 64 << 20;

/// The least memory of a pool.
const POOL_MIN_BYTES: u64 = 16 << 20;

/// Where the pools of exposure runs lie: above what the traces name, below the
/// simulated tables.
const SIMULATED_POOL: u64 = 1 << 45;

/// For a report that has results of this mode.
pub(super) fn mode_note(in_place_from: Option<u64>) -> String {
    let (what, reach) = match in_place_from {
        None => (String::new(), "the buffers never"),
        Some(bytes) => (
            format!(
                " of requests with less than {} in whole pages, and of the others what does not \
                 fill a page,",
                report::bytes(bytes)
            ),
            "of the buffers the pages they fill, until their strict unmap",
        ),
    };
    format!(
        "bounce: every byte{what} is copied, into zeroed slots by the map where the device reads, \
         out of them by the unmap where it writes. The device reaches the pool of slots at any \
         time and {reach}. In the timing run the copies are real, and an arena of {} stands for \
         the buffers' memory (addresses modulo its size). I/O pages held are those of slots in use.",
        report::bytes(ARENA_BYTES),
    )
}

/// A domain with a pool for each device.
pub(super) struct Copies<B: TlbBackend, M: TableMemory, H: CpuMemory> {
    domains: Vec<BounceDomain<B, ThreadSlots, S1K4, M, H>>,
    device: Device,
    /// Of each domain.
    pools: Vec<Segment>,
    policy: BouncePolicy,
    /// Looks where the device gets to.
    check: bool,
}

fn policy(plan: &Plan) -> BouncePolicy {
    match plan.bounce_in_place_from {
        None => BouncePolicy::Everything,
        Some(below_bytes) => BouncePolicy::Small { below_bytes },
    }
}

/// The ground of exposure runs.
pub(super) type SimCopies = Copies<Backend, Arc<SimMemory>, NoCopies>;

/// For timing.
pub(super) fn counting(
    workload: &Workload,
    plan: &Plan,
) -> Result<Copies<CountingBackend, HeapTables, Arena>, RunError> {
    let domains = bed::counting_domains(workload, ModeArg::Bounce, plan)?;
    let pool_bytes = pool_bytes(workload);
    let longest = longest_segment(workload);
    let pools = (0..domains.len()).map(|_| {
        let arena = Arena::new(pool_bytes, longest)?;
        Ok((arena.pool(), arena))
    });
    Copies::new(domains, pools, policy(plan), false)
}

/// For exposure: in front of the software SMMU.
pub(super) fn simulated(workload: &Workload, plan: &Plan) -> Result<(SimCopies, Lab), RunError> {
    simulated_with(workload, plan, policy(plan))
}

fn simulated_with(
    workload: &Workload,
    plan: &Plan,
    policy: BouncePolicy,
) -> Result<(SimCopies, Lab), RunError> {
    let (domains, lab) = bed::simulated_domains(workload, ModeArg::Bounce, plan)?;
    let len_bytes = pool_bytes(workload);
    let pools = (0..domains.len() as u64).map(|number| {
        let pool = Segment {
            phys: PhysAddr(SIMULATED_POOL + number * len_bytes),
            len_bytes,
        };
        Ok((pool, NoCopies))
    });
    Ok((Copies::new(domains, pools, policy, true)?, lab))
}

/// Four times what the workload has mapped at most: slots are whole powers of
/// two of granules, and caches keep some.
fn pool_bytes(workload: &Workload) -> u64 {
    let mut live = 0_u64;
    let mut most = 0;
    let size = |number: u32| {
        let request = &workload.requests()[number as usize];
        let granules: u64 = (workload.segments(request).iter())
            .map(|s| (s.phys.0 & GRANULE.mask()).saturating_add(s.len_bytes) / GRANULE.bytes() + 1)
            .fold(0, u64::saturating_add);
        granules
            .checked_next_power_of_two()
            .and_then(|granules| granules.checked_mul(GRANULE.bytes()))
            .unwrap_or(u64::MAX)
    };
    for step in workload.steps() {
        match *step {
            Step::Map(number) => live = live.saturating_add(size(number)),
            Step::Unmap(number) => live = live.saturating_sub(size(number)),
        }
        most = most.max(live);
    }
    (most.saturating_mul(4).max(POOL_MIN_BYTES))
        .checked_next_power_of_two()
        .unwrap_or(1 << 63)
}

fn longest_segment(workload: &Workload) -> u64 {
    let segments = (workload.requests().iter()).flat_map(|request| workload.segments(request));
    segments.map(|s| s.len_bytes).max().unwrap_or(0)
}

impl<B: TlbBackend, M: TableMemory, H: CpuMemory> Copies<B, M, H> {
    fn new(
        domains: Vec<BedDomain<B, M>>,
        pools: impl Iterator<Item = Result<(Segment, H), RunError>>,
        policy: BouncePolicy,
        check: bool,
    ) -> Result<Self, RunError> {
        let mut memories = Vec::new();
        let domains = (domains.into_iter().zip(pools))
            .map(|(domain, pool)| {
                let (memory, host) = pool?;
                memories.push(memory);
                let config = BounceConfig::new(policy, memory);
                BounceDomain::new(domain, config, host, NoCacheOps).map_err(RunError::refused)
            })
            .collect::<Result<_, _>>()?;
        Ok(Copies {
            domains,
            device: Device::new(),
            pools: memories,
            policy,
            check,
        })
    }

    /// For the result.
    pub(super) fn note(&self) -> String {
        let stats = || self.domains.iter().map(BounceDomain::stats);
        let bytes: u64 = stats().map(|stats| stats.pool_bytes).sum();
        let mut note = format!("The bounce pool has {}.", report::bytes(bytes));
        let in_place: u64 = stats().map(|stats| stats.counts.in_place_lists).sum();
        if in_place > 0 {
            let copied: u64 = stats().map(|stats| stats.counts.copied_lists).sum();
            note += &format!(
                " Of {} requests of the exposure run {copied} were copied and {in_place} mapped in place.",
                copied + in_place
            );
        }
        note
    }

    /// Where the device gets at the request's addresses: to the pool, or to pages
    /// that its buffer fills where the policy maps those.
    fn check(&self, device: u16, segments: &[Segment], out: &[DmaSegment]) -> Result<(), RunError> {
        let device = usize::from(device);
        let (domain, pool) = (&self.domains[device], self.pools[device]);
        let may_be_in_place = self.policy != BouncePolicy::Everything;
        let inside = |at: PhysAddr, len_bytes: u64, of: Segment| {
            (at.0.checked_sub(of.phys.0))
                .is_some_and(|offset| offset.saturating_add(len_bytes) <= of.len_bytes)
        };
        for (segment, out) in segments.iter().zip(out) {
            let first = out.addr.0 & !GRANULE.mask();
            let last = (out.addr.0 + (out.len_bytes - 1)) & !GRANULE.mask();
            for page in (first..=last).step_by(GRANULE.bytes() as usize) {
                let found = domain.translate(Iova(page)).map(|found| found.paddr);
                let fine = found.is_some_and(|at| {
                    inside(at, GRANULE.bytes(), pool)
                        || may_be_in_place && inside(at, GRANULE.bytes(), *segment)
                });
                if !fine {
                    return Err(RunError::Defect(format!(
                        "a bounced request is at {}, where the device reaches what is neither \
                         the pool's nor all of it the buffer's",
                        Iova(page)
                    )));
                }
            }
        }
        Ok(())
    }
}

impl<'w, B: TlbBackend, M: TableMemory, H: CpuMemory> Ground<'w> for Copies<B, M, H> {
    type Live = Bounced<&'w [Segment]>;

    #[inline]
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<Self::Live, RunError> {
        let bounced = self.domains[usize::from(request.device)]
            .map_sg(&self.device, segments, out, request.direction)
            .map_err(RunError::refused)?;
        if self.check {
            self.check(request.device, segments, out)?;
        }
        Ok(bounced)
    }

    #[inline]
    fn unmap(&self, device: u16, live: Self::Live) -> Result<(), RunError> {
        match self.domains[usize::from(device)].unmap(live) {
            Ok(_) => Ok(()),
            Err(error) => Err(RunError::refused(error)),
        }
    }

    fn range(live: &Self::Live) -> Option<(Iova, u64)> {
        Some(live.mapped_range())
    }

    fn next_deadline(&self) -> Option<TimeNs> {
        (self.domains.iter())
            .filter_map(BounceDomain::next_deadline)
            .min()
    }

    fn poll(&self, now: TimeNs) -> Result<(), RunError> {
        for domain in &self.domains {
            domain.poll(now).map_err(RunError::refused)?;
        }
        Ok(())
    }

    fn drain(&self) -> Result<(), RunError> {
        Ok(())
    }

    fn held(&self) -> (u64, u64) {
        let mut held = (0, 0);
        for domain in &self.domains {
            let stats = domain.stats();
            held.0 += stats.pool_bytes_held >> GRANULE.lg2();
            held.1 += stats.domain.page_table_bytes;
        }
        held
    }
}

impl Counted for Copies<CountingBackend, HeapTables, Arena> {
    fn counts(&self) -> BackendCounts {
        sum_counts(self.domains.iter().map(BounceDomain::backend))
    }
}

/// Copies nothing.
#[derive(Debug)]
pub(super) struct NoCopies;

impl CpuMemory for NoCopies {
    fn copy(&self, _from: PhysAddr, _to: PhysAddr, _len_bytes: u64) -> Result<(), MemoryError> {
        Ok(())
    }

    fn zero(&self, _at: PhysAddr, _len_bytes: u64) -> Result<(), MemoryError> {
        Ok(())
    }
}

thread_local! {
    /// The trace's memory as this thread has it: each thread has its own, so
    /// that two never write the same byte.
    static TRACE_MEMORY: UnsafeCell<Vec<u8>> = const { UnsafeCell::new(Vec::new()) };
}

/// Real memory: a pool, and for every other address the arena.
#[derive(Debug)]
pub(super) struct Arena {
    pool: Block,
    pool_bytes: u64,
    /// What the arena must hold behind its last address.
    longest: u64,
}

// SAFETY: the pool is this value's alone; which thread may touch which part of
// it is told in `copy`.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    fn new(pool_bytes: u64, longest: u64) -> Result<Self, RunError> {
        let pool = HeapBlocks
            .alloc(pool_bytes, GRANULE.bytes(), true)
            .ok_or_else(|| {
                RunError::refused(format_args!(
                    "no {} of memory for the bounce pool",
                    report::bytes(pool_bytes)
                ))
            })?;
        Ok(Arena {
            pool,
            pool_bytes,
            longest,
        })
    }

    fn pool(&self) -> Segment {
        Segment {
            phys: self.pool.phys,
            len_bytes: self.pool_bytes,
        }
    }

    /// The pool's bytes at `phys`; `None` where that is not all in the pool.
    fn in_pool(&self, phys: PhysAddr, len_bytes: u64) -> Option<*mut u8> {
        let offset = phys.0.checked_sub(self.pool.phys.0)?;
        let end = offset.checked_add(len_bytes)?;
        if end > self.pool_bytes {
            return None;
        }
        // SAFETY: inside the block.
        Some(unsafe { self.pool.ptr.as_ptr().add(offset as usize) })
    }

    /// Calls `f` with this thread's bytes for `phys`; `None` for a length no
    /// segment has.
    fn in_trace(&self, phys: PhysAddr, len_bytes: u64, f: impl FnOnce(*mut u8)) -> Option<()> {
        if len_bytes > self.longest {
            return None;
        }
        TRACE_MEMORY.with(|memory| {
            // SAFETY: this thread's alone, and `f` does not come back here.
            let memory = unsafe { &mut *memory.get() };
            let needed = (ARENA_BYTES + self.longest) as usize;
            if memory.len() < needed {
                // From the allocator, which has zeroed pages, not by writing.
                *memory = vec![0; needed];
            }
            let offset = (phys.0 % ARENA_BYTES) as usize;
            // SAFETY: the offset and the length are within `needed`.
            f(unsafe { memory.as_mut_ptr().add(offset) });
        });
        Some(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: from `HeapBlocks` with these figures; the domain that used it
        // is gone or going, and there is no device.
        unsafe { HeapBlocks.free(self.pool, self.pool_bytes, GRANULE.bytes(), true) }
    }
}

/// One side of a copy is slots, the other the trace's memory; nothing else is
/// done.
impl CpuMemory for Arena {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let refused = MemoryError::NotMemory {
            phys: from,
            len_bytes,
        };
        let len = len_bytes as usize;
        let done = match (self.in_pool(from, len_bytes), self.in_pool(to, len_bytes)) {
            (Some(slot), None) => self.in_trace(to, len_bytes, |buffer| {
                // SAFETY: both are `len` bytes long, in different allocations.
                // The domain alone calls this, for slots of a request that it
                // holds the token of, so no other thread touches them; the
                // buffer is this thread's.
                unsafe { buffer.copy_from_nonoverlapping(slot, len) };
            }),
            (None, Some(slot)) => self.in_trace(from, len_bytes, |buffer| {
                // SAFETY: as above.
                unsafe { slot.copy_from_nonoverlapping(buffer, len) };
            }),
            _ => None,
        };
        done.ok_or(refused)
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let slot = self.in_pool(at, len_bytes).ok_or(MemoryError::NotMemory {
            phys: at,
            len_bytes,
        })?;
        // SAFETY: as in `copy`: so long, and of a request that the caller has.
        unsafe { slot.write_bytes(0, len_bytes as usize) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        run::exposure,
        workload::generate::{DdSeq, Generator},
    };
    use std::sync::atomic::AtomicBool;

    fn workload() -> Workload {
        DdSeq {
            requests: 200,
            ..DdSeq::DEFAULT
        }
        .generate(3)
    }

    #[test]
    fn bytes_move_between_the_trace_and_the_slots() {
        let arena = Arena::new(1 << 20, 8192).unwrap();
        let slot = PhysAddr(arena.pool().phys.0 + 4096);
        let (one, two) = (PhysAddr(0x123_4567_8ffd), PhysAddr(ARENA_BYTES - 3));
        let poke = |at, byte| {
            let done = arena.in_trace(at, 6, |buffer| {
                // SAFETY: six bytes of this thread's.
                unsafe { buffer.write_bytes(byte, 6) }
            });
            done.unwrap();
        };
        let peek = |at| {
            let mut bytes = [0; 6];
            arena
                .in_trace(at, 6, |buffer| {
                    // SAFETY: as above.
                    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(buffer, 6) }
                })
                .unwrap();
            bytes
        };
        poke(one, 7);
        poke(two, 9);
        arena.copy(one, slot, 6).unwrap();
        arena.zero(PhysAddr(slot.0 + 2), 2).unwrap();
        arena.copy(slot, two, 6).unwrap();
        assert_eq!(peek(two), [7, 7, 0, 0, 7, 7]);
        assert_eq!(peek(one), [7; 6]);
        // Slots on both sides or on none, and lengths that are nobody's.
        let pool_end = PhysAddr(arena.pool().phys.0 + (1 << 20) - 3);
        for (from, to, len) in [
            (slot, slot, 6),
            (one, two, 6),
            (one, slot, 8193),
            (one, pool_end, 6),
        ] {
            assert!(arena.copy(from, to, len).is_err());
        }
        assert!(arena.zero(one, 1).is_err() && arena.zero(pool_end, 4).is_err());
    }

    #[test]
    fn the_device_gets_to_the_pool_only() {
        let (workload, plan) = (workload(), Plan::default());
        let never = AtomicBool::new(false);
        let exposed = exposure::run(&workload, ModeArg::Bounce, &plan, &never).unwrap();
        assert_eq!(exposed.stale_accesses, 0);
        let seen = exposed.exposure.unwrap();
        assert!(seen.device_accesses > 0 && seen.probes > 0);
        assert_eq!((seen.violations, seen.sync_commands), (0, 0));
        assert_eq!(seen.timeline.last().unwrap().waiting_pages, 0);
        // Pages that are in place and not all the buffer's are noticed, and any that
        // are in place where all is copied.
        let policies = [BouncePolicy::Partial, BouncePolicy::Everything];
        for (policy, of_buffer) in policies
            .into_iter()
            .zip([GRANULE.bytes() / 2, GRANULE.bytes()])
        {
            let (mut ground, _lab) =
                simulated_with(&workload, &plan, BouncePolicy::Partial).unwrap();
            let request = &workload.requests()[0];
            let segments = workload.segments(request);
            let mut out = vec![DmaSegment::EMPTY; workload.segments_max()];
            let _live = ground.map(request, segments, &mut out).unwrap();
            let claimed: Vec<Segment> = (segments.iter())
                .map(|segment| Segment {
                    len_bytes: segment.len_bytes - GRANULE.bytes() + of_buffer,
                    ..*segment
                })
                .collect();
            ground.policy = policy;
            let seen = ground.check(request.device, &claimed, &out);
            assert!(matches!(seen, Err(RunError::Defect(_))), "{policy:?}");
        }
    }

    #[test]
    fn large_requests_are_strict_where_the_plan_says_so() {
        let (workload, never) = (workload(), AtomicBool::new(false));
        // Requests of 128 KiB, in whole pages.
        for (from, in_place) in [(128 << 10, true), ((128 << 10) + 1, false)] {
            let plan = Plan {
                bounce_in_place_from: Some(from),
                ..Plan::default()
            };
            let exposed = exposure::run(&workload, ModeArg::Bounce, &plan, &never).unwrap();
            assert_eq!(exposed.stale_accesses, 0);
            let seen = exposed.exposure.unwrap();
            let syncs = if in_place { seen.requests } else { 0 };
            assert_eq!((seen.violations, seen.sync_commands), (0, syncs));
            let said = exposed.notes.iter().any(|note| note.contains("in place"));
            assert_eq!(said, in_place);
        }
    }

    #[test]
    fn the_pool_has_room_for_all_that_is_live() {
        let workload = DdSeq {
            requests: 300,
            depth: 64,
            ..DdSeq::DEFAULT
        }
        .generate(1);
        let ground = counting(&workload, &Plan::default()).unwrap();
        let mut out = vec![DmaSegment::EMPTY; workload.segments_max()];
        let mut live = Vec::new();
        for request in &workload.requests()[..workload.live_max as usize] {
            live.push(
                ground
                    .map(request, workload.segments(request), &mut out)
                    .unwrap(),
            );
        }
        for bounced in live {
            ground.unmap(0, bounced).unwrap();
        }
        assert_eq!(ground.counts(), BackendCounts::default());
    }
}
