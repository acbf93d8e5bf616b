//! Least squares with few unknowns that cannot be negative.
//!
//! Rows span two orders of magnitude, so relative errors are made small: each
//! equation is divided by its right side. For a set of unknowns whose normal
//! equations are not singular their solution is *the* least-squares solution.
//! With the condition that no unknown is negative, the optimum has some set of
//! unknowns at zero and is the unconstrained optimum of the others (the
//! Karush-Kuhn-Tucker conditions of a convex problem); with at most three unknowns
//! there are seven such sets, and all of them are tried. So the result is exact,
//! and a library would add nothing.

/// Most unknowns.
pub(super) const UNKNOWNS: usize = 3;

/// One equation: the unknowns times these coefficients is `value`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Equation {
    pub(super) coefficients: [f64; UNKNOWNS],
    /// Positive.
    pub(super) value: f64,
}

impl Equation {
    pub(super) fn left(&self, x: &[f64; UNKNOWNS]) -> f64 {
        self.coefficients.iter().zip(x).map(|(c, x)| c * x).sum()
    }

    /// Relative error of `x` in this equation.
    pub(super) fn error(&self, x: &[f64; UNKNOWNS]) -> f64 {
        self.left(x) / self.value - 1.0
    }
}

/// The sets that are tried, the preferred first: where two explain the rows
/// equally well (unknowns that the rows cannot tell apart), the first is taken.
const SETS: [[bool; UNKNOWNS]; 7] = [
    [true, true, true],
    [true, true, false],
    [true, false, true],
    [false, true, true],
    [true, false, false],
    [false, true, false],
    [false, false, true],
];

/// The best unknowns, none negative. `None` if the equations determine nothing.
pub(super) fn solve(equations: &[Equation]) -> Option<[f64; UNKNOWNS]> {
    let residual =
        |x: &[f64; UNKNOWNS]| -> f64 { equations.iter().map(|e| e.error(x).powi(2)).sum() };
    let mut best: Option<([f64; UNKNOWNS], f64)> = None;
    for set in SETS {
        let count = set.iter().filter(|used| **used).count();
        if count > equations.len() {
            continue;
        }
        let Some(x) = solve_set(equations, set) else {
            continue;
        };
        if x.iter().any(|value| *value < 0.0) {
            continue;
        }
        let residual = residual(&x);
        // Rounding must not decide between two that are equally good.
        let margin = 1e-12 * equations.len() as f64;
        if best.is_none_or(|(_, least)| residual < least - margin) {
            best = Some((x, residual));
        }
    }
    best.map(|(x, _)| x)
}

/// The least-squares solution with the unknowns outside of `set` zero. `None`
/// where it is not unique.
fn solve_set(equations: &[Equation], set: [bool; UNKNOWNS]) -> Option<[f64; UNKNOWNS]> {
    // Each column is scaled to length 1, so that singular means singular.
    let mut scale = [0.0; UNKNOWNS];
    for equation in equations {
        for (scale, c) in scale.iter_mut().zip(equation.coefficients) {
            *scale += (c / equation.value).powi(2);
        }
    }
    let scale = scale.map(f64::sqrt);
    // Normal equations; an unknown outside of the set gets `x = 0`.
    let mut matrix = [[0.0; UNKNOWNS]; UNKNOWNS];
    let mut right = [0.0; UNKNOWNS];
    for row in 0..UNKNOWNS {
        if !set[row] {
            matrix[row][row] = 1.0;
            continue;
        }
        if scale[row] == 0.0 {
            return None;
        }
        for equation in equations {
            let scaled = |at: usize| equation.coefficients[at] / equation.value / scale[at];
            right[row] += scaled(row);
            for column in 0..UNKNOWNS {
                if set[column] && scale[column] > 0.0 {
                    matrix[row][column] += scaled(row) * scaled(column);
                }
            }
        }
    }
    let whole = determinant(&matrix);
    if whole.abs() < 1e-9 {
        return None;
    }
    let mut x = [0.0; UNKNOWNS];
    for unknown in 0..UNKNOWNS {
        if set[unknown] {
            let mut with_right = matrix;
            for row in 0..UNKNOWNS {
                with_right[row][unknown] = right[row];
            }
            x[unknown] = determinant(&with_right) / whole / scale[unknown];
        }
    }
    Some(x)
}

fn determinant(m: &[[f64; UNKNOWNS]; UNKNOWNS]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(points: &[([f64; UNKNOWNS], f64)]) -> Vec<Equation> {
        (points.iter())
            .map(|&(coefficients, value)| Equation {
                coefficients,
                value,
            })
            .collect()
    }

    #[test]
    fn unknowns_that_cannot_be_told_apart_go_to_the_first() {
        let same = rows(&[([1.0, 1.0, 1.0], 3.0), ([1.0, 9.0, 9.0], 19.0)]);
        let x = solve(&same).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-9 && (x[1] - 2.0).abs() < 1e-9 && x[2] == 0.0);
        let one = rows(&[([1.0, 4.0, 0.0], 8.0)]);
        assert_eq!(solve(&one).unwrap(), [8.0, 0.0, 0.0]);
        assert_eq!(solve(&rows(&[([0.0; 3], 1.0)])), None);
        assert_eq!(solve(&[]), None);
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(
            x in [0.0..1e5_f64, 0.0..1e4, 0.0..1e3],
            counts in prop::collection::vec((1..600_u32, 1..2000_u32), 4..12),
        ) {
            let rows: Vec<Equation> = (counts.iter())
                .map(|&(a, b)| [1.0, f64::from(a), f64::from(b)])
                .map(|c| Equation {
                    coefficients: c,
                    value: 1.0 + c[0] * x[0] + c[1] * x[1] + c[2] * x[2],
                })
                .collect();
            let found = solve(&rows).unwrap();
            prop_assert!(found.iter().all(|v| *v >= 0.0 && v.is_finite()));
            for row in &rows {
                // The rows fit exactly with `x[0] + 1`.
                prop_assert!(row.error(&found).abs() < 1e-4, "{found:?}");
            }
        }

        /// No other point is better: moves along each unknown and along random
        /// directions, none of them to below zero.
        #[test]
        fn nothing_nearby_is_better(
            points in prop::collection::vec((1..600_u32, 1..600_u32, 1.0..1e6_f64), 3..9),
            direction in [-1.0..1.0_f64, -1.0..1.0, -1.0..1.0],
            step in 1e-4..0.5_f64,
        ) {
            let rows: Vec<Equation> = (points.iter())
                .map(|&(a, b, value)| Equation {
                    coefficients: [1.0, f64::from(a), f64::from(b)],
                    value,
                })
                .collect();
            let sum = |x: &[f64; UNKNOWNS]| -> f64 {
                rows.iter().map(|r| r.error(x).powi(2)).sum()
            };
            let found = solve(&rows).unwrap();
            let mut other = found;
            for (value, direction) in other.iter_mut().zip(direction) {
                *value = (*value + direction * step * (value.abs() + 1.0)).max(0.0);
            }
            prop_assert!(sum(&other) >= sum(&found) - 1e-6 * sum(&found) - 1e-9);
        }
    }
}
