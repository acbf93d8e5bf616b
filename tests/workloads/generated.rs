//! Generated workloads: the same on every machine, and sound in every mode.

use std::sync::atomic::AtomicBool;

use clap::ValueEnum;
use dmabench::{
    cli::ModeArg,
    run::{self, Plan},
    workload::{
        HostLimits, Step, Workload,
        generate::{self, Shape},
    },
};

/// Made on x86-64; other machines and later versions must give the same. A
/// generator that is changed on purpose gets a new number here and a line in
/// the change log, because its results are no longer comparable.
const DIGESTS: &[(&str, u64, u64)] = &[
    ("dd-seq", 1, 0x8e48_8011_2206_b730),
    ("dd-seq", 0xdead_beef, 0x3eca_8712_951e_334c),
    ("dd-direct", 1, 0xb1f1_bf05_ae00_b609),
    ("dd-direct", 0xdead_beef, 0x1dcf_877c_657f_486d),
    ("fio-rand-4k", 1, 0x2b58_9436_570e_675e),
    ("fio-rand-4k", 0xdead_beef, 0x7fd1_f2b3_d754_ae9a),
    ("mobile-mix", 1, 0x0f75_28ad_646d_ec84),
    ("mobile-mix", 0xdead_beef, 0x214b_5b5c_aea7_64f8),
    ("sqlite-sync", 1, 0xd55f_e02a_43e0_cbe0),
    ("sqlite-sync", 0xdead_beef, 0x5918_c69d_58cb_806c),
    ("ext4-fsync", 1, 0xb580_f838_002f_72b9),
    ("ext4-fsync", 0xdead_beef, 0x847b_81c7_f98e_3435),
    ("nvme-contend", 1, 0xcd39_d7f2_46b5_bfb1),
    ("nvme-contend", 0xdead_beef, 0xd12e_35f6_b9ca_6e24),
    ("cqe", 1, 0xbe77_1fde_f3e7_c87f),
    ("cqe", 0xdead_beef, 0xfcb8_67c2_0a9e_8f34),
];

#[test]
fn a_seed_gives_the_same_workload_everywhere() {
    let mut found = Vec::new();
    for generator in generate::ALL {
        for seed in [1, 0xdead_beef] {
            let workload = generator.generate(seed);
            found.push((generator.name(), seed, workload.digest()));
        }
    }
    assert!(found == DIGESTS, "{found:#x?}");
}

/// Each request is mapped once and unmapped once, no place is used twice at a
/// time, and an SD host would take every list.
fn check(workload: &Workload) {
    let mut places = vec![None; workload.live_max as usize];
    let mut next = 0;
    for step in workload.steps() {
        match *step {
            Step::Map(number) => {
                assert_eq!(number, next, "in the order of their numbers");
                next += 1;
                let request = &workload.requests()[number as usize];
                let place = &mut places[request.place as usize];
                assert_eq!(place.replace(number), None);
                let list = workload.segments(request);
                let limits = HostLimits::SDHCI;
                assert!((1..=limits.segments).contains(&list.len()));
                assert!(request.bytes <= limits.request_bytes);
                assert!(list.iter().all(|s| s.len_bytes <= limits.segment_bytes));
            }
            Step::Unmap(number) => {
                let place = workload.requests()[number as usize].place;
                assert_eq!(places[place as usize].take(), Some(number));
            }
        }
    }
    assert_eq!(next as usize, workload.requests().len());
    assert!(places.iter().all(Option::is_none));
}

#[test]
fn every_generator_makes_sound_workloads_of_any_shape() {
    for generator in generate::ALL {
        check(&generator.generate(7));
        for requests in [1, 2, 100] {
            let shape = Shape {
                requests: Some(requests),
                ..Shape::default()
            };
            let short = generator.shaped(&shape).unwrap().generate(7);
            assert_eq!(short.requests().len(), requests as usize);
            check(&short);
        }
        let deep = Shape {
            depth: Some(9),
            requests: Some(300),
            ..Shape::default()
        };
        match generator.shaped(&deep) {
            Ok(deep) => {
                let deep = deep.generate(7);
                check(&deep);
                assert!(deep.live_max <= 9, "{}", generator.name());
                assert!(deep.live_max > 2, "{}", generator.name());
            }
            Err(refused) => assert_eq!(refused.option, "--depth"),
        }
    }
}

/// Options reach the report's description, from which a workload can be made
/// again.
#[test]
fn the_description_has_what_makes_the_workload() {
    for generator in generate::ALL {
        let shape = Shape {
            requests: Some(321),
            ..Shape::default()
        };
        let workload = generator.shaped(&shape).unwrap().generate(99);
        let source = format!("{:?}", workload.source);
        for words in [generator.name(), "requests=321", "seed=99"] {
            assert!(source.contains(words), "{words} is missing in {source}");
        }
    }
}

/// Every generator in every mode: what claims to leave nothing for the device
/// leaves nothing, and each request is run.
#[test]
fn every_generator_keeps_the_promises_of_every_mode() {
    let workloads: Vec<Workload> = (generate::ALL.iter())
        .map(|generator| {
            let shape = Shape {
                requests: Some(300),
                ..Shape::default()
            };
            let generator = generator.shaped(&shape).unwrap();
            generator.generate(5)
        })
        .collect();
    let plan = Plan {
        modes: ModeArg::value_variants().to_vec(),
        requests_min: 300,
        ..Plan::default()
    };
    let never = AtomicBool::new(false);
    let results = run::all(&workloads, &plan, &|| (), &never).unwrap().results;
    assert_eq!(results.len(), workloads.len() * plan.modes.len());
    for r in &results {
        let what = format!("{} in {}", r.workload, r.mode);
        let Some(exposure) = &r.exposure else {
            // Nothing is unmapped, or nothing mapped.
            assert!(
                ["passthrough", "premapped"].contains(&r.mode.as_str()),
                "{what}"
            );
            continue;
        };
        assert_eq!((exposure.requests, exposure.violations), (300, 0), "{what}");
        let exposes = ["lazy", "lazy-single"].contains(&r.mode.as_str());
        let stale = r.stale_device_accesses.unwrap();
        assert_eq!(stale > 0, exposes, "{what}: {stale}");
    }
}
