//! Lists, pools, devices and mappings that are refused.

use crate::*;

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
    for policy in POLICIES {
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
    for policy in POLICIES {
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
