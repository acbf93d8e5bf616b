//! The documents lead where they say: every relative link has a target.

use std::fs;
use std::path::{Path, PathBuf};

/// The Markdown files of the repository, except what builds leave behind.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The targets of the links of a text, code left out.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let (target, after) = after.split_once(')').unwrap_or((after, ""));
            targets.push(target.to_owned());
            rest = after;
        }
    }
    targets
}

/// The anchor a heading gets: lower case, blanks to hyphens, punctuation dropped.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter),
            _ => None,
        })
        .collect()
}

/// Why a link of `document` leads nowhere, if it does.
fn broken(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        document.to_owned()
    } else {
        document.parent().unwrap().join(file)
    };
    if !path.exists() {
        return Some(format!("{}: {target}: no such file", document.display()));
    }
    if heading.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&path).unwrap();
    let there = text
        .lines()
        .any(|line| line.starts_with('#') && anchor(line) == heading);
    (!there).then(|| format!("{}: {target}: no such heading", document.display()))
}

#[test]
fn relative_links_have_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    documents(root, &mut found);
    assert!(found.len() >= 5, "{found:?}");
    let mut failures = Vec::new();
    for document in &found {
        let text = fs::read_to_string(document).unwrap();
        failures.extend(
            links(&text)
                .iter()
                .filter_map(|target| broken(document, target)),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_check_sees_a_broken_link() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = "[a](README.md) [b](no-such-file.md) [c](#no-such-heading)\n```\n[d](x)\n```\n";
    let found: Vec<_> = links(text)
        .iter()
        .filter_map(|target| broken(&root, target))
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
}
