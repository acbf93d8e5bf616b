//! Registered memory: found by all, until nobody finds it and no device
//! reaches it.

mod common;

use common::*;
use dmabench_dma::{
    premapped::{LookUpError, Premapped, RegisterError},
    *,
};
use dmabench_pgtable::format::S1K4;
use dmabench_platform::*;
use std::sync::atomic::{AtomicBool, Ordering};

type TestPremapped = Premapped<Hostile, ThreadSlots, S1K4, Quarantine>;

const BOTH: Direction = Direction::Bidirectional;

#[test]
fn a_map_is_a_look_up_and_costs_the_hardware_nothing() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::Strict));
    let device = Device::new();
    let regions = premapped
        .register_all(
            &device,
            &[segment(0x10_0000, 0x4000), segment(0x9000, 0x1000)],
            BOTH,
        )
        .unwrap();
    assert_eq!(premapped.registered_bytes(), 0x5000);
    let before = premapped.domain().stats();
    let list = [
        segment(0x10_0ffc, 0x2008),
        segment(0x9004, 8),
        segment(0x10_3fff, 1),
    ];
    let mut out = [DmaSegment::EMPTY; 3];
    for _ in 0..100 {
        premapped
            .map_sg(&device, &list, &mut out, Direction::FromDevice)
            .unwrap();
    }
    for (out, segment) in out.iter().zip(&list) {
        assert_eq!(
            premapped.domain().backend().touch(out.addr),
            Some(segment.phys)
        );
        assert_eq!(out.len_bytes, segment.len_bytes);
    }
    assert_eq!(premapped.domain().stats(), before);
    assert_eq!(premapped.domain().backend().counts(), (0, 0, 0));
    for region in regions {
        let addr = region.addr();
        premapped.unregister(region).unwrap();
        assert_eq!(premapped.domain().backend().touch(addr), None, "S1");
    }
    assert_eq!(premapped.registered_bytes(), 0);
    premapped.close().unwrap();
}

#[test]
fn unregistering_waits_for_the_hardware_in_lazy_mode_too() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::lazy()));
    let region = premapped
        .register(&Device::new(), segment(0x4000, 0x2000), BOTH)
        .unwrap();
    let addr = region.addr();
    assert!(premapped.domain().backend().touch(addr).is_some());
    premapped.domain().backend().inject(Fault::Late);
    let error = premapped.unregister(region).unwrap_err();
    assert!(matches!(error.reason, NotUnmappedReason::NotInvalidated(_)));
    // Nobody finds it any more, and it still counts as reachable.
    assert_eq!(
        premapped.map(&Device::new(), segment(0x4000, 1), BOTH),
        Err(LookUpError::NotRegistered { index: 0 })
    );
    assert_eq!(premapped.registered_bytes(), 0x2000);
    assert_eq!(
        premapped.unregister(error.mapping).unwrap(),
        segment(0x4000, 0x2000)
    );
    assert_eq!(premapped.domain().backend().touch(addr), None);
    premapped.close().unwrap();
}

#[test]
fn bad_inputs_of_registering_change_nothing() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::Strict));
    let device = Device::new();
    let region = premapped
        .register(&device, segment(0x10_0000, 0x2000), BOTH)
        .unwrap();
    for odd in [
        segment(0x800, 0x1000),
        segment(0x1000, 0x800),
        segment(0x1001, 1),
    ] {
        assert_eq!(
            premapped.register(&device, odd, BOTH).unwrap_err(),
            RegisterError::NotGranules {
                granule_bytes: 4096
            }
        );
    }
    for overlapping in [
        segment(0x10_0000, 0x2000),
        segment(0x10_1000, 0x1000),
        segment(0xf_f000, 0x4000),
    ] {
        let error = premapped.register(&device, overlapping, BOTH).unwrap_err();
        assert!(matches!(error, RegisterError::Overlaps(_)), "{error}");
        let list = [segment(0, 0x1000), overlapping];
        let error = premapped.register_all(&device, &list, BOTH).unwrap_err();
        assert!(matches!(error, RegisterError::Overlaps(_)), "{error}");
    }
    for (bad, error) in [
        (segment(0x2000, 0), MapError::EmptySegment { index: 0 }),
        (
            segment(0, 1 << 63),
            MapError::SegmentTooLong {
                index: 0,
                max_bytes: 1 << 62,
            },
        ),
    ] {
        let list = [segment(0x5000, 0x1000), bad];
        let refused = premapped.register_all(&device, &list, BOTH).unwrap_err();
        assert_eq!(refused, RegisterError::Map(error));
    }
    assert_eq!(premapped.registered_bytes(), 0x2000);
    assert_eq!(premapped.domain().stats().live_mappings, 1);
    premapped.unregister(region).unwrap();
    premapped.close().unwrap();
}

#[test]
fn bad_inputs_of_look_ups() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::Strict));
    let device = Device::new();
    let regions = [
        premapped
            .register(&device, segment(0x1000, 0x2000), Direction::ToDevice)
            .unwrap(),
        premapped
            .register(&device, segment(0x3000, 0x1000), BOTH)
            .unwrap(),
    ];
    let find = |device: Device, list: &[Segment], direction| {
        let mut out = [DmaSegment::EMPTY; 2];
        premapped
            .map_sg(&device, list, &mut out, direction)
            .unwrap_err()
    };
    let to = Direction::ToDevice;
    for outside in [
        segment(0xfff, 2),
        segment(0x0, 8),
        // Across two regions, whose I/O addresses need not follow each other.
        segment(0x2fff, 2),
        segment(0x3fff, 2),
        segment(u64::MAX, 2),
    ] {
        assert_eq!(
            find(device, &[segment(0x1000, 1), outside], to),
            LookUpError::NotRegistered { index: 1 }
        );
    }
    for direction in [Direction::FromDevice, BOTH] {
        assert_eq!(
            find(device, &[segment(0x1000, 1)], direction),
            LookUpError::Direction {
                index: 0,
                registered: to
            }
        );
    }
    let few = device.max_segments(1).unwrap();
    let short = device.max_segment_bytes(16).unwrap();
    let edge = device.boundary_bytes(16).unwrap();
    let low = device.mask_bits(12).unwrap();
    let one = segment(0x1008, 16);
    for (device, list, error) in [
        (device, &[][..], MapError::EmptyList),
        (
            device,
            &[segment(0x1000, 0)],
            MapError::EmptySegment { index: 0 },
        ),
        (device, &[one; 3], MapError::OutTooShort { needed: 3 }),
        (
            few,
            &[one; 2],
            MapError::TooManySegments { count: 2, max: 1 },
        ),
        (
            short,
            &[segment(0x1000, 17)],
            MapError::SegmentTooLong {
                index: 0,
                max_bytes: 16,
            },
        ),
        (
            edge,
            &[one],
            MapError::CrossesBoundary {
                index: 0,
                boundary_bytes: 16,
            },
        ),
        (low, &[one], MapError::BeyondMask { phys: one.phys }),
    ] {
        assert_eq!(find(device, list, to), LookUpError::Map(error));
    }
    let other: TestPremapped = Premapped::new(domain(Mode::Strict));
    for region in regions {
        let error = other.unregister(region).unwrap_err();
        assert_eq!(error.reason, NotUnmappedReason::OtherDomain);
        premapped.unregister(error.mapping).unwrap();
    }
    premapped.close().unwrap();
    other.close().unwrap();
}

/// Threads look up while another registers and unregisters: an address that is
/// found is the right one.
#[test]
fn look_ups_run_beside_registering() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::Strict));
    let steady = premapped
        .register(&Device::new(), segment(0x10_0000, 0x1000), BOTH)
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut found = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let at = premapped
                        .map(&Device::new(), segment(0x10_0040, 8), BOTH)
                        .unwrap();
                    assert_eq!(at.0, steady.addr().0 + 0x40);
                    let on_off = premapped.map(&Device::new(), segment(0x20_0000, 8), BOTH);
                    found += u64::from(on_off.is_ok());
                }
                found
            });
        }
        for _ in 0..500 {
            let region = premapped
                .register(&Device::new(), segment(0x20_0000, 0x1000), BOTH)
                .unwrap();
            premapped.unregister(region).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    premapped.unregister(steady).unwrap();
    premapped.close().unwrap();
}

/// Without an unmap there is no moment at which caches could be maintained.
#[test]
fn a_device_that_does_not_snoop_is_refused() {
    let premapped: TestPremapped = Premapped::new(domain(Mode::Strict));
    let (device, blind) = (Device::new(), Device::new().coherent(false));
    let memory = segment(0x10_0000, 0x4000);
    let refused = premapped.register(&blind, memory, BOTH).map(|_| ());
    assert_eq!(refused.unwrap_err(), RegisterError::NotCoherent);
    let refused = premapped.register_all(&blind, &[memory], BOTH).map(|_| ());
    assert_eq!(refused.unwrap_err(), RegisterError::NotCoherent);
    assert_eq!(premapped.domain().stats().live_mappings, 0);
    let region = premapped.register(&device, memory, BOTH).unwrap();
    let found = premapped.map(&blind, segment(0x10_0000, 8), BOTH);
    assert_eq!(found, Err(LookUpError::NotCoherent));
    premapped.unregister(region).unwrap();
    premapped.close().unwrap();
}
