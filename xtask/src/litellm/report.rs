//! The one table of a run.

use std::fmt::Write as _;

use super::row::Row;

const HEAD: [&str; 9] = [
    "LiteLLM",
    "max ms",
    "2xx %",
    "p50 ms",
    "p99 ms",
    "longest wait4 s",
    "ready after thaw s",
    "engines",
    "signals / rescues",
];

/// The table, as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let lines: Vec<[String; 9]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows.iter().map(cells))
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths
                .iter()
                .enumerate()
                .map(|(column, width)| {
                    if column == 0 {
                        "-".repeat(*width)
                    } else {
                        format!("{}:", "-".repeat(width - 1))
                    }
                })
                .collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

fn cells(row: &Row) -> [String; 9] {
    let figures = &row.figures;
    let guarded = row.grace_ms.is_some();
    [
        row.name.clone(),
        format!("{:.1}", figures.max_ms),
        format!("{:.2}", figures.ok_percent),
        format!("{:.1}", figures.p50_ms),
        format!("{:.1}", figures.p99_ms),
        format!("{:.2}", row.longest_wait_ms / 1e3),
        row.ready_after_thaw_s
            .map_or("never".into(), |seconds| format!("{seconds:.2}")),
        row.seen.engines.len().to_string(),
        if guarded {
            format!("{} / {}", row.actions(), row.rescues())
        } else {
            "-".into()
        },
    ]
}
