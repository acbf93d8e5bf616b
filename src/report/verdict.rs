//! One verdict per workload, in plain sentences, computed from its figures and nothing else.

use super::units::{bytes, count, number, plural, signed_percent, time};
use super::{Report, RunResult};

/// What the figures of one workload say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The workload.
    pub workload: String,
    /// What strict costs and what lazy exposes, in one sentence.
    pub headline: String,
    /// What it rests on, and which other mode does better.
    pub details: String,
    /// Whether a figure shows a defect of the code under test: something reachable in a mode that
    /// promises that nothing is, or an access through an invalidation that had completed.
    pub defect: bool,
}

/// The verdicts of a report, in the order of its workloads.
pub fn verdicts(report: &Report) -> Vec<Verdict> {
    report
        .workloads
        .iter()
        .map(|workload| {
            verdict(
                &workload.name,
                &report.results_of(&workload.name).collect::<Vec<_>>(),
            )
        })
        .collect()
}

/// What the figures say over all workloads; nothing where no workload ran in strict and in lazy.
pub fn summary(report: &Report) -> Option<String> {
    let pairs: Vec<_> = report
        .workloads
        .iter()
        .filter_map(|workload| {
            let of = |mode| report.result(&workload.name, mode);
            Some((of("strict")?, of("lazy")?))
        })
        .collect();
    let (one, _) = pairs.first()?;
    let exposed = |result: &RunResult| result.stale_device_accesses.is_some_and(|n| n > 0);
    let lazy_exposed = pairs.iter().filter(|(_, lazy)| exposed(lazy)).count();
    let strict_exposed = pairs.iter().filter(|(strict, _)| exposed(strict)).count();
    let window = pairs
        .iter()
        .filter_map(|(_, lazy)| lazy.stale_window_max_ns)
        .max();
    Some(format!(
        "Over {} run in both modes, mapping and unmapping a request, its transfer aside, takes {} as \
         long in strict as in lazy mode: {} in our own code (measured), and {} instead of {} waiting for the hardware (modelled, {}). Lazy left memory that was given back reachable in {}{} (counted); strict {}.",
        plural(pairs.len() as u64, "workload"),
        range(
            pairs
                .iter()
                .map(|(strict, lazy)| whole_ns(strict) / whole_ns(lazy)),
            times
        ),
        range(
            pairs
                .iter()
                .map(|(strict, lazy)| over(strict.cpu_ns_per_request, lazy.cpu_ns_per_request)),
            signed_percent
        ),
        range(pairs.iter().map(|(strict, _)| wait_ns(strict)), time),
        range(pairs.iter().map(|(_, lazy)| wait_ns(lazy)), time),
        one.model,
        match lazy_exposed {
            0 => "none".to_owned(),
            all if all == pairs.len() => "all of them".to_owned(),
            some => format!("{some} of them"),
        },
        match window {
            Some(window) if lazy_exposed > 0 => format!(", {}", how_long(window)),
            _ => String::new(),
        },
        if strict_exposed == 0 {
            "in none".to_owned()
        } else {
            format!("in {strict_exposed}, which is a DEFECT: do not trust this run")
        }
    ))
}

/// Smallest and largest of some figures in words.
fn range(figures: impl Iterator<Item = f64>, word: fn(f64) -> String) -> String {
    let (low, high) = figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| {
        (low.min(figure), high.max(figure))
    });
    let (low, high) = (word(low), word(high));
    match (low.split_once(' '), high.split_once(' ')) {
        _ if low == high => low,
        // The unit once, where it is the same.
        (Some((number, one)), Some((_, other))) if one == other => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

impl Report {
    /// The result of one workload in one mode.
    pub fn result(&self, workload: &str, mode: &str) -> Option<&RunResult> {
        self.results
            .iter()
            .find(|result| result.workload == workload && result.mode == mode)
    }

    /// The results of one workload, in the order of the run.
    pub fn results_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a RunResult> {
        self.results
            .iter()
            .filter(move |result| result.workload == workload)
    }
}

fn verdict(workload: &str, results: &[&RunResult]) -> Verdict {
    let of = |mode: &str| results.iter().copied().find(|result| result.mode == mode);
    let (headline, mut details) = match (of("strict"), of("lazy"), of("passthrough")) {
        (Some(strict), Some(lazy), _) => (
            format!("{}; {}.", cost(strict, lazy), exposure(lazy)),
            vec![evidence(strict, lazy)],
        ),
        (Some(one), None, Some(free)) | (None, Some(one), Some(free)) => {
            (cost_over_passthrough(one, free), vec![])
        }
        _ => (
            "nothing to compare: this run has not both strict and lazy, nor one of them with \
             passthrough."
                .to_owned(),
            vec![],
        ),
    };
    if let (Some(strict), Some(lazy)) = (of("strict"), of("lazy")) {
        let better = best_safe(results).filter(|safe| whole_ns(safe) < whole_ns(strict));
        details.extend(better.map(|safe| {
            format!(
                "Of the modes that leave nothing reachable, {} is the fastest: {} of lazy's time.",
                safe.mode,
                percent(whole_ns(safe) / whole_ns(lazy))
            )
        }));
    }
    details.extend(results.iter().copied().filter_map(past_the_bound));
    let defects: Vec<String> = results.iter().copied().flat_map(defects).collect();
    let defect = !defects.is_empty();
    details.extend(defects);
    Verdict {
        workload: workload.to_owned(),
        headline,
        details: details.join(" "),
        defect,
    }
}

/// The cheapest mode other than plain strict that translates and left nothing reachable.
fn best_safe<'a>(results: &[&'a RunResult]) -> Option<&'a RunResult> {
    (results.iter().copied())
        .filter(|result| result.mode != "strict" && result.stale_device_accesses == Some(0))
        .filter(|result| result.mode != "lazy" && result.mode != "lazy-single")
        .min_by(|one, other| whole_ns(one).total_cmp(&whole_ns(other)))
}

/// A window that is longer than the mode promises, where it promises one.
fn past_the_bound(result: &RunResult) -> Option<String> {
    let bound = result.exposure.as_ref()?.stale_window_bound_ns;
    let window = result.stale_window_max_ns?;
    (bound > 0 && window > bound).then(|| {
        format!(
            "The window of {} in {} mode is longer than the {} it promises.",
            time(window as f64),
            result.mode,
            time(bound as f64)
        )
    })
}

/// What no run may show.
fn defects(result: &RunResult) -> Vec<String> {
    let mut found = Vec::new();
    let Some(exposure) = &result.exposure else {
        return found;
    };
    let stale = result.stale_device_accesses.unwrap_or(0);
    if exposure.stale_window_bound_ns == 0 && stale > 0 {
        found.push(format!(
            "DEFECT: {} mode promises that nothing stays reachable and let {} of {} probes \
             through; do not trust this run.",
            result.mode,
            count(stale),
            count(exposure.probes)
        ));
    }
    if exposure.violations > 0 {
        found.push(format!(
            "DEFECT: in {} mode the device got through a translation whose invalidation had \
             completed.",
            result.mode
        ));
    }
    found
}

/// Whether two measured costs differ by more than their batches differ among themselves: the
/// median batch of the cheaper one is cheaper than every batch of the dearer one, and by 1 % at
/// least.
pub(super) fn differ(one: &RunResult, other: &RunResult) -> bool {
    let (cheap, dear) = if one.cpu_ns_per_request <= other.cpu_ns_per_request {
        (one, other)
    } else {
        (other, one)
    };
    cheap.cpu_ns_per_request < dear.cpu_ns_spread.min
        && dear.cpu_ns_per_request > cheap.cpu_ns_per_request * 1.01
}

/// How much more `one` costs than `base`, as a ratio.
pub(super) fn over(one: f64, base: f64) -> f64 {
    one / base - 1.0
}

/// Nanoseconds of a request in which the processor waits for the hardware and nothing else goes on.
/// Modelled.
pub(super) fn wait_ns(result: &RunResult) -> f64 {
    (result.modelled_wait_ns_per_request).unwrap_or(result.modelled_ns_per_request)
}

/// Nanoseconds of a request with our own code (measured) and the wait for the hardware
/// (modelled): a sum of two kinds, so whoever shows it says so.
pub(super) fn whole_ns(result: &RunResult) -> f64 {
    result.cpu_ns_per_request + wait_ns(result)
}

/// What strict costs, as the first half of a sentence.
fn cost(strict: &RunResult, lazy: &RunResult) -> String {
    let (ours, theirs) = (strict.cpu_ns_per_request, lazy.cpu_ns_per_request);
    let measured = if !differ(strict, lazy) {
        "no more CPU beyond the spread between batches".to_owned()
    } else {
        format!(
            "{} {} CPU",
            unsigned(over(ours, theirs)),
            if ours > theirs { "more" } else { "less" }
        )
    };
    format!(
        "strict takes {} as long as lazy to map and unmap a request ({measured} measured, {} instead of {} of \
         waiting for the hardware modelled)",
        times(whole_ns(strict) / whole_ns(lazy)),
        time(wait_ns(strict)),
        time(wait_ns(lazy)),
    )
}

/// For how long a device reached what was given back. A run of a single request ends
/// with the probe right after its unmap.
fn how_long(window_ns: u64) -> String {
    match window_ns {
        0 => "right after its unmap".to_owned(),
        ns => format!("for up to {}", time(ns as f64)),
    }
}

/// What lazy exposes, as the second half of a sentence.
fn exposure(lazy: &RunResult) -> String {
    match (
        &lazy.exposure,
        lazy.stale_device_accesses,
        lazy.stale_window_max_ns,
    ) {
        (Some(exposure), Some(1..), Some(window)) => format!(
            "lazy leaves memory that was given back reachable {}, {} ({}) of it at once",
            how_long(window),
            plural(exposure.stale_buffers_max, "buffer"),
            bytes(exposure.stale_bytes_max),
        ),
        (Some(_), Some(0), _) => "lazy left nothing reachable in this run".to_owned(),
        _ => "what lazy leaves reachable was not looked at".to_owned(),
    }
}

/// The figures behind both halves.
fn evidence(strict: &RunResult, lazy: &RunResult) -> String {
    let mut text = format!(
        "{} and {} of our own code (measured).",
        time(strict.cpu_ns_per_request),
        time(lazy.cpu_ns_per_request)
    );
    if let (Some(strict), Some(lazy)) = (strict.modelled_mb_per_s, lazy.modelled_mb_per_s) {
        text.push_str(&format!(
            " On the modelled device {} instead of {} MB/s.",
            number(strict),
            number(lazy)
        ));
    }
    let probes = |result: &RunResult| {
        Some((
            result.stale_device_accesses?,
            result.exposure.as_ref()?.probes,
        ))
    };
    if let (Some(strict), Some(lazy)) = (probes(strict), probes(lazy)) {
        text.push_str(&format!(
            " {} of {} probes got through in lazy mode, {} of {} in strict (counted).",
            count(lazy.0),
            count(lazy.1),
            count(strict.0),
            count(strict.1)
        ));
    }
    text
}

/// A ratio as a percentage without a sign (`104 %`).
fn percent(ratio: f64) -> String {
    format!("{} %", number((ratio * 100.0).round()))
}

/// A ratio in words (`7.03 times`).
fn times(ratio: f64) -> String {
    format!("{} times", number(ratio))
}

fn cost_over_passthrough(one: &RunResult, free: &RunResult) -> String {
    format!(
        "a request takes {} in {} mode and {} in passthrough: {} and {} of our own code \
         (measured), {} and {} of waiting for the hardware (modelled, {}).",
        time(whole_ns(one)),
        one.mode,
        time(whole_ns(free)),
        time(one.cpu_ns_per_request),
        time(free.cpu_ns_per_request),
        time(wait_ns(one)),
        time(wait_ns(free)),
        one.model
    )
}

fn unsigned(ratio: f64) -> String {
    signed_percent(ratio)
        .trim_start_matches(['+', '-'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// The verdict on the first workload of the made-up report after a change to it.
    fn after(change: impl FnOnce(&mut Report)) -> Verdict {
        let mut report = sample::report();
        change(&mut report);
        verdicts(&report).swap_remove(0)
    }

    fn of<'a>(report: &'a mut Report, mode: &str) -> &'a mut RunResult {
        report
            .results
            .iter_mut()
            .find(|result| result.mode == mode)
            .unwrap()
    }

    #[test]
    fn the_headline_is_one_sentence_of_cost_and_exposure() {
        let verdict = after(|_| {});
        // 142 / 120 = 1.183; 2 commands of 900 ns; 264 of 396 probes; 21 buffers of 128 KiB.
        assert_eq!(
            verdict.headline,
            "strict takes 15.7 times as long as lazy to map and unmap a request (18 % more CPU measured, \
             1,800 ns instead of 3.52 ns of waiting for the hardware modelled); lazy leaves \
             memory that was given back reachable for up to 9.71 ms, 21 buffers (2.62 MiB) of it \
             at once."
        );
        assert_eq!(
            verdict.details,
            "142 ns and 120 ns of our own code (measured). On the modelled device 261 instead of \
             262 MB/s. 264 of 396 probes got through in lazy \
             mode, 0 of 396 in strict (counted)."
        );
        assert!(!verdict.defect);
    }

    #[test]
    fn the_fastest_mode_that_leaves_nothing_is_named() {
        let verdict = after(|report| {
            for (mode, cpu) in [("strict-batched", 130.0), ("lazy-parked", 118.7)] {
                let mut result = sample::result(&report.workloads[0].name, mode, cpu, 1.0 / 256.0);
                result.stale_device_accesses = Some(0);
                report.results.push(result);
            }
        });
        assert!(
            verdict.details.ends_with(
                "Of the modes that leave nothing reachable, lazy-parked is the fastest: 99 % of \
                 lazy's time."
            ),
            "{}",
            verdict.details
        );
        // Slower than strict is no news.
        let verdict = after(|report| {
            let name = report.workloads[0].name.clone();
            report
                .results
                .push(sample::result(&name, "bounce", 9_000.0, 0.0));
        });
        assert!(!verdict.details.contains("fastest"), "{}", verdict.details);
        // Lazy with luck in this run is no safe mode.
        let verdict = after(|report| of(report, "lazy").stale_device_accesses = Some(0));
        assert!(!verdict.details.contains("fastest"), "{}", verdict.details);
    }

    #[test]
    fn the_summary_spans_all_workloads() {
        let mut report = sample::report();
        let strict = &mut report.results[4];
        assert_eq!(strict.mode, "strict");
        strict.cpu_ns_per_request = 108.0;
        strict.modelled_ns_per_request = 900.0;
        report.results[5].stale_device_accesses = Some(0);
        assert_eq!(
            summary(&report).unwrap(),
            "Over 2 workloads run in both modes, mapping and unmapping a request, its transfer \
             aside, takes 8.16 to 15.7 times as long in \
             strict as in lazy mode: -10 to +18 % in our own code (measured), and 900 to 1,800 ns \
             instead of 3.52 ns waiting for the hardware (modelled, example-smmu). Lazy left memory that was given back reachable in \
             1 of them, for up to 9.71 ms (counted); strict in none."
        );
        report.results[4].stale_device_accesses = Some(3);
        assert!(
            summary(&report)
                .unwrap()
                .contains("strict in 1, which is a DEFECT")
        );
        report.results.retain(|result| result.mode != "lazy");
        assert_eq!(summary(&report), None);
    }

    #[test]
    fn a_difference_inside_the_spread_is_no_difference() {
        let verdict = after(|report| {
            let strict = of(report, "strict");
            strict.cpu_ns_per_request = 121.9;
            strict.cpu_ns_spread.min = 119.0;
        });
        assert!(
            verdict.headline.contains("no more CPU beyond the spread"),
            "{}",
            verdict.headline
        );
        let verdict = after(|report| {
            let strict = of(report, "strict");
            strict.cpu_ns_per_request = 120.5;
            strict.cpu_ns_spread.min = 120.4;
        });
        assert!(
            verdict.headline.contains("no more CPU beyond the spread"),
            "{}",
            verdict.headline
        );
    }

    #[test]
    fn strict_may_be_the_cheaper_one() {
        let verdict = after(|report| of(report, "strict").cpu_ns_per_request = 60.0);
        assert!(
            verdict.headline.contains("(50 % less CPU measured,"),
            "{}",
            verdict.headline
        );
    }

    #[test]
    fn a_stale_access_in_strict_is_a_defect() {
        let verdict = after(|report| of(report, "strict").stale_device_accesses = Some(1));
        assert!(verdict.defect);
        assert!(
            (verdict.details).contains(
                "DEFECT: strict mode promises that nothing stays reachable and let 1 of 396 probes"
            ),
            "{}",
            verdict.details
        );
    }

    #[test]
    fn an_access_through_a_completed_invalidation_is_a_defect_in_any_mode() {
        let verdict = after(|report| of(report, "lazy").exposure.as_mut().unwrap().violations = 1);
        assert!(verdict.defect);
        assert!(
            verdict.details.contains("DEFECT: in lazy mode"),
            "{}",
            verdict.details
        );
    }

    #[test]
    fn a_window_that_nothing_followed_has_words_and_not_0() {
        assert_eq!(how_long(0), "right after its unmap");
        assert_eq!(how_long(10_000_000), "for up to 10 ms");
    }

    #[test]
    fn a_window_past_the_bound_is_said() {
        let verdict = after(|report| of(report, "lazy").stale_window_max_ns = Some(12_000_000));
        assert!(
            verdict.details.contains("longer than the 10 ms"),
            "{}",
            verdict.details
        );
        let verdict = after(|report| of(report, "lazy").stale_window_max_ns = Some(10_000_000));
        assert!(
            !verdict.details.contains("longer than"),
            "{}",
            verdict.details
        );
    }

    #[test]
    fn lazy_without_exposure_says_so() {
        let verdict = after(|report| of(report, "lazy").stale_device_accesses = Some(0));
        assert!(
            verdict
                .headline
                .ends_with("; lazy left nothing reachable in this run."),
            "{}",
            verdict.headline
        );
    }

    #[test]
    fn missing_modes_do_not_invent_a_comparison() {
        let verdict = after(|report| report.results.retain(|result| result.mode == "passthrough"));
        assert!(
            verdict.headline.starts_with("nothing to compare"),
            "{}",
            verdict.headline
        );
        let verdict = after(|report| report.results.retain(|result| result.mode != "lazy"));
        assert!(
            verdict
                .headline
                .starts_with("a request takes 1,942 ns in strict mode and 5 ns in passthrough"),
            "{}",
            verdict.headline
        );
    }
}
