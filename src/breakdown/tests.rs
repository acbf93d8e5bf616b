//! The columns must add up, and the parts must be the work of the whole.

use super::*;
use dmabench_platform::Iova;

fn loads() -> Vec<Load> {
    let lazy = Mode::Lazy(QueueConfig {
        entries_per_slot: 64,
        timeout_ns: 10_000_000,
    });
    let mut loads = Vec::new();
    for mode in [Mode::Strict, lazy] {
        for bytes in [4096, 20 << 10, 64 << 10, 512 << 10, 1 << 20] {
            for lists in [false, true] {
                loads.push(Load { bytes, lists, mode });
            }
        }
    }
    loads
}

/// One batch of the whole and of each step; the addresses of the whole and of
/// the last step while they are mapped.
fn batch(parts: &mut Parts, last: Step) -> [Vec<Iova>; 2] {
    parts.whole_map().unwrap();
    for step in Step::ALL {
        parts.map(step).unwrap();
    }
    let addresses = parts.addresses();
    parts.find().unwrap();
    parts.whole_unmap().unwrap();
    for step in Step::ALL.into_iter().filter(|&step| step <= last) {
        parts.unmap(step).unwrap();
    }
    addresses
}

#[test]
fn the_last_step_does_the_work_of_the_whole() {
    for load in loads() {
        let mut parts = Parts::new(load).unwrap();
        for round in 0..20 {
            let [whole, built] = batch(&mut parts, Step::Invalidation);
            assert_eq!(whole.len(), BATCH);
            assert_eq!(whole, built, "{load:?} {round}");
            let [whole, built] = parts.work();
            assert_eq!(whole, built, "{load:?} {round}");
        }
        let counts = parts.work()[0].counts;
        match load.mode {
            Mode::Strict => assert_eq!(counts.syncs, 20 * BATCH as u64),
            // 640 pushes into a ring of 64.
            _ => assert!((9..=10).contains(&counts.flush_alls), "{counts:?}"),
        }
    }
}

#[test]
fn work_that_is_left_out_is_seen() {
    for load in loads() {
        let mut parts = Parts::new(load).unwrap();
        batch(&mut parts, Step::Tables);
        let [whole, built] = parts.work();
        if load.mode == Mode::Strict {
            assert_ne!(whole, built, "{load:?}");
        } else {
            // Nothing was flushed yet on either side: the next batch tells.
            assert_eq!(whole, built);
        }
    }
}

#[test]
fn the_columns_add_up_to_the_whole() {
    let load = Load {
        bytes: 4096,
        lists: false,
        mode: Mode::Strict,
    };
    // Whole; section; addresses; tables with a lookup; invalidation: maps and
    // unmaps of each.
    let ns = [
        60.0, 40.0, 8.0, 9.0, 19.0, 18.0, 40.0, 5.0, 28.0, 41.0, 35.0,
    ];
    let row = assemble(load, 1, &ns, 883.0);
    assert_eq!((row.whole_ns, row.section_ns), (100.0, 17.0));
    assert_eq!((row.alloc_ns, row.free_ns), (11.0, 9.0));
    assert_eq!((row.page_table_ns, row.invalidate_ns), (31.0, 8.0));
    let sum = row.alloc_ns
        + row.page_table_ns
        + row.find_ns
        + row.free_ns
        + row.invalidate_ns
        + row.other_ns;
    assert!((sum - row.whole_ns).abs() < 1e-9);
    assert_eq!((row.other_ns, row.rest_ns), (41.0, 24.0));
    assert!((row.unexplained - 0.24).abs() < 1e-12);
    assert_eq!((row.lookup_would_cost_ns, row.find_ns), (5.0, 0.0));
    let passed = assemble(
        Load {
            mode: Mode::Passthrough,
            ..load
        },
        1,
        &ns,
        0.0,
    );
    assert_eq!((passed.alloc_ns, passed.other_ns), (0.0, 100.0));
}

#[test]
fn what_has_no_parts_is_refused() {
    for bytes in [0, 100, 2 << 20] {
        let load = Load {
            bytes,
            lists: false,
            mode: Mode::Strict,
        };
        assert!(Parts::new(load).is_err(), "{bytes}");
    }
    for bad in ["", "0", "3k", "5000", "2m", "x"] {
        assert!(super::bytes(bad).is_err(), "{bad}");
    }
    assert_eq!(super::bytes("1m"), Ok(1 << 20));
}

#[test]
fn a_run_has_a_row_for_each_mode_and_size() {
    let load = Load {
        bytes: 64 << 10,
        lists: true,
        mode: Mode::lazy(),
    };
    let clock = TickClock::calibrate();
    let go = AtomicBool::new(false);
    let row = row(load, 3, &Plan::default(), &clock, &go)
        .unwrap()
        .unwrap();
    assert_eq!((row.mode.as_str(), row.requests), ("lazy", 3 * 64 * 32));
    assert!(row.whole_ns > 0.0 && row.page_table_ns > 0.0 && row.modelled_hardware_ns > 0.0);
    let stop = AtomicBool::new(true);
    assert!(
        super::row(load, 3, &Plan::default(), &clock, &stop)
            .unwrap()
            .is_none()
    );
}
