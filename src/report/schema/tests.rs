//! The description of the file, the map of kinds in the file, and the file itself agree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::report::sample;

/// Fields whose content is not part of the structure.
const OPAQUE: &[&str] = &["options.other", "kind"];

/// The path of every value in a report; `[]` stands for the entries of a list.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !OPAQUE.contains(&path) => {
            for (name, field) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                paths(field, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                paths(item, &format!("{path}[]"), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

fn all_paths() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    paths(
        &serde_json::to_value(sample::report()).unwrap(),
        "",
        &mut found,
    );
    // Null in one mode and an object in another.
    found.remove("results[].exposure");
    found.remove("workloads[].parse");
    found
}

/// The kind the file gives a field: that of the longest entry it lies in.
fn kind_of(path: &str) -> Option<Kind> {
    kinds()
        .into_iter()
        .filter(|(field, _)| {
            path.strip_prefix(field.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
        .max_by_key(|(field, _)| field.len())
        .map(|(_, kind)| kind)
}

/// The rows of the tables of the description: field and kind.
fn documented() -> BTreeMap<String, String> {
    include_str!("../../../docs/report-format.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let field = cells.next()?.strip_suffix('`')?;
            Some((field.to_owned(), cells.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn every_field_is_described_with_its_kind_and_no_other_is() {
    let documented = documented();
    for path in all_paths() {
        let kind = kind_of(&path).map_or("-".to_owned(), |kind| {
            serde_json::to_value(kind)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        });
        assert_eq!(
            documented.get(&path),
            Some(&kind),
            "docs/report-format.md needs the row | `{path}` | {kind} | ... |"
        );
    }
    let described: BTreeSet<_> = documented.into_keys().collect();
    let unknown: Vec<_> = described.difference(&all_paths()).cloned().collect();
    assert!(
        unknown.is_empty(),
        "described but not in the file: {unknown:?}"
    );
}

#[test]
fn every_number_has_a_kind() {
    fn walk(value: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(field, &format!("{path}{dot}{name}"));
                }
            }
            Value::Array(items) => items
                .iter()
                .for_each(|item| walk(item, &format!("{path}[]"))),
            Value::Number(_) => assert!(kind_of(path).is_some(), "{path} has no kind"),
            _ => {}
        }
    }
    walk(&serde_json::to_value(sample::report()).unwrap(), "");
}

#[test]
fn every_kind_belongs_to_a_field() {
    let found = all_paths();
    for field in kinds().keys() {
        assert!(
            found.iter().any(|path| {
                path.strip_prefix(field.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            }),
            "kind names {field}, which is not in the file"
        );
    }
}

#[test]
fn the_description_names_the_version() {
    let text = include_str!("../../../docs/report-format.md");
    assert!(text.contains(&format!("Schema version **{SCHEMA_VERSION}**")));
}
