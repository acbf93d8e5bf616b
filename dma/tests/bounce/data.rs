//! What the device sees, and what the caller gets back.

use proptest::prelude::*;

use crate::*;

#[test]
fn u1_the_device_sees_the_buffer_and_zeros_around_it() {
    for policy in POLICIES {
        let world = world(policy);
        world.soil_pool();
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
        if matches!(policy, Partial | NONE_SMALL) {
            assert_eq!(world.device_read(first, 1), None, "S1");
        }
        world.finish();
    }
}

#[test]
fn u1_what_the_device_writes_arrives_and_nothing_else_does() {
    for policy in POLICIES {
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
            Everything | SMALL => &around[0x300..0x1b00],
            _ => &around[0x300..0x1000],
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
    for policy in POLICIES {
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
        policy in prop::sample::select(&POLICIES[..]),
        boundary in prop::option::of(13_u32..16),
    ) {
        let world = world(policy);
        world.soil_pool();
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
    for policy in POLICIES {
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
