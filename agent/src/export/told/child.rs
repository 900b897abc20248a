//! The child that a loop waits for: its state, who told it to end, and why it does not.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::pipeline::StallView;
use crate::pipeline::evidence::{ChildDetail, SocketDetail};

pub(super) fn add_child(child: &mut Map<String, Value>, detail: &ChildDetail) {
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
pub(super) fn detail(view: &StallView) -> Option<&ChildDetail> {
    let child = view.cause.child.as_ref()?;
    let detail = view.evidence.as_ref()?.child.as_ref()?;
    (detail.pid == child.pid).then_some(detail)
}

pub(super) fn child(view: &StallView) -> String {
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
pub(in crate::export) fn why_wedged(view: &StallView) -> Option<String> {
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
