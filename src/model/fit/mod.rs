//! A profile from a few measured rows: how long one strict unmap takes, by size.
//!
//! The time of an unmap is taken as
//! `sync + commands x command + pages x page`: one wait, one invalidation command
//! for each that the size needs, and what is done for each 4 KiB (cache
//! maintenance of the buffer). Rows below one block (2 MiB) need as many commands
//! as pages, where there is no range invalidation; then only rows with blocks tell
//! the last two apart, and without such rows all of it is counted as command.

mod rows;
mod solve;

use std::fmt;

use dmabench_flushq::{HardwareCosts, RangeCommands, TlbRange, commands_for};
use dmabench_pgtable::Level;
use dmabench_platform::{Granule, Iova};

use super::{HardwareProfile, MemoryCosts};
use solve::{Equation, solve};

pub use rows::{FitError, FitInput, FitRow};

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;

/// Residual from which on rows are said to contradict each other.
const ERROR_MAX: f64 = 0.5;

/// What the rows say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitted {
    /// Nanoseconds of an unmap whatever its size.
    pub sync_ns: f64,
    /// Nanoseconds of each command.
    pub command_ns: f64,
    /// Nanoseconds of each 4 KiB.
    pub page_ns: f64,
    /// What the commands can express.
    pub range_commands: RangeCommands,
}

impl Fitted {
    /// Nanoseconds of an unmap of `size_bytes`.
    pub fn unmap_ns(&self, size_bytes: u64) -> f64 {
        let [one, commands, pages] = coefficients(size_bytes, self.range_commands);
        one * self.sync_ns + commands * self.command_ns + pages * self.page_ns
    }
}

/// Commands that a strict unmap of a contiguous, aligned buffer needs, with the
/// largest pages that fit.
pub(super) fn commands(size_bytes: u64, range_commands: RangeCommands) -> u64 {
    let range = |len_bytes: u64, level: i8| TlbRange {
        iova: Iova(0),
        len_bytes,
        granule: Granule::K4,
        level: Level::new(level),
        leaf_only: true,
    };
    let of = |len_bytes: u64, level: i8| {
        let count = commands_for(&range(len_bytes, level), range_commands);
        count.by_address + count.by_context
    };
    let blocks = size_bytes / BLOCK * BLOCK;
    let rest = (size_bytes - blocks).div_ceil(PAGE) * PAGE;
    let mut count = 0;
    if blocks > 0 {
        count += of(blocks, 2);
    }
    if rest > 0 || blocks == 0 {
        count += of(rest.max(PAGE), 3);
    }
    count
}

fn coefficients(size_bytes: u64, range_commands: RangeCommands) -> [f64; 3] {
    [
        1.0,
        commands(size_bytes, range_commands) as f64,
        size_bytes.div_ceil(PAGE) as f64,
    ]
}

/// Least squares of the relative errors.
///
/// # Errors
///
/// [`FitError`]: too few different sizes, or rows that contradict each other.
pub fn fit(rows: &[FitRow], range_commands: RangeCommands) -> Result<Fitted, FitError> {
    rows::check(rows)?;
    let equations: Vec<Equation> = (rows.iter())
        .map(|row| Equation {
            coefficients: coefficients(row.size_bytes, range_commands),
            value: row.unmap_ns,
        })
        .collect();
    let x = solve(&equations).ok_or(FitError::TooFew { sizes: 0 })?;
    let worst = (rows.iter().zip(&equations))
        .map(|(row, equation)| (row, equation.error(&x)))
        .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    if let Some((row, error)) = worst
        && error.abs() > ERROR_MAX
    {
        return Err(FitError::Contradictory {
            size_bytes: row.size_bytes,
            unmap_ns: row.unmap_ns,
            fitted_ns: row.unmap_ns * (1.0 + error),
        });
    }
    Ok(Fitted {
        sync_ns: x[0],
        command_ns: x[1],
        page_ns: x[2],
        range_commands,
    })
}

impl FitInput {
    /// The profile these rows make.
    ///
    /// # Errors
    ///
    /// As [`fit`].
    pub fn profile(&self) -> Result<(HardwareProfile, Fitted), FitError> {
        let fitted = fit(&self.rows, self.range_commands)?;
        let whole = |ns: f64| ns.round() as u64;
        let profile = HardwareProfile {
            name: self.name.clone(),
            description: format!("Fitted to {} measured rows", self.rows.len()),
            source: format!(
                "dmabench fit, from {} rows of strict unmaps; what the measuring kernel's own code \
                 took is contained",
                self.rows.len()
            ),
            costs: HardwareCosts {
                issue_ns: 0,
                doorbell_ns: 0,
                command_ns: whole(fitted.command_ns),
                sync_ns: whole(fitted.sync_ns),
                range_commands: self.range_commands,
            },
            memory: MemoryCosts {
                buffer_page_ns: whole(fitted.page_ns),
                ..MemoryCosts::COHERENT
            },
            cpu_time_factor: 1.0,
            device: None,
            field_sources: Vec::new(),
        };
        Ok((profile, fitted))
    }
}

/// The rows beside what the fit gives for them, for a reader; each line begins
/// with `#`, so that it may stand in a board file.
#[derive(Debug)]
pub struct Residuals<'a>(pub &'a FitInput, pub &'a Fitted);

impl fmt::Display for Residuals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Residuals(input, fitted) = self;
        writeln!(
            f,
            "# {:>12} {:>14} {:>14} {:>8}",
            "size, KiB", "measured, ns", "fitted, ns", "error"
        )?;
        for row in &input.rows {
            let value = fitted.unmap_ns(row.size_bytes);
            writeln!(
                f,
                "# {:>12} {:>14.0} {:>14.0} {:>+7.1}%",
                row.size_bytes as f64 / 1024.0,
                row.unmap_ns,
                value,
                (value / row.unmap_ns - 1.0) * 100.0
            )?;
        }
        let unknowns = [fitted.sync_ns, fitted.command_ns, fitted.page_ns];
        if unknowns.iter().filter(|x| **x > 0.0).count() >= input.rows.len() {
            writeln!(
                f,
                "# as many figures as rows: that they fit proves nothing; measure more sizes"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
