//! The table of rows, the confusion matrix, and the criteria.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::judge::{self, Detail, Grade, Verdict};
use super::row::{Environment, KINDS, Row};
use super::sight;
use super::truth::Truth;

/// One stall that was made and judged.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) row: &'static Row,
    pub(super) environment: Environment,
    pub(super) result: Outcome,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Judged(Box<(Truth, Verdict)>),
    /// This machine cannot make such a stall.
    LeftOut(String),
    /// It should have been able to.
    Failed(String),
}

/// A promise, and how far it is kept.
#[derive(Debug, Serialize)]
pub(super) struct Criterion {
    what: &'static str,
    figure: String,
    pub(super) kept: bool,
}

impl Played {
    fn judged(&self) -> Option<&(Truth, Verdict)> {
        match &self.result {
            Outcome::Judged(judged) => Some(judged),
            Outcome::LeftOut(_) | Outcome::Failed(_) => None,
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "case": self.row.case, "runtime": self.row.runtime.name(), "label": self.row.kind,
            "environment": self.environment.name(),
        });
        match &self.result {
            Outcome::Judged(judged) => {
                value["truth"] = serde_json::json!(judged.0);
                value["verdict"] = serde_json::json!(judged.1);
            }
            Outcome::LeftOut(reason) => value["left_out"] = serde_json::json!(reason),
            Outcome::Failed(reason) => value["failed"] = serde_json::json!(reason),
        }
        value
    }

    /// The row of the table.
    pub(super) fn cells(&self) -> [String; 7] {
        let mut cells = [
            self.row.name(),
            self.environment.name().into(),
            self.row.kind.into(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ];
        match &self.result {
            Outcome::LeftOut(reason) => {
                cells[3] = "LEFT OUT".into();
                cells[5].clone_from(reason);
            }
            Outcome::Failed(reason) => {
                cells[3] = "NOT MADE".into();
                cells[5].clone_from(reason);
            }
            Outcome::Judged(judged) => {
                let verdict = &judged.1;
                cells[3] = name_cell(verdict);
                cells[4] = verdict
                    .first_right_ms
                    .map_or(String::new(), |ms| format!("{ms:.0}"));
                cells[5] = verdict
                    .details
                    .iter()
                    .map(detail_text)
                    .collect::<Vec<_>>()
                    .join(", ");
                cells[6] = stack_cell(verdict);
            }
        }
        cells
    }
}

fn name_cell(verdict: &Verdict) -> String {
    let name = verdict.named.as_deref().unwrap_or("(nothing told)");
    match verdict.grade {
        Grade::Right => name.into(),
        Grade::Unknown => format!("{name} ?"),
        Grade::Wrong => {
            let all: Vec<String> = verdict
                .said
                .iter()
                .map(|said| format!("{} at {:.0}", said.kind, said.at_ms))
                .collect();
            format!("{name} WRONG ({})", all.join(", "))
        }
    }
}

fn detail_text(detail: &Detail) -> String {
    match detail.grade {
        Grade::Right => format!("{} ok", detail.what),
        Grade::Unknown => format!("{} missing", detail.what),
        Grade::Wrong => format!(
            "{} WRONG: {} instead of {}",
            detail.what,
            detail.shown.as_deref().unwrap_or("nothing"),
            detail.expected
        ),
    }
}

fn stack_cell(verdict: &Verdict) -> String {
    let found = verdict
        .frames
        .iter()
        .filter(|frame| frame.grade == Grade::Right)
        .count();
    let beyond = if verdict.frames.is_empty() {
        String::new()
    } else {
        format!(" (+{found}/{})", verdict.frames.len())
    };
    let line = match &verdict.stack {
        None => "-".into(),
        Some(stack) if stack.grade == Grade::Right => "ok".into(),
        Some(stack) if stack.grade == Grade::Unknown => "missing".into(),
        Some(stack) => detail_text(stack),
    };
    line + &beyond
}

/// All rows, as Markdown.
pub(super) fn table(all: &[Played]) -> String {
    let head = [
        "stall",
        "where",
        "label",
        "named",
        "right after ms",
        "details",
        "line",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(all.iter().map(Played::cells));
    markdown(&lines)
}

/// Of stalls that were not told rightly: what was missed, what procfs showed and what the agent said. What is wrong comes last: the
/// end of a long log is what is read.
pub(super) fn missed(all: &[Played]) -> String {
    let mut missed: Vec<(Grade, String)> = all.iter().filter_map(told_of_missed).collect();
    missed.sort_by_key(|(grade, _)| *grade == Grade::Wrong);
    missed.into_iter().map(|(_, text)| text).collect()
}

fn told_of_missed(one: &Played) -> Option<(Grade, String)> {
    let (truth, verdict) = one.judged()?;
    let parts: Vec<&Detail> = (verdict.details.iter())
        .chain(&verdict.stack)
        .filter(|detail| detail.grade != Grade::Right)
        .collect();
    let mut grades = parts.iter().map(|part| part.grade).chain([verdict.grade]);
    let grade = grades.clone().find(|grade| *grade == Grade::Wrong);
    let grade = grade.or_else(|| grades.find(|grade| *grade == Grade::Unknown))?;
    let mut text = format!(
        "{}, {}: {}, named {}",
        one.row.name(),
        one.environment.name(),
        one.row.kind,
        name_cell(verdict)
    );
    for part in parts {
        text += ", ";
        text += &detail_text(part);
    }
    text += "; 700 ms into it procfs showed\n";
    text += &sight::shown(truth, &truth.seen);
    text += &judge::said_text(verdict);
    Some((grade, text))
}

/// How often each label got each name, as Markdown; the last column is for stalls that were never told of.
pub(super) fn matrix(all: &[Played]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (row, (_, verdict)) in all.iter().filter_map(|one| Some((one.row, one.judged()?))) {
        let named = verdict.named.as_deref().unwrap_or("not told");
        *counts.entry((row.kind, named)).or_default() += 1;
    }
    let columns: Vec<&str> = KINDS.iter().copied().chain(["not told"]).collect();
    let mut lines = vec![
        std::iter::once("label \\ named")
            .chain(columns.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<String>>(),
    ];
    for kind in KINDS {
        let cells = columns.iter().map(|named| {
            counts
                .get(&(kind, *named))
                .map_or(".".to_owned(), ToString::to_string)
        });
        lines.push(std::iter::once(kind.to_owned()).chain(cells).collect());
    }
    markdown(&lines)
}

/// What was promised, and whether it is kept.
pub(super) fn criteria(all: &[Played], must_run_all: bool) -> Vec<Criterion> {
    let judged: Vec<&(Truth, Verdict)> = all.iter().filter_map(Played::judged).collect();
    let names = Grades::of(judged.iter().map(|one| one.1.grade));
    let details = Grades::of(
        judged
            .iter()
            .flat_map(|one| &one.1.details)
            .map(|detail| detail.grade),
    );
    let stacks = Grades::of(
        judged
            .iter()
            .filter_map(|one| Some(one.1.stack.as_ref()?.grade)),
    );
    let count = |wanted: fn(&Outcome) -> bool| all.iter().filter(|one| wanted(&one.result)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let left_out = count(|outcome| matches!(outcome, Outcome::LeftOut(_)));
    let criterion = |what, figure: String, kept| Criterion { what, figure, kept };
    vec![
        criterion(
            "stalls named wrongly: none",
            names.shown(),
            names.wrong == 0,
        ),
        criterion(
            "stalls named `unknown` or not at all: at most 5 %",
            names.shown(),
            names.few_unknown(),
        ),
        criterion(
            "details shown wrongly: none",
            details.shown(),
            details.wrong == 0,
        ),
        criterion(
            "details missing: at most 5 %",
            details.shown(),
            details.few_unknown(),
        ),
        criterion(
            "innermost Python line of stalls above 300 ms: all right",
            stacks.shown(),
            stacks.right == stacks.all() && stacks.all() > 0,
        ),
        criterion(
            "stalls that could not be made: none",
            failed.to_string(),
            failed == 0,
        ),
        criterion(
            "left out here: none where everything has to run",
            left_out.to_string(),
            left_out == 0 || !must_run_all,
        ),
    ]
}

#[derive(Debug, Default)]
struct Grades {
    right: usize,
    unknown: usize,
    wrong: usize,
}

impl Grades {
    fn of(grades: impl Iterator<Item = Grade>) -> Self {
        grades.fold(Self::default(), |mut sum, grade| {
            match grade {
                Grade::Right => sum.right += 1,
                Grade::Unknown => sum.unknown += 1,
                Grade::Wrong => sum.wrong += 1,
            }
            sum
        })
    }

    fn all(&self) -> usize {
        self.right + self.unknown + self.wrong
    }

    fn few_unknown(&self) -> bool {
        self.unknown * 20 <= self.all()
    }

    fn shown(&self) -> String {
        format!(
            "{} of {} right, {} unknown, {} wrong",
            self.right,
            self.all(),
            self.unknown,
            self.wrong
        )
    }
}

/// The criteria as lines.
pub(super) fn shown(criteria: &[Criterion]) -> String {
    let mut text = String::new();
    for criterion in criteria {
        let kept = if criterion.kept { "ok    " } else { "MISSED" };
        let _ = writeln!(text, "{kept} {}: {}", criterion.what, criterion.figure);
    }
    text
}

fn markdown<Line: AsRef<[String]>>(lines: &[Line]) -> String {
    let columns = lines.first().map_or(0, |line| line.as_ref().len());
    let width = |column: usize| {
        let cells = lines
            .iter()
            .map(|line| line.as_ref()[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let padded = line.as_ref().iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "| {} |", padded.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::row::Runtime;

    static ROW: Row = Row::new("sleep", Runtime::Native, "sleep_c", &[]);

    fn judged(named: &str, grade: Grade) -> Played {
        let verdict = Verdict {
            named: Some(named.into()),
            grade,
            said: Vec::new(),
            first_right_ms: None,
            details: Vec::new(),
            stack: None,
            lines: Vec::new(),
            frames: Vec::new(),
        };
        Played {
            row: &ROW,
            environment: Environment::Open,
            result: Outcome::Judged(Box::new((Truth::default(), verdict))),
        }
    }

    fn missed(all: &[Played], must_run_all: bool) -> Vec<&'static str> {
        criteria(all, must_run_all)
            .into_iter()
            .filter(|criterion| !criterion.kept && !criterion.what.starts_with("innermost"))
            .map(|criterion| criterion.what)
            .collect()
    }

    #[test]
    fn one_wrong_name_is_too_many_and_one_unknown_in_twenty_is_not() {
        let mut all: Vec<Played> = (0..19).map(|_| judged("sleep", Grade::Right)).collect();
        all.push(judged("unknown", Grade::Unknown));
        assert!(missed(&all, true).is_empty());
        all.push(judged("unknown", Grade::Unknown));
        assert_eq!(
            missed(&all, true),
            ["stalls named `unknown` or not at all: at most 5 %"]
        );
        all.remove(20);
        all.push(judged("cpu_busy", Grade::Wrong));
        assert_eq!(missed(&all, true), ["stalls named wrongly: none"]);
    }

    #[test]
    fn what_is_left_out_counts_where_everything_has_to_run() {
        let out = Played {
            result: Outcome::LeftOut("no swap".into()),
            ..judged("", Grade::Right)
        };
        let all = [judged("sleep", Grade::Right), out];
        assert!(missed(&all, false).is_empty());
        assert_eq!(missed(&all, true).len(), 1);
    }

    #[test]
    fn the_matrix_counts_names_by_label() {
        let all = [
            judged("sleep", Grade::Right),
            judged("cpu_busy", Grade::Wrong),
        ];
        let text = matrix(&all);
        let row = text
            .lines()
            .find(|line| line.starts_with("| sleep"))
            .unwrap();
        assert_eq!(row.matches(" 1 ").count(), 2, "{text}");
    }
}
