use std::path::Path;

use proptest::prelude::*;

use super::*;

fn csv(text: &str) -> Result<Fitted, FitError> {
    let input = FitInput::parse(Path::new("rows.csv"), text, false)?;
    fit(&input.rows, input.range_commands)
}

fn reason(text: &str) -> String {
    csv(text).unwrap_err().to_string()
}

/// Ashish Mhetre's table of 2024-08-06, without the optimisation.
#[test]
fn three_rows_of_a_published_table_predict_its_other_rows() {
    let fitted = csv("size_kib,unmap_us\n4,3\n32,10.2\n256,67.5\n").unwrap();
    let others = [
        (8, 4.0),
        (16, 6.1),
        (64, 18.5),
        (128, 35.0),
        (512, 127.9),
        (1024, 248.6),
    ];
    for (kib, us) in others {
        let error = fitted.unmap_ns(kib << 10) / (us * 1e3) - 1.0;
        assert!(error.abs() < 0.15, "{kib} KiB: {error}");
    }
    // With a row of blocks what each page costs is told from what a command does.
    let blocks = csv("size_kib,unmap_us\n4,3\n256,67.5\n2048,65.5\n").unwrap();
    assert!(
        blocks.page_ns > 100.0 && blocks.command_ns > 500.0,
        "{blocks:?}"
    );
    let error = blocks.unmap_ns(4 << 20) / 119_200.0 - 1.0;
    assert!(error.abs() < 0.15, "{error}");
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let few = "1 different sizes";
    for (text, words) in [
        ("size_kib,unmap_us\n4,3\n", few),
        ("size_kib,unmap_us\n4,3\n4,3.1\n", few),
        ("size_kib,unmap_us\n", "0 different sizes"),
        (
            "size_kib,unmap_us\n4,-3\n8,4\n",
            "row 1: unmap_us is -3, but it cannot be negative",
        ),
        (
            "size_kib,unmap_us\n4,3\n8,0\n",
            "row 2: unmap_us is 0, but it cannot be zero",
        ),
        (
            "size_kib,unmap_us\n0,3\n8,4\n",
            "size_kib is 0, but it cannot be zero",
        ),
        (
            "size_kib,unmap_us\n-4,3\n8,4\n",
            "size_kib is -4, but it cannot be negative",
        ),
        (
            "size_kib,unmap_us\n4,NaN\n8,4\n",
            "NaN, but that is no number",
        ),
        ("size_kib,unmap_us\n4,inf\n8,4\n", "more than a second"),
        ("size_bytes,unmap_us\n4,3\n64,18\n", "less than a page"),
        (
            "size_kib,unmap_us\n4,3000000\n64,18000000\n",
            "more than a second",
        ),
        (
            "size_kib,unmap_ns\n4,0.003\n64,0.018\n",
            "less than a nanosecond",
        ),
        ("size_kib,unmap_us\n4e12,3\n8,4\n", "more than 1 TiB"),
        (
            "size_kib,size_bytes,unmap_us\n4,4096,3\n",
            "size_bytes and size_kib say the same",
        ),
        (
            "size_kib,unmap_us,unmap_ns\n4,3,3000\n",
            "unmap_ns and unmap_us say the same",
        ),
        ("size_kib,latency\n4,3\n", "latency is not known"),
        ("size_kib\n4\n", "no unmap_ns or unmap_us"),
        ("unmap_us\n4\n", "no size_bytes, size_kib or size_pages"),
        (
            "size_kib,unmap_us\n4,3us\n",
            "\"3us\", but that is no number; units belong",
        ),
        ("size_kib,unmap_us\n4\n", "cannot be read"),
        ("", "no size_bytes"),
        // The last row is in nanoseconds.
        (
            "size_kib,unmap_us\n4,3\n64,18.5\n128,35\n512,127900\n",
            "the rows contradict each other",
        ),
        (
            "size_kib,unmap_us\n4,100\n64,10\n1024,1\n",
            "the rows contradict each other",
        ),
    ] {
        let said = reason(text);
        assert!(said.contains(words), "{text:?}: {said}");
        assert!(!said.contains('\n'), "{said:?}");
    }
}

#[test]
fn toml_says_the_same_and_more() {
    let parse = |text: &str| FitInput::parse(Path::new("my.toml"), text, false);
    let text = "range_invalidation = true\n[[row]]\nsize_pages = 1\nunmap_ns = 883\n\
                [[row]]\nsize_kib = 128\nunmap_us = 0.9\n";
    let input = parse(text).unwrap();
    assert_eq!(input.name, "my");
    let (profile, fitted) = input.profile().unwrap();
    assert_eq!(profile.costs.range_commands, RangeCommands::Supported);
    assert!((fitted.unmap_ns(131_072) - 900.0).abs() < 1.0, "{fitted:?}");
    assert!(
        Residuals(&input, &fitted)
            .to_string()
            .contains("proves nothing")
    );
    for (text, words) in [
        ("[[row]]\nsize_kib = 4\nunmap_ms = 3\n", "unmap_ms"),
        ("[[row]]\nsize_kib = \"4 KiB\"\nunmap_us = 3\n", "string"),
        (
            "[[row]]\nsize_kib = 4\nsize_pages = 1\nunmap_us = 3\n",
            "say the same",
        ),
        ("[[row]]\nsize_kib = 4\nunmap_us = nan\n", "no number"),
        ("row = 5", "cannot be read"),
        ("size_kib,unmap_us\n4,3\n", "cannot be read"),
    ] {
        let said = parse(text).unwrap_err().to_string();
        assert!(said.contains(words), "{text:?}: {said}");
        assert!(!said.contains('\n'), "{said:?}");
    }
}

#[test]
fn commands_are_those_of_the_largest_pages_that_fit() {
    for (kib, absent, ranges) in [
        (4, 1, 1),
        (128, 32, 1),
        (1024, 256, 1),
        (2048, 1, 1),
        (4096, 2, 1),
        (2052, 2, 2),
    ] {
        assert_eq!(commands(kib << 10, RangeCommands::Absent), absent, "{kib}");
        assert_eq!(
            commands(kib << 10, RangeCommands::Supported),
            ranges,
            "{kib}"
        );
    }
}

proptest! {
    #[test]
    fn a_larger_unmap_never_takes_less_within_a_block(
        kib in prop::collection::vec((1..512_u64, 0.1..1e5_f64), 2..9),
        pages in 1..511_u64,
    ) {
        let rows: Vec<FitRow> = (kib.iter())
            .map(|&(kib, us)| FitRow { size_bytes: kib * 4096, unmap_ns: us * 1e3 })
            .collect();
        if let Ok(fitted) = fit(&rows, RangeCommands::Absent) {
            let one = fitted.unmap_ns(pages * PAGE);
            prop_assert!(one.is_finite() && one >= 0.0);
            prop_assert!(fitted.unmap_ns((pages + 1) * PAGE) >= one || pages == 511);
        }
    }

    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,200}", toml in any::<bool>()) {
        let name = if toml { "a.toml" } else { "a.csv" };
        let _ = FitInput::parse(Path::new(name), &text, false).map(|input| input.profile());
    }

    #[test]
    fn any_figures_get_an_answer(
        rows in prop::collection::vec((any::<f64>(), any::<f64>()), 0..6),
        ranges in any::<bool>(),
    ) {
        let mut text = "size_kib,unmap_us\n".to_owned();
        for (kib, us) in rows {
            text += &format!("{kib},{us}\n");
        }
        if let Ok(input) = FitInput::parse(Path::new("a.csv"), &text, ranges) {
            let _ = input.profile();
        }
    }
}
