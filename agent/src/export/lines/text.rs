//! Lines for people: sentences.

use std::fmt::Write as _;

use super::{Lines, WallClock, quantile};
use crate::export::{engine_news, told};
use crate::pipeline::redact::without_credentials;
use crate::pipeline::stamp::millis;
use crate::pipeline::{ActionNotice, EndedBy, LoopInfo, LoopTotals, Notice, Outcome, StallView};

impl Lines {
    /// The notice as a sentence; `None` for those that people need not read.
    #[must_use]
    pub fn text(&self, notice: &Notice, clock: WallClock) -> Option<String> {
        let (at, line) = match notice {
            Notice::Loop { at, info } => (
                *at,
                format!(
                    "{} is an event loop polling with {}; watched by {}",
                    name(info),
                    info.poller,
                    info.plan
                ),
            ),
            Notice::Placed { at, info } => {
                let pod = info.pod.as_ref()?;
                (*at, format!("{} runs in pod {pod}", process(info)))
            }
            Notice::StallOpened { info, view } => (view.at, stalled(info, "STALLED", view)),
            Notice::StallUpdated { info, view } => (view.at, stalled(info, "stalled", view)),
            Notice::Action { info, action } => (action.at, action_text(info, action)),
            Notice::StallClosed {
                info,
                view,
                rescued,
                ended_by,
                ..
            } => (view.at, closed(info, view, *rescued, *ended_by)),
            // For people the change is enough.
            Notice::Risk { risk, .. } if !risk.changed => return None,
            Notice::Risk { info, risk } => {
                (risk.at, format!("{} {}", name(info), told::risk_text(risk)))
            }
            Notice::LoopEnded { info, .. } if info.poller.is_empty() => return None,
            Notice::LoopEnded {
                at, info, totals, ..
            } => (*at, self.summary_text(info, totals)),
            Notice::Lost { at, what, count } => (*at, format!("lost {count} x {what}")),
            Notice::Engine { info, news } => {
                let text = engine_news::text(&news.what)?;
                (news.at, format!("{} {text}", name(info)))
            }
            Notice::EngineWait { .. } | Notice::Episode { .. } => return None,
        };
        let line = printable(&without_credentials(&line));
        Some(format!("{} {line}", clock.time_of_day(at)))
    }

    fn summary_text(&self, info: &LoopInfo, totals: &LoopTotals) -> String {
        let tally = self.tallies.get(&info.id).cloned().unwrap_or_default();
        let quantile = |q| quantile(totals, q);
        let mut text = format!(
            "{}: {} iterations, busy p50 {:.1} ms, p90 {:.1}, p99 {:.1}, max {:.1}",
            name(info),
            totals.iterations,
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            millis::of(totals.max)
        );
        let count: u64 = tally.stalls.values().sum();
        let _ = write!(
            text,
            "; {count} stalls, {:.1} ms in all",
            millis::of(tally.stalled)
        );
        for (kind, count) in &tally.stalls {
            let _ = write!(text, ", {count} x {}", kind.name());
        }
        let _ = write!(text, "; {} actions", tally.actions);
        text
    }
}

fn stalled(info: &LoopInfo, how: &str, view: &StallView) -> String {
    let (name, busy) = (name(info), busy(view));
    format!("{name} {how} for {busy}: {}", told::text(view))
}

fn closed(info: &LoopInfo, view: &StallView, rescued: bool, ended_by: EndedBy) -> String {
    let end = match (rescued, ended_by) {
        (true, _) => "RESCUED: the loop runs again",
        (false, EndedBy::Poll) => "the loop runs again",
        (false, EndedBy::Exit) => "the process ended",
        (false, EndedBy::Exec) => "the process ran another program",
        (false, EndedBy::Detached) => "not watched any more",
    };
    let (name, busy) = (name(info), busy(view));
    format!("{name} after {busy}: {end} ({})", told::text(view))
}

/// A sentence that stays one line and moves no cursor: an executable may be named with anything, escape codes included.
pub(in crate::export) fn printable(line: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    line.chars().map(plain).collect()
}

fn name(info: &LoopInfo) -> String {
    match &info.pod {
        Some(pod) => format!("{} in pod {pod}", process(info)),
        None => process(info),
    }
}

pub(in crate::export) fn process(info: &LoopInfo) -> String {
    let thread = if info.id.tid.0 == info.id.process.pid.0 {
        String::new()
    } else {
        format!("/{}", info.id.tid)
    };
    format!("{}[{}{thread}]", info.exe, info.id.process.pid)
}

fn busy(view: &StallView) -> String {
    let bound = if view.busy_is_lower_bound {
        "at least "
    } else {
        ""
    };
    format!("{bound}{:.1} ms", millis::of(view.busy))
}

pub(in crate::export) fn action_text(info: &LoopInfo, action: &ActionNotice) -> String {
    let (signal, child) = (
        action.signal.name(),
        format!("{}[{}]", action.child_exe, action.child),
    );
    let waited = format!("after {:.1} ms", millis::of(action.busy));
    let mut text = match action.outcome {
        Outcome::Sent => format!("{}: sent {signal} to {child} {waited}", name(info)),
        Outcome::WouldSend => format!(
            "{}: would send {signal} to {child} {waited} (observe mode)",
            name(info)
        ),
        Outcome::Refused(refusal) => {
            format!(
                "{}: no {signal} to {child} {waited}: {}: {}",
                name(info),
                refusal.name(),
                refusal.sentence()
            )
        }
        Outcome::Failed => format!("{}: {signal} to {child} failed {waited}", name(info)),
        Outcome::Gone => format!("{}: {child} was gone before {signal} {waited}", name(info)),
        Outcome::Ineffective => format!("{}: {signal} did not end {child}", name(info)),
    };
    if let Some(detail) = &action.detail {
        let _ = write!(text, " ({detail})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_forges_no_line_and_no_escape_code() {
        assert_eq!(printable("a\n\u{1b}[2Jb é"), "a\u{fffd}\u{fffd}[2Jb é");
    }
}
