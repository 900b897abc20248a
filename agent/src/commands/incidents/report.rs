//! One incident as a document: what happened, when, why, what was done, and what is not known.

use std::fmt::Write as _;
use std::time::Duration;

use super::questions::questions;
use super::render::Block;
use super::why::{teller, why};
use super::words::{Style, clean, doing, frame, outcome, process, span};
use crate::pipeline::liveness::Outlook;
use crate::pipeline::record::{Action, InForce, IncidentRecord, What};
use crate::pipeline::stamp::Stamp;
use crate::pipeline::{ChildCause, EndedBy, GraceReason, Mode};

/// The document of a record. `unfinished`: the agent ended while it lasted.
pub(super) fn report(record: &IncidentRecord, unfinished: bool, style: Style) -> Vec<Block> {
    let mut blocks = vec![
        Block::Title(title(record, style)),
        Block::Text(summary(record, unfinished, style)),
        Block::Section("Timeline"),
        Block::Table(vec!["time (UTC)", "after", "what"], timeline(record, style)),
        Block::Section("Impact"),
        Block::List(impact(record, unfinished, style)),
        Block::Section("Cause"),
    ];
    why(record, style, &mut blocks);
    blocks.push(Block::Section("Actions"));
    blocks.push(actions(record, style));
    blocks.push(Block::Section("Configuration in force"));
    blocks.push(Block::List(in_force(&record.settings)));
    let open = questions(record, unfinished, style);
    if !open.is_empty() {
        blocks.push(Block::Section("Open questions"));
        blocks.push(Block::List(open));
    }
    blocks
}

fn title(record: &IncidentRecord, style: Style) -> String {
    format!(
        "Incident {}: the event loop of {} was blocked {}",
        record.incident,
        style.name(&record.who.exe),
        length(record)
    )
}

fn length(record: &IncidentRecord) -> String {
    let least = if record.began_earlier || record.outcome.is_none() {
        "for at least"
    } else {
        "for"
    };
    format!("{least} {}", span(record.busy()))
}

fn summary(record: &IncidentRecord, unfinished: bool, style: Style) -> String {
    let who = &record.who;
    let time = record.began.to_string();
    let mut text = format!(
        "On {} at {} UTC the event loop of {} of the target {}{} stopped polling {}: it {}.",
        &time[..10],
        &time[11..23],
        process(style, &who.exe, who.pid),
        style.name(&who.target),
        who.pod.as_ref().map_or_else(String::new, |pod| {
            format!(" in the pod {}", style.name(&pod.to_string()))
        }),
        length(record),
        doing(style, &record.cause)
    );
    if let Some(action) = record
        .actions
        .iter()
        .rev()
        .find(|action| action.outcome == "sent")
    {
        let _ = write!(
            text,
            " Loopwarden sent {} to {} after {}.",
            action.signal.name(),
            process(style, &action.exe, action.child),
            span(action.busy)
        );
    }
    text += match record.outcome {
        Some(end) if end.rescued => " The child ended, and the loop ran again.",
        Some(end) => match end.ended_by {
            EndedBy::Poll => " Then the loop came back by itself.",
            EndedBy::Exit => " Then the process ended.",
            EndedBy::Exec => " Then the process ran another program.",
            EndedBy::Detached => " Then the agent stopped watching it.",
        },
        None if unfinished => " The agent ended while it lasted, so its end was not seen.",
        None => " It is still going on.",
    };
    text
}

fn timeline(record: &IncidentRecord, style: Style) -> Vec<Vec<String>> {
    let began = record.began.0;
    let mut rows = vec![(record.began, "the loop left its poller".to_owned())];
    if let Some((time, child)) = told_to_end(record) {
        let who = process(style, &child.exe, child.pid);
        let told = child.signalled.as_ref().map_or_else(
            || format!("the process told its child {who} to end"),
            |signal| {
                let (by, with) = teller(signal, style);
                format!("{by} told the child {who} to end{with}")
            },
        );
        rows.push((time, told));
    }
    for entry in &record.timeline {
        let what = match &entry.what {
            What::Opened { cause } => {
                let prefix = "noticed as a stall";
                format!("{prefix}: it {}", doing(style, cause))
            }
            What::Cause { cause } => format!("now it {}", doing(style, cause)),
            What::Evidence { capture } => match found(record, *capture, style) {
                Some(what) => what,
                None => continue,
            },
            What::Action { action } => match record.actions.get(*action) {
                Some(action) => acted(action, style),
                None => continue,
            },
            What::Closed => outcome(record, false).to_owned(),
        };
        rows.push((entry.time, what));
    }
    rows.sort_by_key(|(time, _)| *time);
    let mut rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(time, what)| {
            let after = match time.0.checked_sub(began) {
                Some(micros) => span(Duration::from_micros(micros)),
                None => "before".to_owned(),
            };
            vec![time.to_string()[11..23].to_owned(), after, what]
        })
        .collect();
    if record.timeline_left_out > 0 {
        let what = format!(
            "{} entries in the middle were left out",
            record.timeline_left_out
        );
        rows.push(vec![String::new(), String::new(), what]);
    }
    rows
}

/// When the child was told to end, as the first cause that knows it says.
fn told_to_end(record: &IncidentRecord) -> Option<(Stamp, &ChildCause)> {
    record.timeline.iter().find_map(|entry| {
        let (What::Opened { cause } | What::Cause { cause }) = &entry.what else {
            return None;
        };
        let child = cause.child.as_ref()?;
        let first = child.signalled.as_ref().map(|signal| signal.ms_ago);
        let ago = first.or(child.told_to_end_ms_ago)?;
        let ago = Duration::try_from_secs_f64(ago / 1000.0).ok()?;
        Some((entry.time.minus(ago), child))
    })
}

/// What a capture brought; nothing if it is empty.
fn found(record: &IncidentRecord, capture: usize, style: Style) -> Option<String> {
    let found = &record.evidence.get(capture)?.found;
    let stack = found.stack.as_ref().and_then(|stack| stack.frames.first());
    if let Some(innermost) = stack {
        return Some(format!("evidence: in {}", style.name(&frame(innermost))));
    }
    let parts = [
        (found.details.socket.is_some(), "the connection"),
        (found.details.file.is_some(), "the file"),
        (found.details.holder.is_some(), "the holder"),
        (found.child.is_some(), "the child"),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(known, _)| *known)
        .map(|(_, part)| *part)
        .collect();
    (!parts.is_empty()).then(|| format!("evidence: more is known of {}", parts.join(", ")))
}

fn acted(action: &Action, style: Style) -> String {
    let (signal, child) = (
        action.signal.name(),
        process(style, &action.exe, action.child),
    );
    match (action.outcome.as_str(), action.refused_by) {
        ("sent", _) => format!("Loopwarden sent {signal} to {child}"),
        ("would_send", _) => {
            format!("in enforce mode Loopwarden would have sent {signal} to {child}")
        }
        (_, Some(refusal)) => format!(
            "no {signal} to {child}: {}: {}",
            style.word(refusal.name()),
            refusal.sentence()
        ),
        (other, None) => format!("{signal} to {child}: {}", style.name(other)),
    }
}

/// What the end of the incident says of liveness probes.
fn probes(liveness: Option<Outlook>) -> String {
    let Some(outlook) = liveness else {
        return "No liveness probe is known to have failed: the blocking was shorter than its time-out, or no probe is configured \
                (`targets[].liveness`)."
            .to_owned();
    };
    let mut text = format!(
        "Liveness probes that are certain to have failed in a row: {}.",
        outlook.failed_probes
    );
    match outlook.to_decision {
        Some(left) if left.is_zero() => {
            text += " The kubelet's decision to kill the container was due.";
        }
        Some(left) => {
            let _ = write!(
                text,
                " The kubelet would have decided to kill the container {} later, give or take {}.",
                span(left),
                span(outlook.uncertainty.unwrap_or_default())
            );
        }
        None => {}
    }
    text
}

fn impact(record: &IncidentRecord, unfinished: bool, style: Style) -> Vec<String> {
    let end = match record.outcome {
        Some(end) => format!("until {}", &end.time.to_string()[11..23]),
        None if unfinished => "until a time that is not known".to_owned(),
        None => "and still is".to_owned(),
    };
    let mut items = vec![
        format!(
            "The event loop was blocked {}, from {} {end} (UTC). In this time it answered no request, probe or timer.",
            length(record),
            &record.began.to_string()[11..23]
        ),
        probes(record.outcome.and_then(|end| end.liveness)),
    ];
    if record.who.tid.0 != record.who.pid.0 {
        let thread = record.who.tid;
        items.push(format!(
            "The loop runs in thread {thread} of {}; its other threads went on.",
            style.name(&record.who.exe)
        ));
    }
    items
}

fn actions(record: &IncidentRecord, style: Style) -> Block {
    if record.actions.is_empty() {
        let why = match (record.settings.mode, record.settings.engine) {
            (_, None) => {
                "None: no engine is configured for this target, so nothing is ever signalled."
            }
            (Mode::Observe, _) => "None; the agent only observes.",
            (Mode::Enforce, _) => "None.",
        };
        return Block::Text(why.to_owned());
    }
    let rows = record.actions.iter().map(|action| {
        let mut what = acted(action, style);
        if let Some(detail) = &action.detail {
            let _ = write!(what, " ({})", style.name(detail));
        }
        vec![
            action.time.to_string()[11..23].to_owned(),
            span(action.busy),
            what,
            match action.grace_reason {
                Some(GraceReason::Deadline) => {
                    format!("grace {}, cut for the deadline", span(action.grace))
                }
                None => format!("grace {}", span(action.grace)),
            },
        ]
    });
    Block::Table(
        vec!["time (UTC)", "after", "what", "in force"],
        rows.collect(),
    )
}

fn in_force(settings: &InForce) -> Vec<String> {
    let mut items = vec![format!(
        "mode {}, stall_after {}",
        settings.mode.name(),
        clean(&span(settings.stall_after))
    )];
    match &settings.engine {
        None => items.push("no engine".to_owned()),
        Some(engine) => {
            let untold = engine.untold_grace.map_or_else(|| "never".to_owned(), span);
            items.push(format!(
                "engine: grace {}, unknown_grace {}, untold_grace {untold}, through_wrapper {}, at most {} kills in {}",
                span(engine.grace),
                span(engine.unknown_grace),
                engine.through_wrapper,
                engine.max_kills,
                span(engine.max_kills_per)
            ));
        }
    }
    if settings.node_kills > 0 {
        items.push(format!(
            "limits: pause {}, at most {} kills on the node in {}",
            span(settings.pause),
            settings.node_kills,
            span(settings.node_kills_per)
        ));
    }
    items
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
