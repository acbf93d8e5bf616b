//! `breakdown` from the outside.

use std::process::Output;

use crate::dmabench;

fn breakdown(line: &str) -> Output {
    dmabench(".")
        .arg("breakdown")
        .args(line.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn a_line_for_each_mode_and_size_whose_columns_add_up() {
    let output = breakdown("--sizes 4k,512k --requests 100 --json");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let of = |name: &str| row[name].as_f64().unwrap();
        let columns = [
            "alloc_ns",
            "page_table_ns",
            "find_ns",
            "free_ns",
            "invalidate_ns",
            "other_ns",
        ];
        let sum: f64 = columns.into_iter().map(of).sum();
        assert!(
            (sum - of("whole_ns")).abs() < 1e-6 * of("whole_ns"),
            "{row}"
        );
        assert!(of("whole_ns") > 0.0);
        assert_eq!(of("find_ns"), 0.0);
        let hardware = of("modelled_hardware_ns");
        match row["mode"].as_str().unwrap() {
            "passthrough" => assert_eq!(hardware, 0.0),
            "strict" => assert_eq!(hardware, 883.0),
            _ => assert!(hardware > 0.0 && hardware < 20.0, "{hardware}"),
        }
    }
    let text = breakdown("--sizes 64k --modes strict --lists --requests 100").stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("strict         64K "), "{text}");
}

#[test]
fn sizes_without_parts_are_refused() {
    for bad in ["2m", "5000", "0", ""] {
        let output = breakdown(&format!("--sizes={bad}"));
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}
