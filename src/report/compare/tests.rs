//! Comparisons of the made-up report with changed copies of itself.

use super::*;
use crate::report::{RunResult, sample};

fn against(change: impl FnOnce(&mut Report)) -> Comparison {
    let base = sample::report();
    let mut new = base.clone();
    change(&mut new);
    compare(("a.json", &base), ("b.json", &new))
}

fn strict(report: &mut Report) -> &mut RunResult {
    report
        .results
        .iter_mut()
        .find(|result| result.mode == "strict")
        .unwrap()
}

#[test]
fn a_run_against_itself_changes_nothing() {
    let same = against(|_| {});
    assert!(
        same.changes.is_empty() && same.not_comparable.is_empty() && same.only_in_one.is_empty()
    );
    // 2 workloads x (10 figures x 3 modes less the two that passthrough has not).
    assert_eq!(same.compared, 2 * (10 * 3 - 2));
    assert!(text(&same).ends_with("0 regressions, 0 improvements of 56 figures compared.\n"));
}

#[test]
fn more_cpu_beyond_the_spread_is_a_regression() {
    let worse = against(|new| {
        let result = strict(new);
        result.cpu_ns_per_request *= 1.2;
        result.cpu_ns_spread.min *= 1.2;
    });
    let change = &worse.changes[0];
    assert!(change.regression && change.field == "cpu_ns_per_request");
    assert!((change.over() - 0.2).abs() < 1e-9);
    assert!(text(&worse).contains("WORSE"), "{}", text(&worse));
    assert_eq!(worse.regressions().count(), 1);
    // The same figure, but the batches overlap.
    let noise = against(|new| {
        let result = strict(new);
        result.cpu_ns_per_request *= 1.2;
        result.cpu_ns_spread.min *= 0.5;
    });
    assert!(noise.changes.is_empty(), "{:?}", noise.changes);
}

#[test]
fn counts_are_compared_to_the_percent() {
    let fewer = against(|new| strict(new).sync_commands *= 0.5);
    assert!(!fewer.changes[0].regression);
    assert!(text(&fewer).contains("better"), "{}", text(&fewer));
    let one_flush_in_the_passes = against(|new| strict(new).sync_commands *= 1.005);
    assert!(one_flush_in_the_passes.changes.is_empty());
    let from_nothing = against(|new| strict(new).stale_device_accesses = Some(1));
    assert!(from_nothing.changes[0].regression);
    assert!(text(&from_nothing).contains("from 0"));
}

#[test]
fn what_cannot_be_compared_is_said_and_not_compared() {
    let machine = against(|new| {
        new.machine.cpu_model = "Another".to_owned();
        strict(new).cpu_ns_per_request *= 10.0;
    });
    assert!(machine.changes.is_empty());
    assert!(text(&machine).contains("not compared, measured: another processor"));
    let seed = against(|new| {
        new.seed += 1;
        strict(new).sync_commands *= 10.0;
        strict(new).modelled_ns_per_request *= 10.0;
    });
    assert!(seed.changes.is_empty(), "{:?}", seed.changes);
    assert_eq!(
        seed.not_comparable.len(),
        2,
        "modelled time follows the counts"
    );
    let profile = against(|new| {
        new.profile.parameters[0].value *= 2.0;
        strict(new).modelled_ns_per_request *= 2.0;
    });
    assert!(profile.changes.is_empty());
    assert!(text(&profile).contains("has other numbers"));
}

#[test]
fn another_load_of_the_same_name_is_not_compared() {
    let load = against(|new| {
        new.workloads[0].requests += 1;
        strict(new).sync_commands *= 2.0;
    });
    assert!(load.changes.is_empty());
    assert_eq!(load.compared, 28);
}

#[test]
fn what_only_one_run_has_is_listed() {
    let fewer = against(|new| new.results.retain(|result| result.mode != "lazy"));
    assert_eq!(fewer.only_in_one.len(), 2);
    assert!(fewer.only_in_one.iter().all(|one| one.in_base));
    assert!(
        text(&fewer).contains("only in the base:"),
        "{}",
        text(&fewer)
    );
}

#[test]
fn lines_fit_and_names_cannot_steer_the_terminal() {
    let long = against(|new| {
        new.machine.cpu_model = "\u{1b}[2J A name that does not end".repeat(9);
        for result in &mut new.results {
            result.sync_commands = 1e12;
        }
    });
    for line in text(&long).lines() {
        assert!(
            line.chars().count() <= 102,
            "{}: {line}",
            line.chars().count()
        );
        assert!(!line.contains('\u{1b}'));
    }
}
