//! When an invalidation, a copy or an allocation fails: nothing is lost, and
//! nothing reused.

use crate::*;

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
    for policy in POLICIES {
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
