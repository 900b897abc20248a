//! What a record leaves open, made from what is missing in it.

use super::words::{Style, process};
use crate::pipeline::record::{IncidentRecord, What};
use crate::pipeline::{CauseKind, EndedBy, Mode};

/// Kinds for which a socket, file or holder would name what was waited for.
const NAMED: [(CauseKind, &str); 4] = [
    (CauseKind::NetworkWait, "which connection it waited for"),
    (CauseKind::DiskWait, "which file it waited for"),
    (
        CauseKind::FileLock,
        "which file's lock it waited for, and who held it",
    ),
    (CauseKind::PipeWait, "who holds the other end of the pipe"),
];

/// The questions, most important first.
pub(super) fn questions(record: &IncidentRecord, unfinished: bool, style: Style) -> Vec<String> {
    let mut open = Vec::new();
    if unfinished {
        open.push("How it ended: the agent ended while it lasted.".to_owned());
    }
    if record
        .outcome
        .is_some_and(|end| end.ended_by == EndedBy::Detached)
    {
        open.push("How it ended: the agent stopped watching while it lasted.".to_owned());
    }
    if record.began_earlier {
        open.push("When it began: the loop was away already when the agent came.".to_owned());
    }
    cause(record, style, &mut open);
    child(record, style, &mut open);
    for missing in missing(record) {
        open.push(format!(
            "No {}: {}.",
            style.name(&missing.0),
            style.name(&missing.1)
        ));
    }
    let none = record.newest(|found| found.stack.as_ref()).is_none();
    if none
        && !missing(record)
            .iter()
            .any(|(what, _)| what == "stack" || what == "evidence")
    {
        open.push("Which line of code it was: no stack was taken.".to_owned());
    }
    if acted_in_vain(record) {
        open.push(
            "Why the loop did not come back within a second of the signal's effect.".to_owned(),
        );
    }
    if record.settings.mode == Mode::Observe
        && record
            .actions
            .iter()
            .any(|action| action.outcome == "would_send")
    {
        open.push("Whether the loop would have been freed: the agent only observed.".to_owned());
    }
    for cut in &record.cut {
        open.push(format!("The record was cut: {}.", style.name(cut)));
    }
    open
}

fn cause(record: &IncidentRecord, style: Style, open: &mut Vec<String>) {
    let cause = &record.cause;
    if cause.kind == CauseKind::Unknown {
        let call = cause.syscall.as_ref().map_or_else(String::new, |call| {
            format!("; it was in the system call {}", style.name(call))
        });
        open.push(format!(
            "What the loop was stuck on: none of the known causes could be shown{call}."
        ));
    }
    let named = cause.peer.is_some() || cause.file.is_some() || cause.holder_pid.is_some();
    for (kind, question) in NAMED {
        if cause.kind == kind && !named {
            open.push(format!("Not shown: {question}."));
        }
    }
    if matches!(cause.kind, CauseKind::LockWait | CauseKind::GilWait) && cause.holder_pid.is_none()
    {
        let holder = record.newest(|found| found.details.holder.as_ref());
        let stack = record.newest(|found| found.holder_stack.as_ref());
        if holder.is_none() && stack.is_none() {
            open.push("Who held the lock: not shown.".to_owned());
        }
    }
}

fn child(record: &IncidentRecord, style: Style, open: &mut Vec<String>) {
    let Some(child) = &record.cause.child else {
        if record.cause.kind == CauseKind::ChildWait {
            open.push(
                "Which child it waited for: the call names none, and more than one was left."
                    .to_owned(),
            );
        }
        return;
    };
    let who = process(style, &child.exe, child.pid);
    let told = record.timeline.iter().any(|entry| match &entry.what {
        What::Opened { cause } | What::Cause { cause } => cause
            .child
            .as_ref()
            .is_some_and(|child| child.told_to_end_ms_ago.is_some() || child.signalled.is_some()),
        _ => false,
    });
    if record.cause.kind == CauseKind::ChildWait && !told && child.told_to_end_ms_ago.is_none() {
        let why = if record.began_earlier {
            "the wait is older than the agent"
        } else if record.who.plan == "sampling" {
            "signals are not seen where eBPF cannot be used"
        } else {
            "its parent was not seen signalling it; it may just be slow"
        };
        open.push(format!("Who told {who} to end is unknown because {why}."));
    }
    let detail = record.newest(|found| found.child.as_ref());
    let explained = detail.is_some_and(|(_, detail)| !detail.sockets.is_empty());
    if record.cause.kind == CauseKind::ChildWait && !explained {
        open.push(format!(
            "Why {who} did not end: none of its connections was shown."
        ));
    }
}

/// What the newest evidence says is missing, unless another capture had it.
fn missing(record: &IncidentRecord) -> Vec<(String, String)> {
    let Some(newest) = record.evidence.last() else {
        return Vec::new();
    };
    let had = |what: &str| match what {
        "stack" => record.newest(|found| found.stack.as_ref()).is_some(),
        "peer" => record.cause.peer.is_some(),
        "file" => record.cause.file.is_some(),
        _ => false,
    };
    newest
        .found
        .missing
        .iter()
        .filter(|missing| !had(&missing.what))
        .map(|missing| {
            let why = missing.why.trim_end_matches('.').to_owned();
            (missing.what.clone(), why)
        })
        .collect()
}

fn acted_in_vain(record: &IncidentRecord) -> bool {
    record
        .outcome
        .is_some_and(|end| !end.rescued && end.ended_by == EndedBy::Poll)
        && record.actions.iter().any(|action| action.outcome == "sent")
}
