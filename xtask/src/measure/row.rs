//! One line of the table: a figure, and the limit it has to keep.

use std::fmt::Write as _;

use serde::Serialize;

/// How many times a limit a short run may take: the machine is shared, and its runs are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// The limits themselves.
    Exact,
    /// Limits times the row's own factor.
    Generous,
}

/// A limit from above.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Limit {
    at_most: f64,
    /// Factor in a generous run; 1 where noise is no excuse.
    generous: f64,
}

impl Limit {
    /// A limit that load from others can spoil.
    pub(super) const fn noisy(at_most: f64, generous: f64) -> Self {
        Self { at_most, generous }
    }

    /// A limit that holds on any machine.
    pub(super) const fn always(at_most: f64) -> Self {
        Self::noisy(at_most, 1.0)
    }

    fn factor(self, strictness: Strictness) -> f64 {
        match strictness {
            Strictness::Exact => 1.0,
            Strictness::Generous => self.generous,
        }
    }
}

/// A figure of a measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    pub(super) limit: Option<Limit>,
    /// What else a reader needs to judge the figure.
    pub(super) note: String,
}

impl Row {
    pub(super) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            limit: None,
            note: String::new(),
        }
    }

    pub(super) fn limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether it keeps its limit; `None` without one. A figure that could not be taken keeps none.
    pub(super) fn kept(&self, strictness: Strictness) -> Option<bool> {
        let limit = self.limit?;
        Some(self.value <= limit.at_most * limit.factor(strictness))
    }
}

/// Columns that are set to the right.
const NUMBERS: [usize; 2] = [1, 2];

/// The table, as Markdown.
pub(super) fn table(rows: &[Row], strictness: Strictness) -> String {
    let mut lines = vec![["measured", "figure", "limit", "kept", "note"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| cells(row, strictness)));
    let widths: [usize; 5] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let padded = line.iter().zip(widths).enumerate();
        let padded = padded.map(|(column, (cell, width))| {
            if NUMBERS.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let _ = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(column, width)| {
                if NUMBERS.contains(&column) {
                    format!("{}:", "-".repeat(width - 1))
                } else {
                    "-".repeat(*width)
                }
            });
            let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

fn cells(row: &Row, strictness: Strictness) -> [String; 5] {
    let limit = row.limit.map_or(String::new(), |limit| {
        let factor = limit.factor(strictness);
        if factor > 1.0 {
            format!("{} × {factor}", number(limit.at_most))
        } else {
            number(limit.at_most)
        }
    });
    let result = match row.kept(strictness) {
        Some(true) => "ok",
        Some(false) => "MISSED",
        None => "",
    };
    [
        row.what.clone(),
        format!("{} {}", number(row.value), row.unit)
            .trim_end()
            .to_owned(),
        limit,
        result.to_owned(),
        row.note.clone(),
    ]
}

/// Whole numbers as such, small ones with the digits that can be told apart.
fn number(value: f64) -> String {
    if !value.is_finite() {
        "none".into()
    } else if value.fract() == 0.0 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_or_missed_and_generosity_counts_only_where_it_is_given() {
        let row = |value, limit| Row {
            limit,
            ..Row::new("x", value, "ms")
        };
        let noisy = Some(Limit::noisy(10.0, 5.0));
        let cases = [
            (row(10.0, noisy), Some(true), Some(true)),
            (row(10.1, noisy), Some(false), Some(true)),
            (row(50.1, noisy), Some(false), Some(false)),
            (row(1.0, Some(Limit::always(0.0))), Some(false), Some(false)),
            (row(f64::NAN, noisy), Some(false), Some(false)),
            (row(1.0, None), None, None),
        ];
        for (row, exact, generous) in cases {
            assert_eq!(row.kept(Strictness::Exact), exact, "{row:?}");
            assert_eq!(row.kept(Strictness::Generous), generous, "{row:?}");
        }
    }

    #[test]
    fn the_table_names_the_factor_and_the_result() {
        let rows = [Row::new("late", 12.345, "ms")
            .limit(Limit::noisy(10.0, 5.0))
            .note("n = 3")];
        let text = table(&rows, Strictness::Generous);
        assert!(
            text.contains("| late     | 12.35 ms | 10 × 5 | ok   | n = 3 |"),
            "{text}"
        );
        assert!(table(&rows, Strictness::Exact).contains("MISSED"));
    }
}
