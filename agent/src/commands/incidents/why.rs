//! The section that says why: the cause, its shares, what was waited for, the child, the line of code.

use std::fmt::Write as _;

use super::render::Block;
use super::words::{Style, doing, frame, process, span};
use crate::pipeline::cause::Signalled;
use crate::pipeline::evidence::{ChildDetail, SocketDetail, Stack, StackKind};
use crate::pipeline::record::IncidentRecord;
use crate::pipeline::{Cause, CauseKind};

/// States of a connection that is being closed.
const CLOSING: [&str; 6] = [
    "FIN_WAIT1",
    "FIN_WAIT2",
    "CLOSING",
    "LAST_ACK",
    "CLOSE_WAIT",
    "TIME_WAIT",
];

/// The section about the cause.
pub(super) fn why(record: &IncidentRecord, style: Style, blocks: &mut Vec<Block>) {
    let kind = record.cause.kind;
    blocks.push(Block::Text(format!(
        "{}: the loop thread {}.",
        style.word(kind.name()),
        doing(style, &record.cause)
    )));
    if record.causes.len() > 1 {
        let rows = record.causes.iter().map(|share| {
            let whole = record.busy().as_secs_f64().max(1e-9);
            let part = 100.0 * share.lasted.as_secs_f64() / whole;
            vec![
                style.word(share.kind.name()),
                span(share.lasted),
                format!("{part:.0} %"),
            ]
        });
        blocks.push(Block::Table(vec!["cause", "for", "share"], rows.collect()));
    }
    let mut items = facts(record, &record.cause, style);
    if let Some((_, child)) = record.newest(|found| found.child.as_ref()) {
        items.extend(child_facts(child, style));
    }
    if !items.is_empty() {
        blocks.push(Block::List(items));
    }
    if let Some((time, stack)) = record.newest(|found| found.stack.as_ref()) {
        let when = &time.to_string()[11..23];
        let what = kind_of(stack);
        blocks.push(Block::Text(format!(
            "Where the loop thread was ({what}, {when}, innermost first):"
        )));
        blocks.push(code(stack));
    }
    if let Some((_, stack)) = record.newest(|found| found.holder_stack.as_ref()) {
        blocks.push(Block::Text("Where the thread was that held it:".to_owned()));
        blocks.push(code(stack));
    }
}

fn kind_of(stack: &Stack) -> &'static str {
    match stack.kind {
        StackKind::Python => "Python",
        StackKind::Native => "native",
    }
}

fn code(stack: &Stack) -> Block {
    Block::Code(stack.frames.iter().map(frame).collect())
}

fn facts(record: &IncidentRecord, cause: &Cause, style: Style) -> Vec<String> {
    let mut items = Vec::new();
    if let Some(child) = &cause.child {
        let told = match (&child.signalled, child.told_to_end_ms_ago) {
            (Some(signal), _) => {
                let (who, with) = teller(signal, style);
                format!("{who} had told it to end{with}")
            }
            (None, Some(_)) => "the process had told it to end".to_owned(),
            (None, None) => "nobody was seen telling it to end".to_owned(),
        };
        let inside = if child.ns_pid.0 == child.pid.0 {
            String::new()
        } else {
            format!(", {} as the process itself numbers it,", child.ns_pid.0)
        };
        items.push(format!(
            "The child {}{inside} was {}; {told}.",
            process(style, &child.exe, child.pid),
            style.name(&child.state)
        ));
    }
    if let Some((_, socket)) = record.newest(|found| found.details.socket.as_ref()) {
        items.push(format!("The connection: {}.", socket_words(socket, style)));
    }
    if let Some((_, holder)) = record.newest(|found| found.details.holder.as_ref()) {
        items.push(format!(
            "Held by {}.",
            process(style, &holder.exe, holder.pid)
        ));
    }
    if cause.kind == CauseKind::CpuBusy {
        items.push("The thread was on a processor, in its own code.".to_owned());
    }
    items
}

/// Who told a child to end, and the words that say with which signal.
pub(super) fn teller(signal: &Signalled, style: Style) -> (String, String) {
    let who = process(style, &signal.by_exe, signal.by);
    (who, format!(" ({})", style.name(&signal.signal)))
}

fn child_facts(child: &ChildDetail, style: Style) -> Vec<String> {
    let mut items = Vec::new();
    let age = child
        .age
        .map_or_else(String::new, |age| format!(", {} old", span(age)));
    let kernel = child
        .kernel_function
        .as_ref()
        .map_or_else(String::new, |name| {
            format!(", asleep in the kernel's {}", style.name(name))
        });
    items.push(format!(
        "The child in detail: {}, {}{age}{kernel}.",
        process(style, &child.exe, child.pid),
        style.name(&child.state)
    ));
    let mut stuck = child.sockets.iter().filter(|socket| is_stuck(socket));
    if let Some(first) = stuck.next() {
        let more = match stuck.count() {
            0 => String::new(),
            more => format!(" ({more} more like it)"),
        };
        items.push(format!(
            "Why it did not end: it was closing a connection whose other end did not answer{more}: {}.",
            socket_words(first, style)
        ));
    }
    for socket in child
        .sockets
        .iter()
        .filter(|socket| !is_stuck(socket))
        .take(8)
    {
        items.push(format!(
            "It has a connection: {}.",
            socket_words(socket, style)
        ));
    }
    items
}

fn is_stuck(socket: &SocketDetail) -> bool {
    socket.unacknowledged_bytes.is_some_and(|bytes| bytes > 0)
        || socket
            .state
            .as_ref()
            .is_some_and(|state| CLOSING.contains(&state.as_str()))
}

fn socket_words(socket: &SocketDetail, style: Style) -> String {
    let mut text = style.name(&socket.protocol);
    if let Some(peer) = &socket.peer {
        let _ = write!(text, " to {}", style.name(peer));
    }
    if let Some(state) = &socket.state {
        let _ = write!(text, ", {}", style.name(state));
    }
    if let Some(bytes) = socket.unacknowledged_bytes {
        let _ = write!(text, ", {bytes} bytes not acknowledged");
    }
    text
}
