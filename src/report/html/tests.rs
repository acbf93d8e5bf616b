//! The page on a made-up report: whole, closed, safe, with every plot.

use super::*;
use crate::report::sample;

/// Names of the elements that have no end tag.
const VOID: &[&str] = &["meta"];

/// Checks that every element is closed in order and returns how often each name occurs.
fn balanced(page: &str) -> Result<std::collections::BTreeMap<String, usize>, String> {
    let mut open: Vec<String> = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").ok_or("no doctype")?;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').ok_or("a tag does not end")?;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            match open.pop() {
                Some(last) if last == name => {}
                last => return Err(format!("</{name}> closes {last:?}")),
            }
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default().to_owned();
        *seen.entry(name.clone()).or_insert(0) += 1;
        if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
            open.push(name);
        }
    }
    if open.is_empty() {
        Ok(seen)
    } else {
        Err(format!("left open: {open:?}"))
    }
}

#[test]
fn the_check_for_balance_sees_a_missing_end_tag() {
    assert!(balanced("<!DOCTYPE html><p><b>x</b></p>").is_ok());
    assert!(balanced("<!DOCTYPE html><p><b>x</p>").is_err());
    assert!(balanced("<!DOCTYPE html><p>x").is_err());
}

#[test]
fn every_plot_is_there_and_has_a_size() {
    let report = sample::report();
    let page = page(&report).unwrap();
    let mut wanted: Vec<_> = ["tradeoff", "cpu", "hardware", "commands"]
        .map(|name| format!("plot-{name}"))
        .to_vec();
    for index in 0..report.workloads.len() {
        for name in ["exposure", "cost", "commands", "map", "unmap", "pages"] {
            wanted.push(format!("plot-{index}-{name}"));
        }
    }
    for id in &wanted {
        let figure = page
            .split_once(&format!("<figure id=\"{id}\">"))
            .and_then(|(_, rest)| rest.split_once("</figure>"))
            .unwrap_or_else(|| panic!("{id} is missing"))
            .0;
        let (_, svg) = figure
            .split_once("<svg viewBox=\"0 0 400 ")
            .expect("a plot of known width");
        let height: u32 = svg.split_once('"').unwrap().0.parse().unwrap();
        assert!((100..400).contains(&height), "{id} is {height} units high");
        assert!(
            svg.matches("<text").count() >= 6,
            "{id} has no names on its axes"
        );
        let marks = ["<rect", "<circle", "<polyline", "<line"]
            .iter()
            .map(|tag| svg.matches(tag).count());
        assert!(marks.sum::<usize>() >= 2, "{id} shows nothing");
    }
    assert_eq!(page.matches("<figure ").count(), wanted.len());
}

#[test]
fn the_page_is_balanced_and_loads_nothing() {
    let page = page(&sample::report()).unwrap();
    let seen = balanced(&page).unwrap();
    assert_eq!(seen.get("svg"), seen.get("figure"));
    for loads in [
        "http:", "https:", "//", "src=", "url(", "@import", "<link", "<script", "<img",
    ] {
        assert!(!page.contains(loads), "the page contains {loads}");
    }
}

#[test]
fn names_from_outside_cannot_leave_their_place() {
    let page = page(&sample::report()).unwrap();
    assert!(
        !page.contains("alert('1')"),
        "a hostile name came through unescaped"
    );
    assert!(page.contains("&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39;)"));
    assert_eq!(page.matches("</title>").count(), 1);
    assert_eq!(escape("a\u{0}b\u{1b}[1m\n"), "a\u{FFFD}b\u{FFFD}[1m\n");
}

#[test]
fn links_inside_the_page_have_targets() {
    let page = page(&sample::report()).unwrap();
    for (at, _) in page.match_indices("href=\"#") {
        let target = page[at + 7..].split('"').next().unwrap();
        assert_eq!(
            page.matches(&format!("id=\"{target}\"")).count(),
            1,
            "#{target}"
        );
    }
}

#[test]
fn a_run_without_results_still_makes_a_page() {
    let mut report = sample::report();
    report.results.clear();
    balanced(&page(&report).unwrap()).unwrap();
    report.workloads.clear();
    balanced(&page(&report).unwrap()).unwrap();
}

#[test]
fn figures_that_are_not_numbers_do_not_break_the_page() {
    let mut report = sample::report();
    for result in &mut report.results {
        result.cpu_ns_per_request = f64::NAN;
        result.modelled_ns_per_request = f64::INFINITY;
        result.requests = 0;
        for point in &mut result.unmap_curve {
            point.ns = 0.0;
        }
        result.map_curve.clear();
    }
    balanced(&page(&report).unwrap()).unwrap();
}
