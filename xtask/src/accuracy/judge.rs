//! Compares what the agent's lines say of one stall with the truth. Pure.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::row::Row;
use super::truth::{Frame, Truth};
use crate::measure::agent::Line;

/// A wrong name before this moment of the stall is no mistake yet: nothing can be measured over a shorter time.
const SETTLED_MS: f64 = 300.0;
/// Python stalls longer than this have to show their line.
const STACK_MS: f64 = 300.0;
/// A stall that the agent tells of and that shares less than this with the labelled one is another.
const SHARED_MS: f64 = 100.0;

/// From the end of what the label is about to the loop's poll.
const CLOSES_MS: f64 = 100.0;

/// What one line says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Said {
    /// From the beginning of the stall on.
    pub(super) at_ms: f64,
    pub(super) kind: String,
}

/// One thing that was compared beside the name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Detail {
    pub(super) what: &'static str,
    pub(super) expected: String,
    /// What was shown, if anything was.
    pub(super) shown: Option<String>,
    pub(super) grade: Grade,
}

/// How something shown compares with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Right,
    /// `unknown`, or nothing shown.
    Unknown,
    Wrong,
}

/// What the agent said of the stall.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Verdict {
    /// The last name while it lasted; none if the agent never told of the stall.
    pub(super) named: Option<String>,
    pub(super) grade: Grade,
    pub(super) said: Vec<Said>,
    pub(super) first_right_ms: Option<f64>,
    pub(super) details: Vec<Detail>,
    /// The Python stack, where one has to be shown.
    pub(super) stack: Option<Detail>,
    /// The agent's lines about it.
    pub(super) lines: Vec<Value>,
    /// Where the stack is not a criterion, or beyond its innermost frame.
    pub(super) frames: Vec<Detail>,
}

/// Compares.
pub(super) fn judge(row: &Row, truth: &Truth, lines: &[Line]) -> Verdict {
    let lines = while_it_lasts(truth, of_stall(truth, lines));
    let said: Vec<Said> = lines
        .iter()
        .map(|line| Said {
            at_ms: ms_since(truth.began.at_ns, line.number("mono_ns")),
            kind: text(&line.value["cause"]["kind"]).unwrap_or_default(),
        })
        .collect();
    // The closing line repeats the cause; it counts as a line, not as the name given in time.
    let in_time = lines.iter().rposition(|line| !line.is("stall_closed"));
    let named = in_time.map(|index| said[index].kind.clone());
    let cause = in_time.map_or(&Value::Null, |index| &lines[index].value["cause"]);
    let right = |said: &&Said| said.kind == row.kind;
    Verdict {
        grade: grade(row, named.as_deref(), &said),
        first_right_ms: said.iter().find(right).map(|said| said.at_ms),
        details: details(row, truth, cause),
        stack: stack(row, truth, &lines),
        frames: frames(truth, &lines),
        lines: lines.iter().map(|line| line.value.clone()).collect(),
        named,
        said,
    }
}

/// Leaves out what is said of the time before it and after it: the process may do something else in the same iteration, before it
/// stalls and before it polls. The closing line comes after the end by nature.
fn while_it_lasts<'a>(truth: &Truth, lines: Vec<&'a Line>) -> Vec<&'a Line> {
    let is_of_it = |line: &Line| {
        let at = line.number("mono_ns");
        let limit_ms = if line.is("stall_closed") {
            CLOSES_MS
        } else {
            0.0
        };
        at >= truth.began.at_ns && ms_since(truth.ended.at_ns, at) <= limit_ms
    };
    lines.into_iter().filter(|line| is_of_it(line)).collect()
}

fn grade(row: &Row, named: Option<&str>, said: &[Said]) -> Grade {
    let wrong =
        |said: &Said| said.at_ms >= SETTLED_MS && said.kind != row.kind && said.kind != "unknown";
    match named {
        Some(name) if name != row.kind && name != "unknown" => Grade::Wrong,
        _ if said.iter().any(wrong) => Grade::Wrong,
        Some(name) if name == row.kind => Grade::Right,
        _ => Grade::Unknown,
    }
}

/// The lines of the incident that covers most of the stall.
fn of_stall<'a>(truth: &Truth, lines: &'a [Line]) -> Vec<&'a Line> {
    let mut incidents: Vec<(&str, Vec<&Line>)> = Vec::new();
    for line in lines.iter().filter(|line| line.pid() == truth.pid) {
        let is_stall = ["stall_opened", "stall_updated", "stall_closed"]
            .iter()
            .any(|kind| line.is(kind));
        let (true, Some(id)) = (is_stall, line.value["incident"].as_str()) else {
            continue;
        };
        match incidents.iter_mut().find(|(known, _)| *known == id) {
            Some((_, lines)) => lines.push(line),
            None => incidents.push((id, vec![line])),
        }
    }
    incidents
        .into_iter()
        .map(|(_, lines)| (shared_ms(truth, &lines), lines))
        .filter(|(shared, _)| *shared >= SHARED_MS)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, lines)| lines)
        .unwrap_or_default()
}

/// How much of the labelled stall an incident covers.
fn shared_ms(truth: &Truth, lines: &[&Line]) -> f64 {
    let began = truth.began.at_ns;
    let Some(last) = lines.last() else { return 0.0 };
    let to = ms_since(began, last.number("mono_ns"));
    let from = to - last.value["busy_ms"].as_f64().unwrap_or(0.0);
    to.min(truth.length_ms()) - from.max(0.0)
}

fn details(row: &Row, truth: &Truth, cause: &Value) -> Vec<Detail> {
    let began = &truth.began;
    let mut details = Vec::new();
    if !row.calls.is_empty() {
        // A bare number misleads nobody, and tells nobody anything.
        let shown = text(&cause["syscall"]).filter(|call| !call.starts_with("syscall_"));
        let fits = shown
            .as_deref()
            .is_some_and(|call| row.calls.contains(&call));
        details.push(detail("syscall", row.calls.join("|"), shown, fits));
    }
    let id = |value: &Value| value.as_u64().map(|id| id.to_string());
    let expected = [
        (
            "child",
            began.child.map(|id| id.to_string()),
            id(&cause["child"]["pid"]),
        ),
        ("peer", began.peer.clone(), text(&cause["peer"])),
        ("file", began.file.clone(), text(&cause["file"])),
        (
            "holder",
            began.holder.map(|id| id.to_string()),
            id(&cause["holder_pid"]),
        ),
    ];
    for (what, expected, shown) in expected {
        match (expected, shown) {
            (Some(expected), shown) => {
                let fits = shown.as_ref() == Some(&expected);
                details.push(detail(what, expected, shown, fits));
            }
            // Something is named that has no part in this stall.
            (None, Some(shown)) if what == "child" || what == "peer" => {
                details.push(detail(what, "none".into(), Some(shown), false));
            }
            (None, _) => {}
        }
    }
    details
}

fn detail(what: &'static str, expected: String, shown: Option<String>, fits: bool) -> Detail {
    let grade = match (&shown, fits) {
        (_, true) => Grade::Right,
        (None, false) => Grade::Unknown,
        (Some(_), false) => Grade::Wrong,
    };
    Detail {
        what,
        expected,
        shown,
        grade,
    }
}

/// The innermost Python frame of every stack that was shown; one wrong stack is wrong.
fn stack(row: &Row, truth: &Truth, lines: &[&Line]) -> Option<Detail> {
    if !row.runtime.is_python() || truth.began.anywhere || truth.length_ms() <= STACK_MS {
        return None;
    }
    let expected = truth.began.frames.first().map_or("?".into(), frame_text);
    let innermost: Vec<Frame> = stacks(lines)
        .filter_map(|stack| stack.into_iter().find(is_python))
        .collect();
    let fits = |shown: &&Frame| truth.began.frames.iter().any(|frame| same(frame, shown));
    let shown = innermost
        .iter()
        .find(|shown| !fits(shown))
        .or(innermost.last());
    Some(detail(
        "stack",
        expected,
        shown.map(frame_text),
        shown.is_some_and(|shown| fits(&shown)),
    ))
}

/// The frames that the last stack has to hold, wherever.
fn frames(truth: &Truth, lines: &[&Line]) -> Vec<Detail> {
    let last = stacks(lines).last().unwrap_or_default();
    let found = |frame: &Frame| {
        let shown = last.iter().find(|shown| same(frame, shown));
        let grade = if shown.is_some() {
            Grade::Right
        } else {
            Grade::Unknown
        };
        Detail {
            what: "outer frame",
            expected: frame_text(frame),
            shown: shown.map(frame_text),
            grade,
        }
    };
    let native = truth.began.native.as_ref().map(|name| {
        let shown = last
            .iter()
            .find(|shown| shown.function.contains(name.as_str()));
        Detail {
            what: "native frame",
            expected: name.clone(),
            shown: shown.map(|shown| shown.function.clone()),
            grade: if shown.is_some() {
                Grade::Right
            } else {
                Grade::Unknown
            },
        }
    });
    let outer = truth.began.outer.iter().map(found);
    outer.chain(native).collect()
}

/// One line for each of the agent's lines: when it came, what it named, and its stack.
pub(super) fn said_text(verdict: &Verdict) -> String {
    let stack = |line: &Value| -> String {
        let frames = line["stack"].as_array().into_iter().flatten().map(frame);
        let frames: Vec<String> = frames.map(|frame| frame_text(&frame)).collect();
        frames.join(" < ")
    };
    let mut text = String::new();
    for (said, line) in verdict.said.iter().zip(&verdict.lines) {
        let _ = writeln!(
            text,
            "    at {:.0} ms it said {}, stack: {}",
            said.at_ms,
            said.kind,
            stack(line)
        );
    }
    text
}

fn stacks<'a>(lines: &'a [&'a Line]) -> impl Iterator<Item = Vec<Frame>> + 'a {
    lines.iter().filter_map(|line| {
        let stack = line.value["stack"].as_array()?;
        let frames: Vec<Frame> = stack.iter().map(frame).collect();
        (!frames.is_empty()).then_some(frames)
    })
}

fn frame(value: &Value) -> Frame {
    Frame {
        function: text(&value["function"]).unwrap_or_default(),
        file: text(&value["file"]).unwrap_or_default(),
        line: value["line"].as_u64().unwrap_or(0),
    }
}

#[expect(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "Python's own names for its source files"
)]
fn is_python(frame: &Frame) -> bool {
    frame.file.ends_with(".py")
}

/// Newer Pythons know a function's qualified name, older ones its plain one.
fn same(frame: &Frame, shown: &Frame) -> bool {
    let plain = shown.function.rsplit('.').next();
    plain == Some(&frame.function) && shown.file == frame.file && shown.line == frame.line
}

fn frame_text(frame: &Frame) -> String {
    format!("{} {}:{}", frame.function, frame.file, frame.line)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn ms_since(from_ns: u64, to_ns: u64) -> f64 {
    crate::measure::sys::ms_between(from_ns, to_ns)
}

#[cfg(test)]
mod tests;
