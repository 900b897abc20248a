//! The table of incidents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::race;
use super::words::{clean, outcome, short, span};
use crate::export::journal::Aggregate;
use crate::export::journal::read::Contents;
use crate::pipeline::CauseKind;
use crate::pipeline::engines::record::RaceRecord;
use crate::pipeline::record::{IncidentRecord, Who};

const HEAD: [&str; 7] = [
    "TIME (UTC)",
    "ID",
    "TARGET",
    "PROCESS",
    "BLOCKED",
    "CAUSE",
    "OUTCOME",
];
/// Longest cell; a longer one ends in `…`.
const CELL: usize = 40;

/// The table, newest last, and what was only counted.
pub(super) fn list(
    contents: &Contents,
    records: &[&IncidentRecord],
    races: &[&RaceRecord],
    counts: &[&Aggregate],
) -> String {
    let mut text = String::new();
    if records.is_empty() && races.is_empty() {
        text.push_str("no incidents\n");
    } else {
        let head = HEAD.map(str::to_owned);
        let stalls = records
            .iter()
            .map(|record| (record.began, row(record, contents.unfinished(record))));
        let races = races.iter().map(|race| (race.began, race_row(race)));
        let mut rows: Vec<_> = stalls.chain(races).collect();
        rows.sort_by_key(|(began, _)| *began);
        let rows = rows.into_iter().map(|(_, row)| row);
        table(
            &std::iter::once(head).chain(rows).collect::<Vec<_>>(),
            &mut text,
        );
    }
    counted(counts, &mut text);
    text
}

fn row(record: &IncidentRecord, unfinished: bool) -> [String; 7] {
    let time = record.began.to_string();
    let least = if record.began_earlier || record.outcome.is_none() {
        "> "
    } else {
        ""
    };
    [
        format!("{} {}", &time[..10], &time[11..23]),
        record.incident.to_string(),
        clean(&record.who.target),
        whose(&record.who),
        format!("{least}{}", span(record.busy())),
        short(&record.cause),
        outcome(record, unfinished).to_owned(),
    ]
}

/// The process, and its pod where that is known: the id of a process says little of a container.
fn whose(who: &Who) -> String {
    let process = format!("{}[{}]", clean(&who.exe), who.pid);
    who.pod.as_ref().map_or(process.clone(), |pod| {
        format!("{process} {}/{}", clean(&pod.namespace), clean(&pod.name))
    })
}

fn race_row(record: &RaceRecord) -> [String; 7] {
    let time = record.began.to_string();
    [
        format!("{} {}", &time[..10], &time[11..23]),
        record.incident.to_string(),
        clean(&record.who.target),
        whose(&record.who),
        // The loop ran all the time.
        span(record.lasted),
        race::cause(record),
        race::outcome(record).to_owned(),
    ]
}

fn table(rows: &[[String; 7]], text: &mut String) {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| shorten(cell)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Lengths of time stand under each other at their end.
            let _ = if HEAD[column] == "BLOCKED" {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn shorten(cell: &str) -> String {
    if cell.chars().count() <= CELL {
        return cell.to_owned();
    }
    cell.chars().take(CELL - 1).chain(['…']).collect()
}

fn counted(counts: &[&Aggregate], text: &mut String) {
    let mut sums: BTreeMap<(&str, CauseKind, &str), (u64, Duration, Duration)> = BTreeMap::new();
    for sum in counts {
        let (count, total, max) = sums.entry((&sum.target, sum.cause, &sum.line)).or_default();
        *count += sum.count;
        *total += sum.total;
        *max = (*max).max(sum.max);
    }
    if !sums.is_empty() {
        text.push_str("\nshort ones like these that were only counted:\n");
    }
    for ((target, cause, line), (count, total, max)) in sums {
        let place = if line.is_empty() {
            String::new()
        } else {
            format!(" at {}", clean(line))
        };
        let _ = writeln!(
            text,
            "{count:>7} x {}: {}{place}, {} in all, longest {}",
            clean(target),
            cause.name(),
            span(total),
            span(max)
        );
    }
}
