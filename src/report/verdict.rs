//! One verdict per workload, in plain sentences, computed from its figures and nothing else.

use super::units::{bytes, count, number, plural, signed_percent, time};
use super::{Report, RunResult};

/// What the figures of one workload say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The workload.
    pub workload: String,
    /// The sentences, cost first, then exposure.
    pub text: String,
    /// Whether a figure shows a defect of the code under test: a strict run that left something
    /// reachable, or an access through an invalidation that had completed.
    pub defect: bool,
}

/// The verdicts of a report, in the order of its workloads.
pub fn verdicts(report: &Report) -> Vec<Verdict> {
    report
        .workloads
        .iter()
        .map(|workload| {
            let of = |mode: &str| report.result(&workload.name, mode);
            verdict(&workload.name, of("strict"), of("lazy"), of("passthrough"))
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
        "Over {} run in both modes, a request takes {} as long in strict as in lazy mode: {} in \
         our own code (measured), and {} instead of {} waiting for the hardware (modelled, {}). Lazy left memory that was given back reachable in {}{} (counted); strict {}.",
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
        range(
            pairs
                .iter()
                .map(|(strict, _)| strict.modelled_ns_per_request),
            time
        ),
        range(
            pairs.iter().map(|(_, lazy)| lazy.modelled_ns_per_request),
            time
        ),
        one.model,
        match lazy_exposed {
            0 => "none".to_owned(),
            all if all == pairs.len() => "all of them".to_owned(),
            some => format!("{some} of them"),
        },
        match window {
            Some(window) if lazy_exposed > 0 => format!(", for up to {}", time(window as f64)),
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

fn verdict(
    workload: &str,
    strict: Option<&RunResult>,
    lazy: Option<&RunResult>,
    passthrough: Option<&RunResult>,
) -> Verdict {
    let mut sentences = Vec::new();
    match (strict, lazy, passthrough) {
        (Some(strict), Some(lazy), _) => sentences.push(cost(strict, lazy)),
        (Some(one), None, Some(free)) | (None, Some(one), Some(free)) => {
            sentences.push(cost_over_passthrough(one, free));
        }
        _ => {}
    }
    sentences.extend(lazy.and_then(lazy_exposure));
    sentences.extend(strict.and_then(strict_exposure));
    if sentences.is_empty() {
        sentences.push("Nothing to compare: this run has no two modes of it.".to_owned());
    }
    let broken = |result: &RunResult| {
        result
            .exposure
            .as_ref()
            .is_some_and(|exposure| exposure.violations > 0)
    };
    let strict_leaks =
        strict.is_some_and(|result| result.stale_device_accesses.is_some_and(|n| n > 0));
    let violated: Vec<_> = [strict, lazy]
        .into_iter()
        .flatten()
        .filter(|r| broken(r))
        .map(|r| r.mode.clone())
        .collect();
    if !violated.is_empty() {
        sentences.push(format!(
            "DEFECT: in {} mode the device got through a translation whose invalidation had \
             completed.",
            violated.join(" and ")
        ));
    }
    Verdict {
        workload: workload.to_owned(),
        text: sentences.join(" "),
        defect: strict_leaks || !violated.is_empty(),
    }
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

/// Nanoseconds of a request with our own code (measured) and the wait for the hardware
/// (modelled): a sum of two kinds, so whoever shows it says so.
pub(super) fn whole_ns(result: &RunResult) -> f64 {
    result.cpu_ns_per_request + result.modelled_ns_per_request
}

fn cost(strict: &RunResult, lazy: &RunResult) -> String {
    let (ours, theirs) = (strict.cpu_ns_per_request, lazy.cpu_ns_per_request);
    let measured = if !differ(strict, lazy) {
        "no difference beyond the spread between batches".to_owned()
    } else {
        format!(
            "strict {} {}",
            unsigned(over(ours, theirs)),
            if ours > theirs { "more" } else { "less" }
        )
    };
    format!(
        "A request takes {} in strict mode and {} in lazy mode, {}: {} and {} of our own code \
         (measured; {measured}), {} and {} of waiting for the hardware (modelled).",
        time(whole_ns(strict)),
        time(whole_ns(lazy)),
        times(whole_ns(strict) / whole_ns(lazy)),
        time(ours),
        time(theirs),
        time(strict.modelled_ns_per_request),
        time(lazy.modelled_ns_per_request),
    )
}

/// A ratio in words (`7.03 times`).
fn times(ratio: f64) -> String {
    format!("{} times", number(ratio))
}

fn cost_over_passthrough(one: &RunResult, free: &RunResult) -> String {
    format!(
        "A request takes {} in {} mode and {} in passthrough: {} and {} of our own code \
         (measured), {} and {} of waiting for the hardware (modelled, {}).",
        time(whole_ns(one)),
        one.mode,
        time(whole_ns(free)),
        time(one.cpu_ns_per_request),
        time(free.cpu_ns_per_request),
        time(one.modelled_ns_per_request),
        time(free.modelled_ns_per_request),
        one.model
    )
}

fn lazy_exposure(lazy: &RunResult) -> Option<String> {
    let accesses = lazy.stale_device_accesses?;
    let window = lazy.stale_window_max_ns?;
    let exposure = lazy.exposure.as_ref()?;
    if accesses == 0 {
        return Some(format!(
            "Lazy left nothing reachable in this run (0 of {} probes).",
            count(exposure.probes)
        ));
    }
    let mut text = format!(
        "Lazy leaves memory that was given back reachable for up to {}: {} of {} probes got \
         through, up to {} ({}) open at once (counted).",
        time(window as f64),
        count(accesses),
        count(exposure.probes),
        plural(exposure.stale_buffers_max, "buffer"),
        bytes(exposure.stale_bytes_max),
    );
    if window > exposure.stale_window_bound_ns {
        text.push_str(&format!(
            " That is longer than the {} the mode promises.",
            time(exposure.stale_window_bound_ns as f64)
        ));
    }
    Some(text)
}

fn strict_exposure(strict: &RunResult) -> Option<String> {
    let accesses = strict.stale_device_accesses?;
    let probes = strict.exposure.as_ref()?.probes;
    Some(if accesses == 0 {
        format!(
            "Strict left nothing reachable (0 of {} probes).",
            count(probes)
        )
    } else {
        format!(
            "DEFECT: strict let {} of {} probes through; do not trust this run.",
            count(accesses),
            count(probes)
        )
    })
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
    fn cost_comes_first_and_then_exposure() {
        let verdict = after(|_| {});
        // 142 / 120 = 1.183; 2 commands of 900 ns; 264 of 396 probes; 21 buffers of 128 KiB.
        assert_eq!(
            verdict.text,
            "A request takes 1,942 ns in strict mode and 124 ns in lazy mode, 15.7 times: 142 ns \
             and 120 ns of our own code (measured; strict 18 % more), 1,800 ns and 3.52 ns of \
             waiting for the hardware (modelled). Lazy leaves memory that was given back reachable for up to \
             9.71 ms: 264 of 396 probes got through, up to 21 buffers (2.62 MiB) open at once \
             (counted). Strict left nothing reachable (0 of 396 probes)."
        );
        assert!(!verdict.defect);
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
            "Over 2 workloads run in both modes, a request takes 8.16 to 15.7 times as long in \
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
            verdict.text.contains("no difference beyond the spread"),
            "{}",
            verdict.text
        );
        let verdict = after(|report| {
            let strict = of(report, "strict");
            strict.cpu_ns_per_request = 120.5;
            strict.cpu_ns_spread.min = 120.4;
        });
        assert!(
            verdict.text.contains("no difference beyond the spread"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn strict_may_be_the_cheaper_one() {
        let verdict = after(|report| of(report, "strict").cpu_ns_per_request = 60.0);
        assert!(
            verdict
                .text
                .contains("60 ns and 120 ns of our own code (measured; strict 50 % less)"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn a_stale_access_in_strict_is_a_defect() {
        let verdict = after(|report| of(report, "strict").stale_device_accesses = Some(1));
        assert!(verdict.defect);
        assert!(
            verdict.text.contains("DEFECT: strict let 1 of 396 probes"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn an_access_through_a_completed_invalidation_is_a_defect_in_any_mode() {
        let verdict = after(|report| of(report, "lazy").exposure.as_mut().unwrap().violations = 1);
        assert!(verdict.defect);
        assert!(
            verdict.text.contains("DEFECT: in lazy mode"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn a_window_past_the_bound_is_said() {
        let verdict = after(|report| of(report, "lazy").stale_window_max_ns = Some(12_000_000));
        assert!(
            verdict.text.contains("longer than the 10 ms"),
            "{}",
            verdict.text
        );
        let verdict = after(|report| of(report, "lazy").stale_window_max_ns = Some(10_000_000));
        assert!(!verdict.text.contains("longer than"), "{}", verdict.text);
    }

    #[test]
    fn lazy_without_exposure_says_so() {
        let verdict = after(|report| of(report, "lazy").stale_device_accesses = Some(0));
        assert!(
            verdict.text.contains("Lazy left nothing reachable"),
            "{}",
            verdict.text
        );
    }

    #[test]
    fn missing_modes_do_not_invent_a_comparison() {
        let verdict = after(|report| report.results.retain(|result| result.mode == "passthrough"));
        assert!(
            verdict.text.starts_with("Nothing to compare"),
            "{}",
            verdict.text
        );
        let verdict = after(|report| report.results.retain(|result| result.mode != "lazy"));
        assert!(
            verdict
                .text
                .starts_with("A request takes 1,942 ns in strict mode and 5 ns in passthrough"),
            "{}",
            verdict.text
        );
    }
}
