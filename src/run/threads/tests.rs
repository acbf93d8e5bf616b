//! The runner on small loads: what is counted must add up, and nothing may hang.

use super::*;
use crate::workload::{
    Builder, Direction, Segment,
    generate::{DdSeq, Generator},
};
use clap::ValueEnum;
use dmabench_platform::PhysAddr;

const LONG: Duration = Duration::from_secs(60);

fn small() -> Workload {
    DdSeq {
        pages: 4,
        requests: 40,
        depth: 3,
    }
    .generate(5)
}

fn plays<'a>(stream: &'a Workload, streams: usize, requests: u64) -> Play<'a> {
    Play {
        streams: vec![stream; streams],
        pairs: None,
        hold_ns: 0,
        stop: Stop {
            after: LONG,
            requests,
        },
        cpus: None,
        device: Device::new(),
        interval: None,
    }
}

fn run(what: &Play<'_>, mode: ModeArg) -> Result<Played, RunError> {
    let clock = TickClock::calibrate();
    play(
        what,
        mode,
        &Plan::default(),
        &clock,
        &AtomicBool::new(false),
    )
}

#[test]
fn a_run_by_count_counts_every_request_once() {
    let stream = small();
    let together = ModeArg::value_variants().iter().copied();
    for mode in together.filter(|mode| !mode.one_thread_only()) {
        for pairs in [None, Some(2)] {
            let mut what = plays(&stream, 3, 500);
            what.pairs = pairs;
            what.interval = Some(Duration::from_millis(1));
            let played = run(&what, mode).unwrap();
            assert_eq!(played.streams.len(), 3);
            for stream in &played.streams {
                assert_eq!(stream.requests, 500, "{mode} {pairs:?}");
                assert_eq!((stream.map.calls, stream.unmap.calls), (500, 500));
                assert!(stream.seconds > 0.0 && stream.seconds <= played.seconds);
            }
            assert_eq!(played.calls.map.calls, 1500);
            assert_eq!(played.calls.unmap.calls, 1500);
            let maps: u64 = played.intervals.iter().map(|i| i.map_ns.len()).sum();
            let unmaps: u64 = played.intervals.iter().map(|i| i.unmap_ns.len()).sum();
            assert_eq!((maps, unmaps), (1500, 1500), "{mode} {pairs:?}");
            match mode {
                ModeArg::Strict => assert_eq!(played.counts.syncs, 1500),
                ModeArg::Passthrough => assert_eq!(played.counts.syncs, 0),
                _ => assert!(played.counts.syncs < 150, "{mode}: {:?}", played.counts),
            }
        }
    }
}

#[test]
fn a_run_by_time_ends_in_time_with_everything_unmapped() {
    let stream = small();
    let mut what = plays(&stream, 2, u64::MAX);
    what.stop.after = Duration::from_millis(50);
    let played = run(&what, ModeArg::Strict).unwrap();
    assert!(played.seconds >= 0.04 && played.seconds < 20.0);
    assert!(played.streams.iter().all(|s| s.requests > 0));
    assert_eq!(played.calls.map.calls, played.calls.unmap.calls);
    assert!(!played.interrupted);
}

#[test]
fn the_user_can_end_a_run() {
    let stream = small();
    let what = plays(&stream, 2, u64::MAX);
    let clock = TickClock::calibrate();
    let ended = AtomicBool::new(true);
    let played = play(&what, ModeArg::Lazy, &Plan::default(), &clock, &ended).unwrap();
    assert!(played.interrupted);
    assert_eq!(played.calls.map.calls, played.calls.unmap.calls);
}

#[test]
fn a_transfer_lasts_as_long_as_it_should() {
    let stream = small();
    let mut what = plays(&stream, 1, 30);
    what.hold_ns = 1_000_000;
    let played = run(&what, ModeArg::Strict).unwrap();
    // Three at once: 30 of them take at least ten times as long.
    assert!(played.seconds >= 0.01, "{}", played.seconds);
    assert!(played.calls.map.latency.p50 < 900_000.0);
}

#[test]
fn a_request_that_is_refused_ends_all_threads() {
    let good = small();
    let mut builder = Builder::new();
    let huge = Segment {
        phys: PhysAddr(0),
        len_bytes: 1 << 33,
    };
    builder.map(0, Direction::ToDevice, [huge]);
    let source = crate::report::Source::Generated {
        generator: String::new(),
    };
    let bad = builder.finish("bad".to_owned(), String::new(), source, None, vec![]);
    for pairs in [None, Some(4)] {
        let mut what = plays(&good, 2, u64::MAX);
        what.streams.push(&bad);
        what.pairs = pairs;
        what.device = Device::new().mask_bits(32).unwrap();
        let refused = run(&what, ModeArg::Strict).unwrap_err();
        assert!(matches!(refused, RunError::Refused { .. }), "{refused}");
    }
}

#[test]
fn processors_that_are_not_there_are_refused() {
    let stream = small();
    let mut what = plays(&stream, 2, 10);
    what.cpus = Some(vec![CPU_NOBODY_HAS]);
    let refused = run(&what, ModeArg::Strict).unwrap_err();
    assert!(refused.to_string().contains("1023"), "{refused}");
    what.cpus = Some(vec![0]);
    assert_eq!(run(&what, ModeArg::Strict).unwrap().streams.len(), 2);
}

/// The last one that fits into the kernel's set.
const CPU_NOBODY_HAS: usize = 1023;

#[test]
fn fairness_is_jains_index_and_the_shares() {
    let even = Fairness::of(&[5.0; 4]);
    assert_eq!(
        (even.share_min, even.share_max, even.jain),
        (0.25, 0.25, 1.0)
    );
    let one = Fairness::of(&[8.0, 0.0, 0.0, 0.0]);
    assert_eq!((one.share_min, one.share_max, one.jain), (0.0, 1.0, 0.25));
    // (1 + 3)^2 / (2 * (1 + 9))
    let uneven = Fairness::of(&[1.0, 3.0]);
    assert_eq!(
        (uneven.share_min, uneven.share_max, uneven.jain),
        (0.25, 0.75, 0.8)
    );
    assert_eq!(Fairness::of(&[]).jain, 1.0);
    assert_eq!(Fairness::of(&[0.0, 0.0]).share_min, 0.5);
}

#[test]
fn a_stream_with_more_work_gets_a_smaller_share() {
    let small = small();
    let large = DdSeq {
        pages: 512,
        requests: 40,
        depth: 3,
    }
    .generate(5);
    let mut what = plays(&small, 1, u64::MAX);
    what.streams.push(&large);
    what.stop.after = Duration::from_millis(100);
    let played = run(&what, ModeArg::Strict).unwrap();
    let fairness = played.fairness;
    assert!(fairness.jain < 0.95, "{fairness:?}");
    assert!(fairness.share_min < 0.4 && fairness.share_max > 0.6);
}
