//! Small lists are copied, large ones are mapped in place.

use crate::*;

#[test]
fn small_lists_are_copied_and_large_ones_lose_their_mapping() {
    let world = world(Small {
        below_bytes: 3 * PAGE,
    });
    let (window, window_bytes) = world.bounce.window().unwrap();
    world.memory.write(0x20_0000, &[0xee; 0x8000]);
    let device = Device::new();
    let map = |list: &[Segment], direction| {
        let mut out = vec![DmaSegment::EMPTY; list.len()];
        let mapped = world
            .bounce
            .map_sg(&device, list.to_vec(), &mut out, direction);
        mapped.unwrap()
    };
    // Two whole granules; and 24 pieces of half a kilobyte, none of which fills one.
    let pieces: Vec<Segment> = (0..24)
        .map(|n| segment(0x30_0000 + n * PAGE, 512))
        .collect();
    for list in [&[segment(0x20_0000, 2 * PAGE)][..], &pieces] {
        let mapping = map(list, Direction::ToDevice);
        assert_eq!(mapping.slot_bytes(), mapping.mapped_range().1);
        let inside = mapping.addr().0 - window.0;
        assert!(inside < window_bytes);
        world.bounce.unmap(mapping).unwrap();
    }
    assert_eq!(world.bounce.backend().counts().0, 0, "no invalidation");
    // Three whole ones between a head and a tail.
    let large = [segment(0x20_0800, 4 * PAGE)];
    world.memory.write(large[0].phys.0, &[0x11; 0x4000]);
    let mapping = map(&large, Direction::ToDevice);
    let (first, len) = mapping.mapped_range();
    assert_eq!((mapping.slot_bytes(), len), (2 * PAGE, 5 * PAGE));
    for page in 1..4 {
        let found = world.bounce.translate(Iova(first.0 + page * PAGE)).unwrap();
        assert_eq!(found.paddr, PhysAddr(0x20_0000 + page * PAGE), "in place");
        assert!(!found.prot.contains(dmabench_pgtable::Prot::WRITE), "A8");
    }
    let seen = world.device_read(first, len).unwrap();
    assert!(!seen.contains(&0xee), "a neighbour");
    assert_eq!(seen.iter().filter(|byte| **byte == 0x11).count(), 0x4000);
    world.bounce.unmap(mapping).unwrap();
    for page in 0..5 {
        let at = Iova(first.0 + page * PAGE);
        assert_eq!(world.device_read(at, 1), None, "S1");
    }
    assert_eq!(world.bounce.backend().counts().2, 1);
    let counts = world.bounce.stats().counts;
    assert_eq!((counts.copied_lists, counts.in_place_lists), (2, 1));
    let copied = 2 * PAGE + 24 * 512 + PAGE;
    assert_eq!(
        (counts.slot_bytes, counts.in_place_bytes),
        (copied, 3 * PAGE)
    );
    world.finish();
}

/// The pool bounds a list only where a list as long as the pool may be copied.
#[test]
fn the_longest_list_is_by_policy() {
    for (below_bytes, bound) in [(PAGE, false), (POOL.len_bytes + 1, true)] {
        let world = world(Small { below_bytes });
        let longest = world.bounce.max_mapping_size();
        assert_eq!(longest == POOL.len_bytes, bound);
        let long = segment(0x100_0000, longest.min(4 * POOL.len_bytes));
        let mapping = world.bounce.map(&Device::new(), long, Direction::ToDevice);
        world.bounce.unmap(mapping.unwrap()).unwrap();
        world.finish();
    }
}
