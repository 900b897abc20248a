//! What is told on a pod itself, for who looks there first. Pure.
//!
//! Fewer than the events over OTLP: an Event is an object that the cluster stores.

use std::time::Duration;

use super::lines::{action_text, printable, process};
use super::told;
use crate::pipeline::liveness::Level;
use crate::pipeline::pod::PodEvent;
use crate::pipeline::redact::without_credentials;
use crate::pipeline::{EndedBy, LoopInfo, Notice, Outcome};

/// A stall that was shorter is for the metrics.
const WORTH_AN_EVENT: Duration = Duration::from_secs(1);

/// The Event of a notice, if it is one that is told so and its pod is known.
#[must_use]
pub fn pod_event(notice: &Notice) -> Option<PodEvent> {
    let (info, is_warning, reason, action, note) = match notice {
        Notice::Risk { info, risk } if risk.changed => {
            let (is_warning, reason) = match risk.level {
                Level::None => (false, "LivenessRestored"),
                Level::Elevated => (true, "LivenessAtRisk"),
                Level::Imminent => (true, "KillImminent"),
            };
            let note = format!("{} {}", process(info), told::risk_text(risk));
            (info, is_warning, reason, "Forecasting", note)
        }
        Notice::Action { info, action } => {
            let (is_warning, reason) = match action.outcome {
                Outcome::Sent => (false, "EngineSignalled"),
                Outcome::WouldSend => (false, "EngineWouldBeSignalled"),
                Outcome::Refused(_) | Outcome::Failed | Outcome::Ineffective => {
                    (true, "EngineNotEnded")
                }
                Outcome::Gone => return None,
            };
            let note = action_text(&without_pod(info), action);
            (info, is_warning, reason, "Rescuing", note)
        }
        Notice::StallClosed {
            info,
            view,
            rescued,
            ended_by,
            ..
        } if *ended_by != EndedBy::Detached && (*rescued || view.busy >= WORTH_AN_EVENT) => {
            let reason = if *rescued {
                "LoopRescued"
            } else {
                "LoopStalled"
            };
            let note = format!(
                "{} was blocked for {:.1} s: {}",
                process(info),
                view.busy.as_secs_f64(),
                told::text(view)
            );
            (info, !rescued, reason, "Watching", note)
        }
        _ => return None,
    };
    Some(PodEvent {
        pod: info.pod.clone()?,
        is_warning,
        reason,
        action,
        note: printable(&without_credentials(&note)),
    })
}

/// The Event is on the pod: its name need not be repeated.
fn without_pod(info: &LoopInfo) -> LoopInfo {
    LoopInfo {
        pod: None,
        ..info.clone()
    }
}
