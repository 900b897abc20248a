//! The result for people: each incident with two columns, what was and what would have been.

use std::fmt::Write as _;
use std::time::Duration;

use super::read::Found;
use crate::pipeline::replay::{
    Action, Basis, Blocked, Incident, Lag, Replayed, Report, Side, Totals,
};
use crate::pipeline::story::Done;

/// Width of the left column.
const LEFT: usize = 42;

pub(super) fn page(found: &Found, report: &Report, configuration: &str) -> String {
    let mut page = String::new();
    for replayed in &report.incidents {
        if let Some(one) = found.incidents.get(replayed.index) {
            incident(&mut page, one, replayed);
        }
    }
    let (old, new) = Totals::of(&report.incidents);
    row(&mut page, "", "recorded", configuration);
    let lines = [
        ("stalls", old.stalls.to_string(), new.stalls.to_string()),
        ("sent", old.sent.to_string(), new.sent.to_string()),
        (
            "not sent",
            old.would_send.to_string(),
            new.would_send.to_string(),
        ),
        ("refused", old.refused.to_string(), new.refused.to_string()),
        ("blocked", length(&old.blocked), length(&new.blocked)),
    ];
    for (name, old, new) in lines {
        row(&mut page, name, &old, &new);
    }
    page.push('\n');
    footnotes(&mut page, report);
    page
}

fn incident(page: &mut String, incident: &Incident, replayed: &Replayed) {
    let _ = writeln!(
        page,
        "{}  {}  {}[{}]  {}",
        incident.id,
        incident.began,
        printable(&incident.exe),
        incident.pid,
        incident.cause.name()
    );
    let old = &replayed.old;
    match &replayed.new {
        None => {
            row(page, "done", &done(incident, old, 0), "not replayable");
            row(page, "blocked", &length(&old.blocked), "");
        }
        Some(new) => {
            for index in 0..old.actions.len().max(new.actions.len()).max(1) {
                let name = if index == 0 { "done" } else { "" };
                row(
                    page,
                    name,
                    &done(incident, old, index),
                    &done(incident, new, index),
                );
            }
            let now = if new.reported {
                length(&new.blocked)
            } else {
                format!("{} (no stall any more)", length(&new.blocked))
            };
            row(page, "blocked", &length(&old.blocked), &now);
        }
    }
    for note in &replayed.notes {
        let _ = writeln!(page, "  note: {}", printable(note));
    }
    page.push('\n');
}

fn row(page: &mut String, name: &str, left: &str, right: &str) {
    let line = format!("  {name:<9} {left:<LEFT$} {right}");
    page.push_str(line.trim_end());
    page.push('\n');
}

fn done(incident: &Incident, side: &Side, index: usize) -> String {
    match side.actions.get(index) {
        Some(action) => sentence(incident, action),
        None if index == 0 => "nothing".into(),
        None => String::new(),
    }
}

fn sentence(incident: &Incident, action: &Action) -> String {
    let signal = action.signal.name();
    let after = format!("after {}", span(action.at.since(incident.since)));
    match (action.outcome, action.refused_by) {
        (Done::Sent, _) => format!("{signal} {after}"),
        (Done::WouldSend, _) => format!("would send {signal} {after}"),
        (Done::Refused, Some(refusal)) => format!("{signal} refused {after}: {}", refusal.name()),
        (Done::Refused, None) => format!("{signal} refused {after}"),
        (Done::Failed, _) => format!("{signal} failed {after}"),
        (Done::Gone, _) => format!("{signal} {after}: the child was gone"),
        (Done::Ineffective, _) => format!("{signal} ineffective {after}"),
    }
}

fn length(blocked: &Blocked) -> String {
    let about = match blocked.basis {
        Basis::Recorded => "",
        Basis::Measured | Basis::Assumed => "about ",
    };
    let least = blocked.at_least;
    match blocked.at_most {
        Some(most) if most.saturating_sub(least) < Duration::from_micros(100) => {
            format!("{about}{}", span(least))
        }
        Some(most) => format!("{about}{} to {}", span(least), span(most)),
        None => format!("at least {about}{}", span(least)),
    }
}

fn span(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1000.0;
    if ms < 10_000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.1} s", span.as_secs_f64())
    }
}

fn footnotes(page: &mut String, report: &Report) {
    let check = &report.check;
    let _ = writeln!(
        page,
        "With the recorded configuration the replay gives the recorded actions: {} of {} incidents (moments within {}).",
        check.same,
        check.of,
        span(check.largest_shift)
    );
    if !check.differing.is_empty() {
        let _ = writeln!(page, "It does not in: {}", check.differing.join(", "));
    }
    for gap in &report.gaps {
        let _ = writeln!(page, "Not known: {gap}.");
    }
    let used = report.incidents.iter().filter_map(|one| one.new.as_ref());
    if used
        .into_iter()
        .any(|new| new.blocked.basis != Basis::Recorded)
    {
        let (exit, poll) = (&report.lags.exit, &report.lags.poll);
        let _ = writeln!(
            page,
            "\"About\": a child's end is taken to come {} after its signal ({}), and the loop's poll {} after that ({}).",
            span(exit.span),
            origin(exit),
            span(poll.span),
            origin(poll)
        );
    }
}

fn origin(lag: &Lag) -> String {
    match lag.measured {
        0 => "assumed: no kill is recorded here".into(),
        count => format!("median of {count} recorded here"),
    }
}

/// An executable may be named with anything, line ends and escape codes included.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}
