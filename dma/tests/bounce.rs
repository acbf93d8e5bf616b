//! Bounced mappings by invariant: what the device sees, what the caller gets
//! back, and what happens when something fails.

mod common;

use common::{
    host::{Caches, Call, Paper},
    *,
};
use dmabench_dma::{
    bounce::{BounceConfig, BounceDomain, BounceError, BouncePolicy, BounceSetupReason},
    *,
};
use dmabench_pgtable::format::S1K4;
use dmabench_platform::*;
use proptest::prelude::*;

type TestBounce = BounceDomain<Hostile, ThreadSlots, S1K4, Quarantine, Paper, Caches>;

const POOL: Segment = Segment {
    phys: PhysAddr(0x7000_0000),
    len_bytes: 64 * PAGE,
};

use BouncePolicy::{Everything, Partial};

struct World {
    bounce: TestBounce,
    memory: Paper,
    caches: Caches,
}

fn world(policy: BouncePolicy) -> World {
    world_for(policy, Device::new())
}

fn world_for(policy: BouncePolicy, device: Device) -> World {
    let (memory, caches) = (Paper::default(), Caches::default());
    let config = BounceConfig::new(policy, POOL).device(device);
    let bounce = BounceDomain::new(domain(Mode::Strict), config, memory.clone(), caches.clone());
    World {
        bounce: bounce.unwrap(),
        memory,
        caches,
    }
}

impl World {
    fn device_read(&self, at: Iova, len: u64) -> Option<Vec<u8>> {
        self.memory.device_read(self.bounce.backend(), at, len)
    }

    fn device_write(&self, at: Iova, bytes: &[u8]) {
        assert!(self.memory.device_write(self.bounce.backend(), at, bytes));
    }

    /// Nothing is mapped or taken, and it closes.
    fn finish(self) {
        let stats = self.bounce.stats();
        assert_eq!(stats.domain.live_mappings, 0);
        assert_eq!(stats.pool_bytes_held, 0);
        assert_eq!(stats.domain.leaked_mappings, 0);
        let window = match self.bounce.policy() {
            Everything => POOL.len_bytes / PAGE,
            Partial => 0,
        };
        assert_eq!(stats.domain.iova_pages_held, window);
        self.bounce.close().unwrap();
    }
}

fn segment(phys: u64, len_bytes: u64) -> Segment {
    Segment {
        phys: PhysAddr(phys),
        len_bytes,
    }
}

const BUFFER: Segment = Segment {
    phys: PhysAddr(0x10_0200),
    len_bytes: 0x1900,
};

#[test]
fn u1_the_device_sees_the_buffer_and_zeros_around_it() {
    for policy in [Partial, Everything] {
        let world = world(policy);
        // Three granules of secrets; the buffer lies inside.
        world.memory.write(0x10_0000, &[0xee; 0x3000]);
        world.memory.write(BUFFER.phys.0, &[0x11; 0x1900]);
        let mapping = world
            .bounce
            .map(&Device::new(), BUFFER, Direction::ToDevice)
            .unwrap();
        assert_eq!(mapping.addr().0 & 0xfff, 0x200, "the offset is kept");
        let (first, len) = mapping.mapped_range();
        assert_eq!(len, 0x2000);
        let seen = world.device_read(first, len).unwrap();
        assert!(seen[..0x200].iter().all(|byte| *byte == 0));
        assert!(seen[0x200..0x1b00].iter().all(|byte| *byte == 0x11));
        assert!(seen[0x1b00..].iter().all(|byte| *byte == 0));
        world.bounce.unmap(mapping).unwrap();
        if policy == Partial {
            assert_eq!(world.device_read(first, 1), None, "S1");
        }
        world.finish();
    }
}

#[test]
fn u1_what_the_device_writes_arrives_and_nothing_else_does() {
    for policy in [Partial, Everything] {
        let world = world(policy);
        world.memory.write(0x10_0000, &[0xee; 0x3000]);
        // An earlier request leaves its data behind.
        let first = world
            .bounce
            .map(&Device::new(), BUFFER, Direction::ToDevice)
            .unwrap();
        world.bounce.unmap(first).unwrap();
        let mapping = world
            .bounce
            .map(&Device::new(), BUFFER, Direction::FromDevice)
            .unwrap();
        // The device writes the first 0x100 bytes only, and a little before.
        world.device_write(Iova(mapping.addr().0 - 8), &[0x22; 0x108]);
        world.bounce.unmap(mapping).unwrap();
        let around = world.memory.read(0x10_0000, 0x3000);
        assert!(around[..0x200].iter().all(|byte| *byte == 0xee));
        assert!(around[0x200..0x300].iter().all(|byte| *byte == 0x22));
        // Whole granules in between are mapped in place by `Partial`.
        let rest = match policy {
            Everything => &around[0x300..0x1b00],
            Partial => &around[0x300..0x1000],
        };
        assert!(rest.iter().all(|byte| *byte == 0), "neither old data");
        assert!(around[0x1b00..].iter().all(|byte| *byte == 0xee));
        world.finish();
    }
}

#[test]
fn directions_copy_in_or_out_or_both() {
    for (direction, copied) in [
        (Direction::ToDevice, [0x1900, 0x1900]),
        (Direction::FromDevice, [0, 0x1900]),
        (Direction::Bidirectional, [0x1900, 0x3200]),
    ] {
        let world = world(Everything);
        let mapping = world.bounce.map(&Device::new(), BUFFER, direction).unwrap();
        assert_eq!(world.memory.moved().0, copied[0]);
        world.bounce.unmap(mapping).unwrap();
        assert_eq!(world.memory.moved().0, copied[1]);
        world.finish();
    }
}

#[test]
fn whole_granules_are_mapped_in_place_and_read_only_stays_so() {
    let world = world(Partial);
    let aligned = segment(0x20_0000, 0x4000);
    let mapping = world
        .bounce
        .map(&Device::new(), aligned, Direction::ToDevice)
        .unwrap();
    assert_eq!(mapping.slot_bytes(), 0);
    let found = world.bounce.translate(mapping.addr()).unwrap();
    assert_eq!(found.paddr, aligned.phys);
    assert!(!found.prot.contains(dmabench_pgtable::Prot::WRITE), "A8");
    world.bounce.unmap(mapping).unwrap();
    assert_eq!(world.memory.moved(), (0, 0));
    world.finish();
}

#[test]
fn everything_costs_no_invalidation_and_partial_one() {
    for (policy, ranges) in [(Everything, 0), (Partial, 1)] {
        let world = world(policy);
        for _ in 0..10 {
            let mapping = world
                .bounce
                .map(&Device::new(), BUFFER, Direction::Bidirectional)
                .unwrap();
            world.bounce.unmap(mapping).unwrap();
        }
        let (found, _, syncs) = world.bounce.backend().counts();
        assert_eq!((found, syncs), (10 * ranges, 10 * ranges));
        world.finish();
    }
}

#[test]
fn bad_input_an_exhausted_pool_is_a_typed_error_and_takes_nothing() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        let small = segment(0x10_0200, 16);
        let mut live = Vec::new();
        let error = loop {
            match world.bounce.map(&Device::new(), small, Direction::ToDevice) {
                Ok(mapping) => live.push(mapping),
                Err(error) => break error,
            }
        };
        assert_eq!(error, BounceError::PoolExhausted { needed_bytes: PAGE });
        assert_eq!(live.len() as u64, POOL.len_bytes / PAGE);
        // Where a granule came free there is room again.
        world.bounce.unmap(live.pop().unwrap()).unwrap();
        live.push(
            world
                .bounce
                .map(&Device::new(), small, Direction::ToDevice)
                .unwrap(),
        );
        for mapping in live {
            world.bounce.unmap(mapping).unwrap();
        }
        if policy == Everything {
            let long = segment(0, POOL.len_bytes + 1);
            assert_eq!(
                world
                    .bounce
                    .map(&Device::new(), long, Direction::ToDevice)
                    .unwrap_err(),
                BounceError::PoolExhausted {
                    needed_bytes: POOL.len_bytes + PAGE
                }
            );
            assert_eq!(world.bounce.max_mapping_size(), POOL.len_bytes);
        }
        world.finish();
    }
}

#[test]
fn s2_an_unmap_that_is_not_complete_keeps_slots_and_copies_nothing() {
    for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
        let world = world(Partial);
        world.memory.write(0x10_0000, &[0xee; 0x3000]);
        let mapping = world
            .bounce
            .map(&Device::new(), BUFFER, Direction::FromDevice)
            .unwrap();
        let addr = mapping.addr();
        world.device_write(addr, &[0x22; 0x1900]);
        world.bounce.backend().inject(fault);
        let error = world.bounce.unmap(mapping).unwrap_err();
        assert!(matches!(error.reason, NotUnmappedReason::NotInvalidated(_)));
        assert_eq!(world.memory.read(BUFFER.phys.0, 1), [0xee], "not yet");
        assert_eq!(world.bounce.stats().pool_bytes_held, 2 * PAGE);
        // The device may still write, and that is what is copied.
        world.device_write(addr, &[0x33]);
        world.bounce.unmap(error.mapping).unwrap();
        assert_eq!(world.memory.read(BUFFER.phys.0, 2), [0x33, 0x22]);
        world.finish();
    }
}

#[test]
fn a_copy_that_fails_undoes_the_map_and_holds_up_the_unmap() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        // Every call fails in turn, until one map needs no more.
        let mapping = (0..)
            .find_map(|calls| {
                world.memory.fail_after(Some(calls));
                let mapped = world
                    .bounce
                    .map(&Device::new(), BUFFER, Direction::Bidirectional);
                match mapped {
                    Ok(mapping) => Some(mapping),
                    Err(error) => {
                        assert!(matches!(error, BounceError::Memory(_)), "{error}");
                        assert_eq!(world.bounce.stats().pool_bytes_held, 0);
                        None
                    }
                }
            })
            .unwrap();
        world.memory.fail_after(Some(0));
        let error = world.bounce.unmap(mapping).unwrap_err();
        assert!(matches!(error.reason, NotUnmappedReason::Memory(_)));
        assert_ne!(world.bounce.stats().pool_bytes_held, 0);
        world.memory.fail_after(None);
        world.bounce.unmap(error.mapping).unwrap();
        world.finish();
    }
}

#[test]
fn a5_a_map_without_addresses_gives_its_slots_back() {
    // No address of the domain fits below the device's mask.
    let world = world(Partial);
    let short = Device::new().mask_bits(11).unwrap();
    let error = world.bounce.map(&short, BUFFER, Direction::ToDevice);
    assert!(matches!(error, Err(BounceError::Map(MapError::Iova(_)))));
    world.finish();
}

/// A list that is another one each time it is asked.
#[derive(Debug)]
struct Fickle(std::cell::Cell<bool>);

impl AsRef<[Segment]> for Fickle {
    fn as_ref(&self) -> &[Segment] {
        const LONG: [Segment; 1] = [Segment {
            phys: PhysAddr(0x10_0200),
            len_bytes: 0x9000,
        }];
        const SHORT: [Segment; 1] = [BUFFER];
        if self.0.get() { &LONG } else { &SHORT }
    }
}

#[test]
fn bad_input_50_a_list_that_changed_reads_no_other_slots() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        let mapping = world
            .bounce
            .map_sg(
                &Device::new(),
                Fickle(false.into()),
                &mut [DmaSegment::EMPTY],
                Direction::FromDevice,
            )
            .unwrap();
        mapping.list().0.set(true);
        assert_eq!(
            world.bounce.sync_for_cpu(&mapping, 0, 1),
            Err(SyncError::ListChanged)
        );
        let error = world.bounce.unmap(mapping).unwrap_err();
        assert_eq!(error.reason, NotUnmappedReason::ListChanged);
        error.mapping.list().0.set(false);
        world.bounce.unmap(error.mapping).unwrap();
        world.finish();
    }
}

#[test]
fn bad_input_49_a_mapping_of_another_domain() {
    for policy in [Everything, Partial] {
        let (own, other) = (world(policy), world(policy));
        let mapping = own
            .bounce
            .map(&Device::new(), BUFFER, Direction::ToDevice)
            .unwrap();
        assert_eq!(
            other.bounce.sync_for_device(&mapping, 0, 1),
            Err(SyncError::OtherDomain)
        );
        let error = other.bounce.unmap(mapping).unwrap_err();
        assert_eq!(error.reason, NotUnmappedReason::OtherDomain);
        own.bounce.unmap(error.mapping).unwrap();
        own.finish();
        other.finish();
    }
}

#[test]
fn bad_input_51_bouncing_needs_a_strict_domain() {
    for mode in [Mode::Passthrough, Mode::lazy()] {
        let error = BounceDomain::new(
            domain(mode),
            BounceConfig::new(Everything, POOL),
            Paper::default(),
            NoCacheOps,
        )
        .unwrap_err();
        assert_eq!(error.reason, BounceSetupReason::NotStrict);
        assert_eq!(error.domain.stats().live_mappings, 0);
        error.domain.close().unwrap();
    }
}

#[test]
fn bad_input_pools_that_cannot_be() {
    for (phys, len_bytes) in [
        (0x1000, 0),
        (0x1000, 0x1800),
        (0x1800, 0x1000),
        (u64::MAX - 0xfff, 0x2000),
    ] {
        for policy in [Everything, Partial] {
            let error = BounceDomain::new(
                domain(Mode::Strict),
                BounceConfig::new(policy, segment(phys, len_bytes)),
                Paper::default(),
                NoCacheOps,
            )
            .unwrap_err();
            assert_eq!(
                error.reason,
                BounceSetupReason::Pool {
                    phys: PhysAddr(phys),
                    len_bytes
                }
            );
        }
    }
    // Memory that the tables cannot point to.
    let error = BounceDomain::new(
        domain(Mode::Strict),
        BounceConfig::new(Everything, segment(1 << 50, PAGE)),
        Paper::default(),
        NoCacheOps,
    )
    .unwrap_err();
    assert!(matches!(error.reason, BounceSetupReason::Map(_)));
    error.domain.close().unwrap();
}

#[test]
fn bad_input_48_a_device_that_cannot_reach_the_pool() {
    let world = world(Everything);
    let short = Device::new().mask_bits(32).unwrap();
    assert_eq!(
        world
            .bounce
            .map(&short, BUFFER, Direction::ToDevice)
            .unwrap_err(),
        BounceError::BeyondMask
    );
    let alien = Device::new().coherent(false);
    assert_eq!(
        world
            .bounce
            .map(&alien, BUFFER, Direction::ToDevice)
            .unwrap_err(),
        BounceError::OtherCoherence
    );
    world.finish();
    // A pool that was mapped for such a device serves both kinds.
    let low = world_for(Everything, short);
    for device in [short, Device::new()] {
        let mapping = low
            .bounce
            .map(&device, BUFFER, Direction::ToDevice)
            .unwrap();
        assert!(mapping.addr().0 >> 32 == 0);
        low.bounce.unmap(mapping).unwrap();
    }
    low.finish();
}

#[test]
fn bad_input_47_52_lists() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        let limited = Device::new().max_segments(1).unwrap();
        for (list, out, device, expected) in [
            (vec![], 1, Device::new(), MapError::EmptyList),
            (
                vec![segment(0, 1), segment(0, 0)],
                2,
                Device::new(),
                MapError::EmptySegment { index: 1 },
            ),
            (
                vec![segment(0, 1); 2],
                1,
                Device::new(),
                MapError::OutTooShort { needed: 2 },
            ),
            (
                vec![segment(0, 1); 2],
                2,
                limited,
                MapError::TooManySegments { count: 2, max: 1 },
            ),
            (
                vec![segment(0, 1 << 62); 2],
                2,
                Device::new(),
                MapError::TooLong,
            ),
        ] {
            let mut out = vec![DmaSegment::EMPTY; out];
            let error = world
                .bounce
                .map_sg(&device, list, &mut out, Direction::ToDevice)
                .unwrap_err();
            assert_eq!(error, BounceError::Map(expected));
        }
        world.finish();
    }
}

#[test]
fn a_dropped_mapping_is_counted_and_keeps_the_domain_open() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        drop(
            world
                .bounce
                .map(&Device::new(), BUFFER, Direction::ToDevice),
        );
        assert_eq!(world.bounce.stats().domain.leaked_mappings, 1);
        let error = world.bounce.close().unwrap_err();
        assert_eq!(error.reason, CloseReason::Mapped { mappings: 1 });
    }
}

#[test]
fn a11_a_close_that_is_late_can_be_repeated() {
    let world = world(Everything);
    world.bounce.backend().inject(Fault::Late);
    let error = world.bounce.close().unwrap_err();
    assert!(matches!(error.reason, CloseReason::Flush(_)));
    let again = error.domain;
    assert_eq!(
        again
            .map(&Device::new(), BUFFER, Direction::ToDevice)
            .unwrap_err(),
        BounceError::Closing
    );
    again.close().unwrap();
}

#[test]
fn caches_are_told_what_the_device_does_not_see() {
    let device = Device::new().coherent(false);
    let world = world_for(Everything, device);
    let mapping = world
        .bounce
        .map(&device, BUFFER, Direction::FromDevice)
        .unwrap();
    let slots = segment(POOL.phys.0 + POOL.len_bytes - 0x2000, 0x2000);
    assert_eq!(
        world.caches.take(),
        [Call::ForDevice(slots, Direction::FromDevice)]
    );
    world.bounce.unmap(mapping).unwrap();
    let copy = segment(slots.phys.0 + 0x200, 0x1900);
    assert_eq!(
        world.caches.take(),
        [Call::ForCpu(copy, Direction::FromDevice)]
    );
    world.finish();

    // In place: the caller's bytes; bounced: the slots.
    let partial = world_for(Partial, device);
    let mixed = segment(0x10_0000, 0x2080);
    let mapping = partial
        .bounce
        .map(&device, mixed, Direction::Bidirectional)
        .unwrap();
    let calls = partial.caches.take();
    assert_eq!(calls.len(), 2);
    assert_eq!(
        calls[1],
        Call::ForDevice(segment(0x10_0000, 0x2000), Direction::Bidirectional)
    );
    partial.bounce.unmap(mapping).unwrap();
    assert_eq!(partial.caches.take().len(), 2);
    partial.finish();

    let coherent = self::world(Everything);
    let mapping = coherent
        .bounce
        .map(&Device::new(), BUFFER, Direction::Bidirectional)
        .unwrap();
    coherent.bounce.sync_for_cpu(&mapping, 0, 0x1900).unwrap();
    coherent
        .bounce
        .sync_for_device(&mapping, 0, 0x1900)
        .unwrap();
    coherent.bounce.unmap(mapping).unwrap();
    assert_eq!(coherent.caches.take(), [], "never for a coherent device");
}

#[test]
fn syncs_copy_what_was_asked_for() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        let mapping = world
            .bounce
            .map(&Device::new(), BUFFER, Direction::Bidirectional)
            .unwrap();
        world.device_write(Iova(mapping.addr().0 + 0x10), &[0x44; 0x20]);
        world.bounce.sync_for_cpu(&mapping, 0x10, 0x10).unwrap();
        assert_eq!(world.memory.read(BUFFER.phys.0 + 0x1f, 2), [0x44, 0]);
        world.memory.write(BUFFER.phys.0 + 0x1800, &[0x55; 0x100]);
        world
            .bounce
            .sync_for_device(&mapping, 0x18f0, 0x10)
            .unwrap();
        let at = Iova(mapping.addr().0 + 0x18ef);
        assert_eq!(world.device_read(at, 2).unwrap(), [0, 0x55]);
        for (offset, len) in [(0x1900, 1), (0, 0x1901), (u64::MAX, 2)] {
            assert_eq!(
                world.bounce.sync_for_cpu(&mapping, offset, len),
                Err(SyncError::Beyond { len_bytes: 0x1900 })
            );
        }
        world.bounce.unmap(mapping).unwrap();
        world.finish();
    }
}

fn lists() -> impl Strategy<Value = Vec<Segment>> {
    let lens = prop_oneof![1_u64..600, Just(PAGE), 3000_u64..9000];
    prop::collection::vec((0_u64..PAGE, lens, any::<bool>()), 1..6).prop_map(|parts| {
        (1_u64..)
            .zip(parts)
            .map(|(place, (offset, len, aligned))| {
                segment((place << 20) + if aligned { 0 } else { offset }, len)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Any list, any direction: the device sees the list's bytes at the addresses
    /// it is told and zeros or the list around them; the caller gets what the
    /// device wrote, and its neighbours keep their bytes.
    #[test]
    fn u1_data_goes_both_ways_and_stays_inside(
        list in lists(),
        everything in any::<bool>(),
        boundary in prop::option::of(13_u32..16),
    ) {
        let policy = if everything { Everything } else { Partial };
        let world = world(policy);
        let mut device = Device::new();
        if let Some(lg2) = boundary {
            device = device.boundary_bytes(1 << lg2).unwrap();
        }
        for s in &list {
            let around = PAGE - s.phys.0 % PAGE + s.len_bytes + PAGE;
            world.memory.write(s.phys.0 & !(PAGE - 1), &vec![0xee; (around + PAGE) as usize]);
            world.memory.write(s.phys.0, &vec![(s.phys.0 >> 20) as u8; s.len_bytes as usize]);
        }
        let mut out = vec![DmaSegment::EMPTY; list.len()];
        let mapped = world.bounce.map_sg(&device, &list, &mut out, Direction::Bidirectional);
        let mapping = match mapped {
            Ok(mapping) => mapping,
            Err(BounceError::Map(MapError::CrossesBoundary { index, .. })) => {
                // Only a segment that fits nowhere.
                let s = list[index];
                prop_assert!(s.phys.0 % PAGE + s.len_bytes > 1 << boundary.unwrap());
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let (first, len) = mapping.mapped_range();
        let seen = world.device_read(first, len).unwrap();
        prop_assert!(!seen.contains(&0xee), "a neighbour");
        for (s, d) in list.iter().zip(&out) {
            let own = world.device_read(d.addr, d.len_bytes).unwrap();
            prop_assert!(own.iter().all(|byte| *byte == (s.phys.0 >> 20) as u8));
            if let Some(lg2) = boundary {
                prop_assert_eq!(d.addr.0 >> lg2, (d.addr.0 + d.len_bytes - 1) >> lg2);
            }
            world.device_write(d.addr, &vec![0x99; d.len_bytes as usize]);
        }
        world.bounce.unmap(mapping).unwrap();
        for s in &list {
            let page = s.phys.0 & !(PAGE - 1);
            let all = world.memory.read(page, s.phys.0 - page + s.len_bytes + 8);
            let at = (s.phys.0 - page) as usize;
            prop_assert!(all[..at].iter().all(|byte| *byte == 0xee));
            let end = at + s.len_bytes as usize;
            prop_assert!(all[at..end].iter().all(|byte| *byte == 0x99));
            prop_assert!(all[end..].iter().all(|byte| *byte == 0xee));
        }
        world.finish();
    }
}

/// Eight threads share a small pool: data is never mixed up, and the pool is
/// whole afterwards.
#[test]
fn a3_slots_of_threads_do_not_overlap() {
    for policy in [Everything, Partial] {
        let world = world(policy);
        std::thread::scope(|scope| {
            for thread in 1..=8_u64 {
                let world = &world;
                scope.spawn(move || {
                    let at = thread << 24;
                    for round in 0..60_u64 {
                        let buffer = segment(at + round * 0x210 % PAGE, 0x700);
                        let data = [(thread << 4 | round & 15) as u8; 0x700];
                        world.memory.write(buffer.phys.0, &data);
                        let mapping = loop {
                            match world
                                .bounce
                                .map(&Device::new(), buffer, Direction::Bidirectional)
                            {
                                Ok(mapping) => break mapping,
                                Err(BounceError::PoolExhausted { .. }) => std::thread::yield_now(),
                                Err(error) => panic!("{error}"),
                            }
                        };
                        assert_eq!(world.device_read(mapping.addr(), 0x700).unwrap(), data);
                        world.device_write(mapping.addr(), &[!data[0]; 0x700]);
                        world.bounce.unmap(mapping).unwrap();
                        assert_eq!(world.memory.read(buffer.phys.0, 0x700), [!data[0]; 0x700]);
                    }
                });
            }
        });
        world.finish();
    }
}
