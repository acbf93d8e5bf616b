//! The rows of a fit: where they are read, and everything that is refused.

use std::path::Path;

use dmabench_flushq::RangeCommands;
use serde::Deserialize;

const KIB: f64 = 1024.0;
/// 1 TiB: more than any unmap.
const SIZE_MAX: f64 = (1_u64 << 40) as f64;
/// Less than any unmap that waits for hardware.
const TIME_MIN_NS: f64 = 1.0;
/// Linux gives a sync up after a second.
const TIME_MAX_NS: f64 = 1e9;

/// One measurement: a strict unmap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitRow {
    /// Bytes unmapped, contiguous and aligned.
    pub size_bytes: u64,
    /// Nanoseconds of the unmap, the wait included.
    pub unmap_ns: f64,
}

/// Rows and what belongs to them.
#[derive(Debug, Clone, PartialEq)]
pub struct FitInput {
    /// Name of the profile to make.
    pub name: String,
    /// Whether one command covers a range on that machine.
    pub range_commands: RangeCommands,
    /// The measurements.
    pub rows: Vec<FitRow>,
}

/// Why no profile can be made of some rows. Says what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// The file is not what its ending says.
    #[error("cannot be read: {0}")]
    Syntax(String),
    /// A column or key that is not known.
    #[error(
        "{name} is not known; there are size_bytes, size_kib or size_pages, and unmap_ns or unmap_us"
    )]
    Unknown {
        /// Its name.
        name: String,
    },
    /// Two columns for one thing.
    #[error("{one} and {other} say the same thing; give one of them")]
    TwoUnits {
        /// One of them.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Neither of the columns for a thing.
    #[error("there is no {names}; give one of them")]
    Missing {
        /// What is missing: the possible names.
        names: &'static str,
    },
    /// A value that cannot be.
    #[error("row {row}: {name} is {value}, but {reason}")]
    Value {
        /// Number of the row, from 1.
        row: usize,
        /// The column.
        name: String,
        /// What stands there.
        value: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// Fewer than two different sizes.
    #[error(
        "{sizes} different sizes say nothing about what a further page costs; measure at \
             least two, better four, from 4 KiB to 1 MiB"
    )]
    TooFew {
        /// How many there are.
        sizes: usize,
    },
    /// No figures fit the rows.
    #[error("the rows contradict each other: with the others, {} KiB should take {fitted_ns:.0} ns \
             and not {unmap_ns:.0}; check its unit, or measure it again", *size_bytes as f64 / KIB)]
    Contradictory {
        /// The row that fits worst.
        size_bytes: u64,
        /// What it says.
        unmap_ns: f64,
        /// What the best fit says.
        fitted_ns: f64,
    },
}

/// A column, and what turns its figures into bytes or nanoseconds.
const SIZES: [(&str, f64); 3] = [
    ("size_bytes", 1.0),
    ("size_kib", KIB),
    ("size_pages", 4096.0),
];
const TIMES: [(&str, f64); 2] = [("unmap_ns", 1.0), ("unmap_us", 1e3)];
const SIZE_NAMES: &str = "size_bytes, size_kib or size_pages";
const TIME_NAMES: &str = "unmap_ns or unmap_us";

/// The one of `known` that is among `names`.
fn only<const N: usize>(
    known: &'static [(&'static str, f64); N],
    names: &[&str],
    missing: &'static str,
) -> Result<(&'static str, f64), FitError> {
    let mut found = known.iter().filter(|(name, _)| names.contains(name));
    match (found.next(), found.next()) {
        (Some(&one), None) => Ok(one),
        (Some(&(one, _)), Some(&(other, _))) => Err(FitError::TwoUnits { one, other }),
        (None, _) => Err(FitError::Missing { names: missing }),
    }
}

fn row(number: usize, size: (&str, f64, f64), time: (&str, f64, f64)) -> Result<FitRow, FitError> {
    let refuse = |(name, value, _): (&str, f64, f64), reason| {
        Err(FitError::Value {
            row: number,
            name: name.to_owned(),
            value: value.to_string(),
            reason,
        })
    };
    for figure in [size, time] {
        if figure.1.is_nan() {
            return refuse(figure, "that is no number");
        }
        if figure.1 < 0.0 {
            return refuse(figure, "it cannot be negative");
        }
        if figure.1 == 0.0 {
            return refuse(figure, "it cannot be zero");
        }
    }
    let (size_bytes, unmap_ns) = (size.1 * size.2, time.1 * time.2);
    if size_bytes < 4096.0 {
        return refuse(
            size,
            "less than a page of 4 KiB is never unmapped; is the unit right?",
        );
    }
    if size_bytes > SIZE_MAX {
        return refuse(size, "that is more than 1 TiB; is the unit right?");
    }
    if size_bytes.fract() != 0.0 {
        return refuse(size, "that is not a whole number of bytes");
    }
    if unmap_ns < TIME_MIN_NS {
        return refuse(
            time,
            "no strict unmap takes less than a nanosecond; is the unit right?",
        );
    }
    if unmap_ns > TIME_MAX_NS {
        return refuse(time, "that is more than a second; is the unit right?");
    }
    Ok(FitRow {
        size_bytes: size_bytes as u64,
        unmap_ns,
    })
}

/// Refuses rows that determine nothing. Public rows are checked as those of a
/// file.
pub(super) fn check(rows: &[FitRow]) -> Result<(), FitError> {
    for (index, one) in rows.iter().enumerate() {
        row(
            index + 1,
            ("size_bytes", one.size_bytes as f64, 1.0),
            ("unmap_ns", one.unmap_ns, 1.0),
        )?;
    }
    let mut sizes: Vec<u64> = rows.iter().map(|row| row.size_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() < 2 {
        return Err(FitError::TooFew { sizes: sizes.len() });
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    name: Option<String>,
    #[serde(default)]
    range_invalidation: bool,
    #[serde(default)]
    row: Vec<TomlRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlRow {
    size_bytes: Option<f64>,
    size_kib: Option<f64>,
    size_pages: Option<f64>,
    unmap_ns: Option<f64>,
    unmap_us: Option<f64>,
}

impl FitInput {
    /// Reads rows: TOML if the name ends in `.toml`, else CSV.
    /// `range_invalidation` is for CSV, which cannot say it.
    ///
    /// # Errors
    ///
    /// [`FitError`] for everything that cannot be a measurement.
    pub fn parse(path: &Path, text: &str, range_invalidation: bool) -> Result<Self, FitError> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let toml = path.extension().is_some_and(|ending| ending == "toml");
        let mut input = if toml {
            Self::from_toml(text)?
        } else {
            Self::from_csv(text)?
        };
        if input.name.is_empty() {
            input.name = stem.into_owned();
        }
        if range_invalidation {
            input.range_commands = RangeCommands::Supported;
        }
        Ok(input)
    }

    fn from_toml(text: &str) -> Result<Self, FitError> {
        let file: TomlFile = toml::from_str(text)
            .map_err(|error| FitError::Syntax(super::super::board::one_line(&error.to_string())))?;
        let mut rows = Vec::new();
        for (index, given) in file.row.iter().enumerate() {
            let columns = [
                ("size_bytes", given.size_bytes),
                ("size_kib", given.size_kib),
                ("size_pages", given.size_pages),
                ("unmap_ns", given.unmap_ns),
                ("unmap_us", given.unmap_us),
            ];
            let present: Vec<(&str, f64)> = (columns.iter())
                .filter_map(|&(name, value)| Some((name, value?)))
                .collect();
            rows.push(row_of(index + 1, &present)?);
        }
        Ok(FitInput {
            name: file.name.unwrap_or_default(),
            range_commands: if file.range_invalidation {
                RangeCommands::Supported
            } else {
                RangeCommands::Absent
            },
            rows,
        })
    }

    fn from_csv(text: &str) -> Result<Self, FitError> {
        let syntax = |error: csv::Error| FitError::Syntax(error.to_string());
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let names: Vec<String> = (reader.headers().map_err(syntax)?.iter())
            .map(str::to_owned)
            .collect();
        let known = |name: &str| SIZES.iter().chain(&TIMES).any(|(known, _)| *known == name);
        if let Some(name) = names.iter().find(|name| !known(name)) {
            return Err(FitError::Unknown { name: name.clone() });
        }
        let mut rows = Vec::new();
        for (index, record) in reader.records().enumerate() {
            let record = record.map_err(syntax)?;
            let mut present = Vec::new();
            for (name, text) in names.iter().zip(record.iter()) {
                let value = text.parse().map_err(|_| FitError::Value {
                    row: index + 1,
                    name: name.clone(),
                    value: format!("{text:?}"),
                    reason: "that is no number; units belong into the column's name",
                })?;
                present.push((name.as_str(), value));
            }
            rows.push(row_of(index + 1, &present)?);
        }
        if rows.is_empty() {
            // So that a wrong header is said even without rows.
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            only(&SIZES, &names, SIZE_NAMES)?;
            only(&TIMES, &names, TIME_NAMES)?;
        }
        Ok(FitInput {
            name: String::new(),
            range_commands: RangeCommands::Absent,
            rows,
        })
    }
}

fn row_of(number: usize, present: &[(&str, f64)]) -> Result<FitRow, FitError> {
    let names: Vec<&str> = present.iter().map(|(name, _)| *name).collect();
    let value = |(name, factor): (&'static str, f64)| {
        let found = present.iter().find(|(present, _)| *present == name);
        (name, found.map_or(f64::NAN, |(_, value)| *value), factor)
    };
    let size = value(only(&SIZES, &names, SIZE_NAMES)?);
    let time = value(only(&TIMES, &names, TIME_NAMES)?);
    row(number, size, time)
}
