//! The model held against published tables: some rows calibrate it, it predicts
//! the others, and every error is shown.
//!
//! Nothing here is measured by this project. Each table names its source, the
//! rows that were used, and for each prediction that is off by more than
//! [`TOLERANCE`] the reason.

mod contention;
mod dd;
mod sizes;

use std::{fmt, sync::OnceLock};

/// Relative error up to which a prediction counts as right.
pub const TOLERANCE: f64 = 0.15;

/// One published figure and what the model says.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which figure of the table.
    pub what: String,
    /// As published.
    pub published: f64,
    /// Of the model.
    pub predicted: f64,
    /// What the row was used for.
    pub role: Role,
    /// Half of the last digit that was published.
    pub resolution: f64,
    /// Why the prediction is off, where it is.
    pub reason: Option<&'static str>,
}

/// What a published row was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The model was fitted to it.
    Calibrates,
    /// Nothing of it went into the model.
    Predicted,
}

impl Row {
    fn new(what: impl Into<String>, published: f64, predicted: f64, role: Role) -> Self {
        Row {
            what: what.into(),
            published,
            predicted,
            role,
            resolution: 0.0,
            reason: None,
        }
    }

    /// With half of the last published digit.
    fn rounded_to(mut self, resolution: f64) -> Self {
        self.resolution = resolution;
        self
    }

    /// With the reason for a miss; none where it is hit.
    fn because(mut self, reason: Option<&'static str>) -> Self {
        self.reason = reason;
        self
    }

    /// Relative error.
    pub fn error(&self) -> f64 {
        self.predicted / self.published - 1.0
    }

    /// Whether the prediction is right: within the tolerance, or not to be told
    /// from the published figure, which was rounded.
    pub fn hit(&self) -> bool {
        self.error().abs() <= TOLERANCE
            || (self.predicted - self.published).abs() <= self.resolution
    }
}

/// A published table.
#[derive(Debug, Clone)]
pub struct Table {
    /// What it is about.
    pub title: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// How the model is calibrated and what it says.
    pub model: String,
    /// Unit of its figures.
    pub unit: &'static str,
    /// Its rows.
    pub rows: Vec<Row>,
}

impl Table {
    /// Predictions, and how many of them hit.
    pub fn score(&self) -> (usize, usize) {
        let predicted = self.rows.iter().filter(|r| r.role == Role::Predicted);
        (
            predicted.clone().count(),
            predicted.filter(|r| r.hit()).count(),
        )
    }
}

/// A figure with as many digits as the published ones have.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(
            f,
            "Published: {}.\n\nModelled: {}\n",
            self.source, self.model
        )?;
        writeln!(
            f,
            "| {} | published | modelled | error | |\n|---|---:|---:|---:|---|",
            self.unit
        )?;
        let mut reasons: Vec<&str> = Vec::new();
        for row in &self.rows {
            let note = match (row.role, row.reason) {
                (Role::Calibrates, _) => "calibrates".to_owned(),
                (Role::Predicted, None) => String::new(),
                (Role::Predicted, Some(reason)) => {
                    let known = reasons.iter().position(|r| *r == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("**off**, see ({})", number + 1)
                }
            };
            writeln!(
                f,
                "| {} | {} | {} | {:+.1} % | {note} |",
                row.what,
                figure(row.published),
                figure(row.predicted),
                row.error() * 100.0
            )?;
        }
        let (predicted, hit) = self.score();
        writeln!(
            f,
            "\n{hit} of {predicted} predicted rows are within {:.0} %.",
            TOLERANCE * 100.0
        )?;
        for (number, reason) in reasons.iter().enumerate() {
            writeln!(f, "\n({}) {reason}", number + 1)?;
        }
        Ok(())
    }
}

/// Every table. Simulating takes some seconds, once.
pub fn tables() -> &'static [Table] {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut all = vec![dd::table()];
        all.extend(sizes::tables());
        all.extend(contention::tables());
        all
    })
}

/// The tables as Markdown; `docs/model.md` contains just this.
pub fn report() -> String {
    let tables = tables();
    let total = tables.iter().map(Table::score);
    let (predicted, hit) = total.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let mut out = format!(
        "All figures in the column \"modelled\" are modelled. {hit} of {predicted} predicted rows \
         are within {:.0} % of the published figure; each of the others has its reason below its \
         table. A row that calibrates is no prediction, and its error says only how well the rows \
         agree with one another.\n",
        TOLERANCE * 100.0
    );
    for table in tables {
        out += &format!("\n{table}");
    }
    out += &format!("\n{}", contention::ours_beside_linux());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prediction_hits_or_says_why_not() {
        for table in tables() {
            let mut predicted = 0;
            for row in table.rows.iter().filter(|r| r.role == Role::Predicted) {
                predicted += 1;
                assert_eq!(
                    row.hit(),
                    row.reason.is_none(),
                    "{}: {} is {:+.1} % off",
                    table.title,
                    row.what,
                    row.error() * 100.0
                );
            }
            let calibrating = table.rows.len() - predicted;
            assert!(predicted >= calibrating, "{} is mostly fitted", table.title);
        }
    }

    #[test]
    fn a_miss_is_seen() {
        let miss = Row::new("a", 100.0, 116.0, Role::Predicted);
        assert!(!miss.hit());
        assert!(miss.clone().rounded_to(16.0).hit());
        assert!(Row::new("b", 100.0, 114.0, Role::Predicted).hit());
        let table = Table {
            title: "t",
            source: "s",
            model: "m".to_owned(),
            unit: "ns",
            rows: vec![miss.because(Some("why"))],
        };
        let text = table.to_string();
        assert!(text.contains("0 of 1 predicted rows"), "{text}");
        assert!(
            text.contains("| a | 100.0 | 116.0 | +16.0 % | **off**, see (1) |"),
            "{text}"
        );
        assert!(text.contains("(1) why"), "{text}");
    }

    #[test]
    fn the_document_holds_what_the_command_prints() {
        let document = include_str!("../../../docs/model.md");
        let between = document
            .split_once("<!-- check-model begins -->\n")
            .and_then(|(_, rest)| rest.split_once("<!-- check-model ends -->"))
            .map(|(table, _)| table);
        assert!(
            between == Some(&report()),
            "docs/model.md is out of date: put the output of `dmabench check-model` between its \
             two marks\n{}",
            report()
        );
    }
}
