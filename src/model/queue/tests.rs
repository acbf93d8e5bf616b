use proptest::prelude::*;

use super::*;

const MACHINE: Machine = Machine {
    line_ns: 100,
    far_line_ns: 200,
    hit_ns: 5,
    cpus_per_node: 32,
    placement: Placement::Packed,
    command_ns: 75,
    doorbell_ns: 30,
    fetch_ns: 100,
    message_ns: 300,
    register_read_ns: 300,
    register_busy_ns: 50,
    work_ns: 900,
};

/// One CPU fights with nobody, so its time is a sum of known parts.
#[test]
fn one_cpu_takes_the_sum_of_its_parts() {
    let linux = simulate(Algorithm::Linux, &MACHINE, 1, 1);
    // Every line is its own: 9 accesses.
    let own = 9 * 5 + 30 + 100 + 2 * 75 + 300;
    assert!((linux.latency_ns - own as f64).abs() <= 10.0, "{linux:?}");
    assert_eq!((linux.attempts, linux.shared), (1.0, 0.0));
    let ours = simulate(Algorithm::Ours, &MACHINE, 1, 1);
    assert_eq!((ours.attempts, ours.shared), (1.0, 0.0));
    let before = simulate(Algorithm::OursBefore, &MACHINE, 1, 1);
    assert_eq!((before.attempts, before.shared), (2.0, 0.0));
    for algorithm in Algorithm::ALL {
        let one = simulate(algorithm, &MACHINE, 1, 1);
        let cycle = one.latency_ns + 900.0;
        assert!(
            (one.per_cpu_per_second * cycle / 1e9 - 1.0).abs() < 0.01,
            "{one:?}"
        );
        let many = simulate(algorithm, &MACHINE, 1, 101);
        let more = many.latency_ns - one.latency_ns;
        // Who polls sees the end of a wait up to one pause and two reads late.
        assert!((7450.0..=7500.0 + 1900.0).contains(&more), "{more}");
    }
}

/// Nothing is faster than the SMMU or than the line that every insertion writes.
#[test]
fn no_algorithm_beats_its_bounds() {
    for algorithm in Algorithm::ALL {
        for cpus in [1, 10, 128] {
            for commands in [1, 40] {
                let outcome = simulate(algorithm, &MACHINE, cpus, commands);
                let interval_ns = 1e9 / outcome.per_cpu_per_second / cpus as f64;
                assert!(interval_ns >= 75.0 * commands as f64 * 0.99, "{outcome:?}");
                if cpus > 2 {
                    assert!(interval_ns >= 100.0, "{outcome:?}");
                }
                assert!(outcome.sync_ns <= outcome.latency_ns);
                assert!((0.0..=1.0).contains(&outcome.shared));
            }
        }
    }
}

#[test]
fn a_simulation_is_the_same_every_time() {
    let one = simulate(Algorithm::Ours, &MACHINE, 20, 1);
    assert_eq!(one, simulate(Algorithm::Ours, &MACHINE, 20, 1));
    assert_eq!(
        simulate(Algorithm::Ours, &MACHINE, 0, 0),
        simulate(Algorithm::Ours, &MACHINE, 1, 1)
    );
    let spread = Machine {
        placement: Placement::Spread(4),
        ..MACHINE
    };
    let far = simulate(Algorithm::Linux, &spread, 10, 1).latency_ns;
    assert!(far > 1.3 * simulate(Algorithm::Linux, &MACHINE, 10, 1).latency_ns);
}

fn any_ns() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..2000_u64, Just(u64::MAX), Just(u64::MAX / 1000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn any_machine_gets_an_answer(
        times in prop::array::uniform9(any_ns()),
        nodes in 0..5_usize,
        packed in any::<bool>(),
        cpus in 0..300_usize,
        commands in prop_oneof![0..100_u64, Just(u64::MAX)],
        which in 0..Algorithm::ALL.len(),
    ) {
        let [line_ns, far_line_ns, hit_ns, command_ns, doorbell_ns, fetch_ns, message_ns, register_read_ns, work_ns] = times;
        let machine = Machine {
            line_ns,
            far_line_ns,
            hit_ns,
            cpus_per_node: nodes,
            placement: if packed { Placement::Packed } else { Placement::Spread(nodes) },
            command_ns,
            doorbell_ns,
            fetch_ns,
            message_ns,
            register_read_ns,
            register_busy_ns: register_read_ns / 2,
            work_ns,
        };
        let outcome = simulate(Algorithm::ALL[which], &machine, cpus.min(6), commands);
        prop_assert!(outcome.latency_ns.is_finite() && outcome.latency_ns >= 0.0);
        prop_assert!(outcome.per_cpu_per_second >= 0.0);
    }

    /// With an addition, slower parts never make the whole faster by more than
    /// chance. With a compare-exchange they may: CPUs that are held up elsewhere
    /// make fewer others fail.
    #[test]
    fn a_slower_machine_is_not_faster(
        linux in any::<bool>(),
        part in 0..5_usize,
        more in 50..500_u64,
        cpus in 1..24_usize,
    ) {
        let algorithm = if linux { Algorithm::LinuxWithAdd } else { Algorithm::Ours };
        let mut slower = MACHINE;
        match part {
            0 => { slower.line_ns += more; slower.far_line_ns += more; }
            1 => slower.command_ns += more,
            2 => slower.message_ns += more,
            3 => slower.work_ns += more,
            _ => slower.register_read_ns += more,
        }
        let rate = |m: &Machine| simulate(algorithm, m, cpus, 1).per_cpu_per_second;
        prop_assert!(rate(&slower) <= rate(&MACHINE) * 1.05);
    }
}

#[test]
fn a_compare_exchange_collapses_and_an_addition_does_not() {
    let total =
        |algorithm, cpus| simulate(algorithm, &MACHINE, cpus, 1).per_cpu_per_second * cpus as f64;
    assert!(total(Algorithm::Linux, 30) < 0.6 * total(Algorithm::Linux, 10));
    assert!(total(Algorithm::LinuxWithAdd, 30) > 0.8 * total(Algorithm::LinuxWithAdd, 10));
}
