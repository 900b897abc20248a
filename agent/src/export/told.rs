//! A cause with what was found out about it, as the lines and events tell it: JSON for programs, words for people.
//!
//! Names of files, sockets and executables are chosen by the watched processes: credentials are taken out of the whole line or
//! event, and control characters where a sentence is written. Only what is shortened here must lose its credentials before.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::pipeline::evidence::{ChildDetail, SocketDetail};
use crate::pipeline::liveness::{Level, Outlook, RiskView};
use crate::pipeline::redact::without_credentials;
use crate::pipeline::{Cause, Frame, StallView, StarvedBy, StoppedBy};

/// Frames in a sentence: a lock's or a child's wait is two calls deep in a library, called by the line that matters.
const FRAMES_SHOWN: usize = 4;

/// The object of the contract, its child with all that is known of it.
pub(super) fn json(view: &StallView) -> Value {
    let mut cause = json!(view.cause);
    let child = cause.get_mut("child").and_then(Value::as_object_mut);
    if let (Some(child), Some(detail)) = (child, detail(view)) {
        add_child(child, detail);
    }
    cause
}

fn add_child(child: &mut Map<String, Value>, detail: &ChildDetail) {
    if let Some(age) = detail.age {
        child.insert("age_ms".into(), json!(age.as_millis()));
    }
    if let Some(function) = &detail.kernel_function {
        child.insert("kernel_function".into(), json!(function));
    }
    if !detail.sockets.is_empty() {
        child.insert("sockets".into(), json!(detail.sockets));
    }
}

/// What was found out about the child that the cause names.
fn detail(view: &StallView) -> Option<&ChildDetail> {
    let child = view.cause.child.as_ref()?;
    let detail = view.evidence.as_ref()?.child.as_ref()?;
    (detail.pid == child.pid).then_some(detail)
}

/// The countdown of the contract.
pub(super) fn liveness(outlook: &Outlook) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("failed_probes".into(), json!(outlook.failed_probes));
    let spans = [
        ("seconds_to_decision", outlook.to_decision),
        // The kubelet sends it at once, unless a preStop hook comes first.
        ("seconds_to_sigterm", outlook.to_decision),
        ("seconds_to_sigkill", outlook.to_sigkill),
        ("uncertainty_s", outlook.uncertainty),
        ("sigterm_uncertainty_s", outlook.sigterm_uncertainty),
        ("sigkill_uncertainty_s", outlook.sigkill_uncertainty),
    ];
    for (name, span) in spans {
        if let Some(span) = span {
            fields.insert(name.into(), json!(rounded(span)));
        }
    }
    fields.insert("probes_seen".into(), json!(outlook.probes_seen));
    fields
}

/// Seconds, to the millisecond: no forecast is finer.
fn rounded(span: Duration) -> f64 {
    // In one division, which gives the number that is nearest to the decimal one.
    f64::from(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}

/// The risk in words.
pub(super) fn risk_text(risk: &RiskView) -> String {
    let outlook = &risk.outlook;
    let seconds = |span: Option<Duration>| span.unwrap_or_default().as_secs_f64();
    let mut text = match risk.level {
        Level::None => return "is out of danger: no liveness probe fails any more".to_owned(),
        Level::Elevated if outlook.to_decision.is_none() => {
            "answers again; failed liveness probes count until one has its answer".to_owned()
        }
        Level::Elevated => "AT RISK: ".to_owned(),
        Level::Imminent => "KILL IS IMMINENT: ".to_owned(),
    };
    let failed = outlook.failed_probes;
    if outlook.to_decision.is_none() {
        if failed > 0 {
            let _ = write!(text, " ({failed} for certain)");
        }
        return text;
    }
    // What was seen is said as such, and what must be so as a guess.
    let _ = match (outlook.probes_seen, failed) {
        (true, 0) => write!(text, "a liveness probe waits for its answer"),
        (true, _) => write!(text, "liveness probes failed, {failed} in a row"),
        (false, 0) => write!(text, "liveness probes may fail (they are not seen)"),
        (false, _) => write!(
            text,
            "liveness probes fail, at least {failed} (they are not seen)"
        ),
    };
    let _ = match outlook.to_decision {
        Some(Duration::ZERO) if outlook.probes_seen => write!(
            text,
            "; the kubelet has decided to kill: SIGKILL in {:.1} s",
            seconds(outlook.to_sigkill)
        ),
        left => write!(
            text,
            "; the kubelet decides to kill in {:.1} s (+/- {:.1} s)",
            seconds(left),
            seconds(outlook.uncertainty)
        ),
    };
    text
}

/// Parts of a mixed stall, to three digits.
pub(super) fn shares(view: &StallView) -> Value {
    let rounded = |part: f64| (part * 1000.0).round() / 1000.0;
    let parts = view
        .shares
        .iter()
        .map(|(kind, part)| (kind.name().to_owned(), json!(rounded(*part))));
    Value::Object(parts.collect())
}

/// The cause in words.
pub(super) fn text(view: &StallView) -> String {
    let cause = &view.cause;
    let mut text = cause.kind.name().to_owned();
    if let Some(why) = held(cause) {
        let _ = write!(text, ": {why}");
    }
    if let Some(syscall) = &cause.syscall {
        let _ = write!(text, " in {syscall}");
    }
    if cause.dns {
        text.push_str(" for a name look-up");
    }
    if let Some(peer) = &cause.peer {
        let _ = write!(text, " on {peer}");
        if let Some(state) = &cause.socket_state {
            let _ = write!(text, " ({state})");
        }
    }
    if let Some(file) = &cause.file {
        let _ = write!(text, " on {file}");
    }
    if let Some(pid) = cause.holder_pid {
        let exe = cause.holder_exe.as_deref().unwrap_or("process");
        let _ = write!(text, ", held by {exe}[{pid}]");
    }
    text.push_str(&child(view));
    text.push_str(&code(view));
    if !view.shares.is_empty() {
        let parts: Vec<String> = view
            .shares
            .iter()
            .map(|(kind, part)| format!("{:.0} % {}", part * 100.0, kind.name()))
            .collect();
        let _ = write!(text, "; in all {}", parts.join(", "));
    }
    text
}

/// The innermost frames, as far as a person needs to know the line and who called it; the whole stack is in the JSON.
fn code(view: &StallView) -> String {
    let stack = view
        .evidence
        .as_ref()
        .and_then(|found| found.stack.as_ref());
    let Some(stack) = stack.filter(|stack| !stack.frames.is_empty()) else {
        return String::new();
    };
    let shown: Vec<String> = stack.frames.iter().take(FRAMES_SHOWN).map(place).collect();
    format!("; at {}", shown.join(" < "))
}

fn place(frame: &Frame) -> String {
    let function = &frame.function;
    let Some(file) = &frame.file else {
        return function.clone();
    };
    // Before it is shortened: without its scheme a credential is not recognised any more.
    let file = without_credentials(file);
    let file = end_of_path(&file);
    match frame.line {
        Some(line) => format!("{function} ({file}:{line})"),
        None => format!("{function} ({file})"),
    }
}

/// The last three parts: what is before them says where something is installed, not what it is.
fn end_of_path(path: &str) -> &str {
    let start = path.rmatch_indices('/').nth(2).map_or(0, |(at, _)| at + 1);
    &path[start..]
}

fn held(cause: &Cause) -> Option<&'static str> {
    let starved = cause.starved_by.map(|by| match by {
        StarvedBy::CgroupQuota => "throttled by its cgroup's quota",
        StarvedBy::Competition => "others have its CPU, though CPUs are idle",
        StarvedBy::BusyMachine => "no CPU of the machine is idle",
    });
    starved.or(cause.stopped_by.map(|by| match by {
        StoppedBy::Signal => "by a signal",
        StoppedBy::Tracer => "by a debugger",
        StoppedBy::Freezer => "frozen by its cgroup",
    }))
}

fn child(view: &StallView) -> String {
    let mut text = String::new();
    let Some(child) = &view.cause.child else {
        return text;
    };
    let _ = write!(text, " on {}[{}] ({})", child.exe, child.pid, child.state);
    if let Some(ago) = child.told_to_end_ms_ago {
        let _ = write!(text, ", told to end {ago:.0} ms ago");
    }
    if let Some(signalled) = &child.signalled {
        let _ = write!(text, " ({} from {}", signalled.signal, signalled.by);
        if !signalled.by_exe.is_empty() {
            let _ = write!(text, " {}", signalled.by_exe);
        }
        text.push(')');
    }
    if let Some(why) = why_wedged(view) {
        let _ = write!(text, ", {why}");
    }
    text
}

/// Why the child does not end, as far as it shows.
pub(super) fn why_wedged(view: &StallView) -> Option<String> {
    let child = view.cause.child.as_ref()?;
    if child.state == "zombie" {
        return Some("it has ended and is not reaped".to_owned());
    }
    let detail = detail(view)?;
    if let Some(why) = detail.sockets.first().and_then(stuck) {
        return Some(why);
    }
    let function = detail.kernel_function.as_ref()?;
    let told = child.told_to_end_ms_ago.is_some() || child.signalled.is_some();
    told.then(|| format!("{} in the kernel's {function}", detail.state))
}

fn stuck(socket: &SocketDetail) -> Option<String> {
    let peer = socket.peer.as_deref()?;
    let bytes = socket.unacknowledged_bytes.unwrap_or(0);
    let state = socket.state.as_deref().unwrap_or("unknown");
    match state {
        _ if socket.is_closing() => {
            let mut why = format!("stuck closing to {peer} ({state}");
            if bytes > 0 {
                let _ = write!(why, ", {bytes} bytes not acknowledged");
            }
            why.push(')');
            Some(why)
        }
        "SYN_SENT" => Some(format!("connecting to {peer}, which does not answer")),
        _ if bytes > 0 => Some(format!(
            "waiting for {peer} to acknowledge {bytes} bytes ({state})"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::pipeline::evidence::{Stack, StackKind};
    use crate::pipeline::{
        CauseKind, ChildCause, Evidence, IncidentId, Mono, NsPid, Pid, Signalled,
    };

    fn socket(state: &str, bytes: u64) -> SocketDetail {
        SocketDetail {
            protocol: "tcp".into(),
            peer: Some("10.0.0.5:5432".into()),
            state: Some(state.into()),
            unacknowledged_bytes: Some(bytes),
        }
    }

    fn view(state: &str, sockets: Vec<SocketDetail>) -> StallView {
        let child = ChildCause {
            pid: Pid(9),
            ns_pid: NsPid(9),
            exe: "query-engine".into(),
            state: state.into(),
            told_to_end_ms_ago: Some(99.6),
            signalled: Some(Signalled {
                by: Pid(7),
                by_exe: "python3".into(),
                signal: "SIGINT".into(),
                ms_ago: 99.6,
            }),
        };
        StallView {
            incident: IncidentId(1),
            at: Mono(1),
            busy: Duration::from_millis(100),
            busy_is_lower_bound: false,
            cause: Cause {
                kind: CauseKind::ChildWait,
                syscall: Some("wait4".into()),
                child: Some(child),
                ..Cause::default()
            },
            evidence: Some(Arc::new(Evidence {
                child: Some(ChildDetail {
                    pid: Pid(9),
                    exe: "query-engine".into(),
                    age: Some(Duration::from_secs(4)),
                    state: state.into(),
                    kernel_function: Some("futex_do_wait".into()),
                    sockets,
                }),
                ..Evidence::default()
            })),
            shares: Vec::new(),
        }
    }

    #[test]
    fn the_sentence_says_why_a_child_does_not_end() {
        let table = [
            (
                view("sleeping", vec![socket("FIN_WAIT1", 42)]),
                "stuck closing to 10.0.0.5:5432 (FIN_WAIT1, 42 bytes not acknowledged)",
            ),
            (
                view("sleeping", vec![socket("ESTABLISHED", 7)]),
                "waiting for 10.0.0.5:5432 to acknowledge 7 bytes (ESTABLISHED)",
            ),
            (
                view("sleeping", vec![socket("ESTABLISHED", 0)]),
                "sleeping in the kernel's futex_do_wait",
            ),
            (view("zombie", Vec::new()), "it has ended and is not reaped"),
        ];
        for (view, why) in table {
            let text = text(&view);
            assert!(text.ends_with(why), "{text}");
            assert!(
                text.contains("told to end 100 ms ago (SIGINT from 7 python3)"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_sentence_names_the_line_and_who_called_it() {
        let frame = |function: &str, file: Option<&str>, line| Frame {
            function: function.into(),
            file: file.map(str::to_owned),
            line,
        };
        let library = "/usr/lib/python3.11";
        let site = "/app/venv/lib/python3.11/site-packages";
        let frames = vec![
            frame(
                "Condition.wait",
                Some(&format!("{library}/threading.py")),
                Some(331),
            ),
            frame(
                "Future.result",
                Some(&format!("{library}/concurrent/futures/_base.py")),
                Some(451),
            ),
            frame(
                "PrismaWrapper.__getattr__",
                Some(&format!("{site}/litellm/proxy/db/prisma_client.py")),
                Some(377),
            ),
            frame("native", None, None),
            frame("not shown", None, None),
        ];
        let mut view = view("sleeping", Vec::new());
        view.cause = Cause {
            kind: CauseKind::LockWait,
            syscall: Some("futex".into()),
            ..Cause::default()
        };
        let stack = |frames| {
            Some(Arc::new(Evidence {
                stack: Some(Stack {
                    kind: StackKind::Python,
                    frames,
                }),
                ..Evidence::default()
            }))
        };
        view.evidence = stack(frames);
        assert_eq!(
            text(&view),
            "lock_wait in futex; at Condition.wait (lib/python3.11/threading.py:331) \
             < Future.result (concurrent/futures/_base.py:451) \
             < PrismaWrapper.__getattr__ (proxy/db/prisma_client.py:377) < native"
        );
        view.evidence = stack(vec![frame("f", Some("app.py"), None)]);
        assert_eq!(text(&view), "lock_wait in futex; at f (app.py)");
        view.evidence = stack(Vec::new());
        assert_eq!(text(&view), "lock_wait in futex");
    }

    #[test]
    fn the_child_of_the_cause_carries_its_details() {
        let json = json(&view("sleeping", vec![socket("FIN_WAIT1", 42)]));
        assert_eq!(json.pointer("/child/age_ms"), Some(&json!(4000)));
        assert_eq!(
            json.pointer("/child/sockets/0/peer"),
            Some(&json!("10.0.0.5:5432"))
        );
        assert_eq!(
            json.pointer("/child/signalled/signal"),
            Some(&json!("SIGINT"))
        );
        // Of another child than the one that the cause is about by now.
        let mut other = view("sleeping", Vec::new());
        other.cause.child.as_mut().unwrap().pid = Pid(10);
        assert_eq!(super::json(&other).pointer("/child/age_ms"), None);
    }
}
