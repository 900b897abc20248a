//! Words for people: spans, names, and sentences about causes. Every text of a record is made harmless here.

use std::time::Duration;

use crate::pipeline::cause::{StarvedBy, StoppedBy};
use crate::pipeline::record::IncidentRecord;
use crate::pipeline::{Cause, CauseKind, Frame};

/// For which reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A terminal.
    Text,
    /// A Markdown document.
    Markdown,
}

impl Style {
    /// A name or text of a record, harmless: in Markdown as code, where nothing in it means anything.
    pub(super) fn name(self, text: &str) -> String {
        let text = clean(text);
        if self == Style::Text {
            return text;
        }
        let fence = "`".repeat(longest_run(&text) + 1);
        // A space keeps a backtick at the edge from joining the fence; Markdown takes one away again.
        let pad = if text.is_empty() || text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) {
            " "
        } else {
            ""
        };
        format!("{fence}{pad}{text}{pad}{fence}")
    }

    /// A word of ours: an option, a key, a kind.
    pub(super) fn word(self, word: &str) -> String {
        self.name(word)
    }
}

/// How many backticks stand together at most.
pub(super) fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// One line that moves no cursor and turns no text around.
pub(super) fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    text.chars()
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

/// A span as a person says it.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds == 0 {
        format!("{:.1} ms", span.as_secs_f64() * 1000.0)
    } else if seconds < 60 {
        format!("{:.2} s", span.as_secs_f64())
    } else if seconds < 3600 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60)
    }
}

/// Name and id of a process.
pub(super) fn process(style: Style, exe: &str, pid: impl std::fmt::Display) -> String {
    if exe.is_empty() {
        format!("a process whose name is not known (pid {pid})")
    } else {
        format!("{} (pid {pid})", style.name(exe))
    }
}

/// What the loop did instead of polling, after "it".
pub(super) fn doing(style: Style, cause: &Cause) -> String {
    let call = cause
        .syscall
        .as_ref()
        .map_or_else(String::new, |call| format!(" in {}", style.name(call)));
    let file = cause.file.as_ref().map(|file| style.name(file));
    let what = match cause.kind {
        CauseKind::ChildWait => cause.child.as_ref().map_or_else(
            || "waited for a child process".to_owned(),
            |child| {
                format!(
                    "waited for its child {}",
                    process(style, &child.exe, child.pid)
                )
            },
        ),
        CauseKind::LockWait => "waited for a lock".to_owned(),
        CauseKind::GilWait => {
            "waited for its interpreter's lock, which another thread held".to_owned()
        }
        CauseKind::NetworkWait => cause.peer.as_ref().map_or_else(
            || "waited for a connection".to_owned(),
            |peer| {
                let what = if cause.dns {
                    "the name server"
                } else {
                    "its connection to"
                };
                format!("waited for {what} {}", style.name(peer))
            },
        ),
        CauseKind::PipeWait => "waited for a pipe".to_owned(),
        CauseKind::DiskWait => file.map_or_else(
            || "waited for a file".to_owned(),
            |file| format!("waited for the file {file}"),
        ),
        CauseKind::FileLock => file.map_or_else(
            || "waited for a lock on a file".to_owned(),
            |file| format!("waited for a lock on the file {file}"),
        ),
        CauseKind::Sleep => "slept on purpose".to_owned(),
        CauseKind::CpuBusy => "computed".to_owned(),
        CauseKind::CpuStarved => match cause.starved_by {
            None => "was ready to run and got no processor".to_owned(),
            Some(StarvedBy::CgroupQuota) => {
                "was ready to run and got no processor: the quota of its cgroup was used up"
                    .to_owned()
            }
            Some(StarvedBy::Competition) => {
                "was ready to run and others had its processor".to_owned()
            }
            Some(StarvedBy::BusyMachine) => {
                "was ready to run and no processor of the machine was idle".to_owned()
            }
        },
        CauseKind::MemoryStall => "waited for memory".to_owned(),
        CauseKind::Stopped => match cause.stopped_by {
            None => "was stopped".to_owned(),
            Some(StoppedBy::Signal) => "was stopped by a signal".to_owned(),
            Some(StoppedBy::Tracer) => "was stopped by a debugger".to_owned(),
            Some(StoppedBy::Freezer) => "was frozen by its cgroup".to_owned(),
        },
        CauseKind::Unknown => "did something that could not be shown".to_owned(),
    };
    let holder = cause.holder_pid.map_or_else(String::new, |pid| {
        let exe = cause.holder_exe.as_deref().unwrap_or_default();
        format!(", held by {}", process(style, exe, pid))
    });
    format!("{what}{holder}{call}")
}

/// The cause in a few words, for a table.
pub(super) fn short(cause: &Cause) -> String {
    let kind = cause.kind.name();
    if let Some(child) = &cause.child {
        return format!("{kind} on {}[{}]", clean(&child.exe), child.pid);
    }
    let on = match cause.kind {
        CauseKind::NetworkWait => &cause.peer,
        CauseKind::DiskWait | CauseKind::FileLock => &cause.file,
        _ => &None,
    };
    on.as_ref()
        .map_or_else(|| kind.to_owned(), |on| format!("{kind} on {}", clean(on)))
}

/// How it ended, in a few words.
pub(super) fn outcome(record: &IncidentRecord, unfinished: bool) -> &'static str {
    use crate::pipeline::EndedBy;
    match record.outcome {
        Some(end) if end.rescued => "rescued",
        Some(end) => match end.ended_by {
            EndedBy::Poll => "came back",
            EndedBy::Exit => "process ended",
            EndedBy::Exec => "process ran another program",
            EndedBy::Detached => "agent stopped watching",
        },
        None if unfinished => "agent ended before it",
        None => "going on",
    }
}

/// A frame as a traceback writes it.
pub(super) fn frame(frame: &Frame) -> String {
    let function = clean(&frame.function);
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!("{function} ({}:{line})", clean(file)),
        (Some(file), None) => format!("{function} ({})", clean(file)),
        _ => function,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        for (millis, text) in [
            (0, "0.0 ms"),
            (501, "501.0 ms"),
            (9062, "9.06 s"),
            (123_000, "2 min 03 s"),
            (7_380_000, "2 h 03 min"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_name_cannot_leave_its_code_span() {
        for (name, shown) in [
            ("python3", "`python3`"),
            ("a`b", "``a`b``"),
            ("`", "`` ` ``"),
            ("```x", "```` ```x ````"),
            ("", "`  `"),
            ("<b>&lt;*x*", "`<b>&lt;*x*`"),
            ("a\n# b\u{202e}c", "`a\u{fffd}# b\u{fffd}c`"),
        ] {
            assert_eq!(Style::Markdown.name(name), shown);
        }
        assert_eq!(Style::Text.name("a\u{1b}[2J`"), "a\u{fffd}[2J`");
    }
}
