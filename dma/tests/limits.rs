//! A device's limits on lists: what is merged, what is moved, what is refused.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_iova::CachedSizes;
use dmabench_platform::*;
use proptest::prelude::*;

#[test]
fn neighbours_become_one_descriptor() {
    let domain = domain(Mode::Strict);
    let list = [
        segment(0x1_0800, 0x800),
        segment(0x9_0000, 0x2000),
        // Ends inside a granule: the next begins a descriptor.
        segment(0x3_0000, 0x1800),
        segment(0x5_0000, 0x1000),
    ];
    let mut out = [DmaSegment::EMPTY; 4];
    let (mapping, count) = domain
        .map_sg_merged(&Device::new(), &list, &mut out, Direction::ToDevice)
        .unwrap();
    assert_eq!(count, 2);
    assert_eq!(out[0].addr, mapping.addr());
    assert_eq!([out[0].len_bytes, out[1].len_bytes], [0x4000, 0x1000]);
    assert_eq!(out[1].addr.0, mapping.addr().0 + 0x4800);
    assert_eq!(domain.translate(out[1].addr).unwrap().paddr.0, 0x5_0000);
    domain.unmap(mapping).unwrap();

    // The device's number of descriptors limits what is left of the list.
    let two = Device::new().max_segments(2).unwrap();
    let mapped = domain.map_sg_merged(&two, &list, &mut out, Direction::ToDevice);
    domain.unmap(mapped.unwrap().0).unwrap();
    let one = Device::new().max_segments(1).unwrap();
    assert_eq!(
        domain
            .map_sg_merged(&one, &list, &mut out, Direction::ToDevice)
            .map(|_| ()),
        Err(MapError::TooManySegments { count: 2, max: 1 })
    );
    // And the longest descriptor what is merged.
    let short = Device::new().max_segment_bytes(0x2000).unwrap();
    let (mapping, count) = domain
        .map_sg_merged(&short, &list, &mut out, Direction::ToDevice)
        .unwrap();
    assert_eq!(count, 4);
    domain.unmap(mapping).unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
    domain.close().unwrap();
}

#[test]
fn passthrough_merges_what_lies_together() {
    let domain = domain(Mode::Passthrough);
    let list = [
        segment(0x1003, 5),
        segment(0x1008, 0x10),
        segment(0x2000, 1),
    ];
    let mut out = [DmaSegment::EMPTY; 3];
    let two = Device::new().max_segments(2).unwrap();
    let (mapping, count) = domain
        .map_sg_merged(&two, &list, &mut out, Direction::ToDevice)
        .unwrap();
    assert_eq!(count, 2);
    let expected = DmaSegment {
        addr: Iova(0x1003),
        len_bytes: 0x15,
    };
    assert_eq!(out[0], expected);
    domain.unmap(mapping).unwrap();
    domain.close().unwrap();
}

#[test]
fn a_segment_is_moved_behind_the_boundary() {
    let domain = domain(Mode::Strict);
    let device = Device::new().boundary_bytes(64 << 10).unwrap();
    // 36 KiB each: the second would cross.
    let list = [segment(0x10_0000, 36 << 10), segment(0x20_0000, 36 << 10)];
    let mut out = [DmaSegment::EMPTY; 2];
    let mapping = domain
        .map_sg(&device, &list, &mut out, Direction::FromDevice)
        .unwrap();
    assert_eq!(out[1].addr.0 - out[0].addr.0, 64 << 10);
    for (out, segment) in out.iter().zip(&list) {
        assert_eq!(out.addr.0 & 0xffff, 0);
        let last = Iova(out.addr.0 + out.len_bytes - 1);
        assert_eq!(
            domain.translate(last).unwrap().paddr.0,
            segment.phys.0 + segment.len_bytes - 1
        );
    }
    // What lies between shows nothing that the device was not given.
    for page in pages(&mapping) {
        let reached = domain.translate(page).unwrap().paddr.0;
        let given = |s: &Segment| (s.phys.0..s.phys.0 + s.len_bytes).contains(&reached);
        assert!(list.iter().any(given), "{reached:#x}");
    }
    let touched = touch_all(&domain, &mapping);
    assert_eq!(mapping.len_bytes(), 72 << 10);
    domain.unmap(mapping).unwrap();
    assert_eq!(stale(&domain, &touched), 0);
    domain.close().unwrap();
}

#[test]
fn what_fits_nowhere_is_refused() {
    let domain = domain(Mode::Strict);
    let mut out = [DmaSegment::EMPTY; 2];
    for (boundary, bad) in [
        (64 << 10, segment(0x1000, (64 << 10) + 1)),
        // In its granule it crosses wherever the granule lies.
        (512, segment(0x11f0, 0x20)),
    ] {
        let device = Device::new().boundary_bytes(boundary).unwrap();
        let expected = MapError::CrossesBoundary {
            index: 1,
            boundary_bytes: boundary,
        };
        let list = [segment(0x5000, 8), bad];
        let direction = Direction::ToDevice;
        let mapped = domain.map_sg(&device, &list, &mut out, direction);
        assert_eq!(mapped.map(|_| ()), Err(expected));
        let merged = domain.map_sg_merged(&device, &list, &mut out, direction);
        assert_eq!(merged.map(|_| ()), Err(expected));
    }
    assert_eq!(domain.stats().iova_pages_held, 0);
    domain.close().unwrap();
}

#[test]
fn opt_mapping_size_follows_the_caches() {
    let with = |cached| domain_with(DomainConfig::new(Mode::Strict).cached(cached));
    assert_eq!(with(CachedSizes::Auto).opt_mapping_size(), 512 << 10);
    assert_eq!(with(CachedSizes::None).opt_mapping_size(), PAGE);
    assert_eq!(
        with(CachedSizes::UpToLg2Pages(5)).opt_mapping_size(),
        128 << 10
    );
}

fn lists() -> impl Strategy<Value = Vec<Segment>> {
    let part = prop_oneof![
        (Just(0_u64), (1_u64..9).prop_map(|pages| pages * PAGE)),
        (0_u64..PAGE, 1_u64..5 * PAGE),
    ];
    prop::collection::vec(part, 1..10).prop_map(|parts| {
        (1_u64..)
            .zip(parts)
            .map(|(place, (offset, len))| segment((place << 24) + offset, len))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever the list and the limits: each descriptor keeps them, together
    /// they are the list's bytes in order, and nothing else is in reach.
    #[test]
    fn a7_merged_descriptors_are_the_list(
        list in lists(),
        boundary in prop::option::of(12_u32..18),
        longest in prop::option::of(5 * PAGE..12 * PAGE),
    ) {
        let mut device = Device::new();
        if let Some(lg2) = boundary {
            device = device.boundary_bytes(1 << lg2).unwrap();
        }
        if let Some(longest) = longest {
            device = device.max_segment_bytes(longest.max(8 * PAGE)).unwrap();
        }
        let domain = domain(Mode::Strict);
        let mut out = vec![DmaSegment::EMPTY; list.len()];
        let mapped = domain.map_sg_merged(&device, &list, &mut out, Direction::ToDevice);
        let (mapping, count) = match mapped {
            Ok(mapped) => mapped,
            Err(MapError::CrossesBoundary { index, boundary_bytes }) => {
                let s = list[index];
                prop_assert!(s.phys.0 % PAGE + s.len_bytes > boundary_bytes);
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let mut bytes = list.iter().flat_map(|s| {
            // Every 512th byte and the last.
            (0..s.len_bytes).filter(|i| i % 512 == 0 || i + 1 == s.len_bytes).map(|i| s.phys.0 + i)
        });
        let mut next = bytes.next();
        for out in &out[..count] {
            if let Some(lg2) = boundary {
                prop_assert_eq!(out.addr.0 >> lg2, (out.addr.0 + out.len_bytes - 1) >> lg2);
            }
            prop_assert!(longest.is_none_or(|longest| out.len_bytes <= longest.max(8 * PAGE)));
            for at in out.addr.0..out.addr.0 + out.len_bytes {
                let reached = domain.translate(Iova(at & !511)).unwrap().paddr.0 + (at & 511);
                if next == Some(reached) {
                    next = bytes.next();
                }
            }
        }
        prop_assert_eq!(next, None);
        prop_assert_eq!(out[..count].iter().map(|o| o.len_bytes).sum::<u64>(), mapping.len_bytes());
        for page in pages(&mapping) {
            let reached = domain.translate(page).unwrap().paddr.0;
            let given = |s: &Segment| {
                (s.phys.0 & !(PAGE - 1)..s.phys.0 + s.len_bytes).contains(&reached)
            };
            prop_assert!(list.iter().any(given));
        }
        domain.unmap(mapping).unwrap();
        prop_assert_eq!(domain.stats().iova_pages_held, 0);
        domain.close().unwrap();
    }
}
