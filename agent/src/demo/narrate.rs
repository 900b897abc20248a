//! What the demo says in words: the introduction, and a sentence for each thing that happens. Pure.

use std::time::Duration;

use super::happening::{GuardNote, Happening, Side};
use super::script::{SAMPLING, SAMPLING_ACTS_AFTER, Script};
use super::story::{Condition, Story};
use super::text::{BAD, FAINT, FAIR, GOOD, GUARD, Line, PLAIN, STRONG, Span};
use crate::config::duration;
use crate::demo::kubelet::Verdict;
use crate::pipeline::Mono;

/// What this is.
pub(super) fn title(guarded: bool) -> Line {
    let what = if guarded {
        "two servers, both engines wedged, one server guarded"
    } else {
        "a server whose engine is wedged, without a guard"
    };
    vec![
        (STRONG, " loopwarden demo".into()),
        (PLAIN, format!("   {what}")),
    ]
}

/// Under which conditions it runs. `plan` is how the guard watches, if there is one.
pub(super) fn introduction(script: &Script, grace: Duration, plan: Option<&str>) -> Vec<Line> {
    let spec = script.spec;
    let (period, timeout) = (
        duration::format(spec.period),
        duration::format(spec.timeout),
    );
    let (failures, seconds) = (spec.failures, script.expected().as_secs_f64());
    let patience = duration::format(script.termination_grace);
    let kubelet = format!(
        " kubelet: period {period}, timeout {timeout}, {failures} failures, grace {patience}; \
         about {seconds:.0} s"
    );
    let mut lines: Vec<Line> = vec![vec![(FAINT, kubelet)]];
    let Some(plan) = plan else { return lines };
    let by = if plan.is_empty() {
        String::new()
    } else {
        format!("   ({plan})")
    };
    let grace_text = duration::format(grace);
    let guard = format!(" guard: loopwarden watch --enforce --grace {grace_text}{by}");
    lines.push(vec![(FAINT, guard)]);
    if plan == SAMPLING {
        let late = SAMPLING_ACTS_AFTER + grace > spec.decision_after();
        let hint = if late {
            ", too late for this kubelet"
        } else {
            ""
        };
        let after = duration::format(SAMPLING_ACTS_AFTER);
        let text = format!(" No BPF here, so the guard samples and acts only after {after}{hint}.");
        lines.push(vec![(FAIR, text)]);
    }
    lines
}

/// The sentence for what happens to `story` at `at`, if it is worth one.
pub(super) fn sentence(story: &Story, at: Mono, what: &Happening, script: &Script) -> Option<Span> {
    let failures = script.spec.failures;
    let (style, text) = match what {
        Happening::Sent
        | Happening::Ended(..)
        | Happening::Gone
        | Happening::Probed(Verdict::Alive | Verdict::Kill(_)) => return None,
        Happening::Probed(Verdict::Failed(count)) => (
            FAIR,
            format!("kubelet: liveness probe failed, {count} of {failures}"),
        ),
        Happening::Terminated if matches!(story.condition(), Condition::Frozen { .. }) => (
            BAD,
            format!("kubelet: {failures} failures: SIGTERM; a frozen loop cannot react"),
        ),
        Happening::Terminated => (BAD, format!("kubelet: {failures} failures: SIGTERM")),
        Happening::Killed => {
            let grace = duration::format(script.termination_grace);
            (BAD, format!("kubelet: grace of {grace} is over: SIGKILL"))
        }
        Happening::Frozen { engine } => (
            BAD,
            format!("engine {engine} is wedged, and the loop waits for it"),
        ),
        Happening::Thawed => {
            let blocked = story.blocked_now(at).as_millis();
            (GOOD, format!("the loop is free again after {blocked} ms"))
        }
        Happening::Restarted { pid } => (FAINT, format!("kubelet: container restarted, pid {pid}")),
        Happening::Guard(note) => (GUARD, format!("loopwarden: {}", guard(note)?)),
    };
    let name = story.side.name();
    Some((style, format!("{name:<11}  {text}")))
}

/// The sentence for an end of the guard that nobody asked for.
pub(super) fn guard_gone() -> Span {
    let name = Side::Protected.name();
    (BAD, format!("{name:<11}  loopwarden: the guard has ended"))
}

fn guard(note: &GuardNote) -> Option<String> {
    Some(match note {
        GuardNote::Opened { busy_ms, cause } => {
            format!("sees the stall at {busy_ms:.0} ms: {cause}")
        }
        GuardNote::Action {
            signal,
            outcome,
            busy_ms,
            ..
        } if outcome == "sent" => {
            format!("ends the wedged engine at {busy_ms:.0} ms: {signal}")
        }
        GuardNote::Action {
            signal,
            outcome,
            refused_by,
            busy_ms,
        } => {
            let why = refused_by
                .as_ref()
                .map(|why| format!(", {why}"))
                .unwrap_or_default();
            format!("at {busy_ms:.0} ms: {signal} {outcome}{why}")
        }
        // The introduction tells that it watches, and the server itself that its loop is free.
        GuardNote::Watching { .. } | GuardNote::Closed { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn script() -> Script {
        let spec = "2s/1s/3".parse().expect("a specification");
        Script {
            start: ms(0),
            spec,
            termination_grace: Duration::from_secs(3),
        }
    }

    fn action(outcome: &str, refused_by: Option<&str>) -> Happening {
        Happening::Guard(GuardNote::Action {
            signal: "SIGKILL".into(),
            outcome: outcome.into(),
            refused_by: refused_by.map(str::to_owned),
            busy_ms: 500.4,
        })
    }

    #[test]
    fn what_happens_is_told_in_a_line_that_fits() {
        let mut story = Story::new(Side::Unprotected, 4_000_001, 50_000);
        let cause = "child_wait".into();
        for (at, what, expected) in [
            (1, Happening::Sent, None),
            (
                2,
                Happening::Ended(0, super::super::happening::Outcome::Answered),
                None,
            ),
            (3, Happening::Probed(Verdict::Alive), None),
            (
                4,
                Happening::Terminated,
                Some("kubelet: 3 failures: SIGTERM"),
            ),
            (
                5,
                Happening::Frozen { engine: 4_000_002 },
                Some("engine 4000002 is wedged"),
            ),
            (
                6,
                Happening::Probed(Verdict::Failed(2)),
                Some("probe failed, 2 of 3"),
            ),
            (7, Happening::Probed(Verdict::Kill(3)), None),
            (
                8,
                Happening::Terminated,
                Some("SIGTERM; a frozen loop cannot react"),
            ),
            (9, Happening::Killed, Some("grace of 3s is over: SIGKILL")),
            (
                10,
                Happening::Guard(GuardNote::Opened {
                    busy_ms: 100.2,
                    cause,
                }),
                Some("stall at 100 ms: child_wait"),
            ),
            (
                11,
                action("sent", None),
                Some("ends the wedged engine at 500 ms: SIGKILL"),
            ),
            (
                12,
                action("refused", Some("not_told_to_end")),
                Some("SIGKILL refused, not_told_to_end"),
            ),
            (13, action("ineffective", None), Some("SIGKILL ineffective")),
            (25, Happening::Thawed, Some("free again after 20 ms")),
            (26, Happening::Gone, None),
            (
                27,
                Happening::Restarted { pid: 4_000_003 },
                Some("container restarted, pid 4000003"),
            ),
        ] {
            let text = sentence(&story, ms(at), &what, &script()).map(|(_, text)| text);
            let fits = |text: &String| text.chars().count() <= 80 - " 100.0 s  ".len();
            assert!(text.iter().all(fits), "{text:?}");
            match expected {
                Some(words) => assert!(
                    text.as_ref().is_some_and(|text| text.contains(words)),
                    "{what:?}: {text:?}"
                ),
                None => assert_eq!(text, None, "{what:?}"),
            }
            story.tell(ms(at), what);
        }
    }

    #[test]
    fn the_introduction_names_the_guard_s_plan_and_its_limits() {
        let grace = Duration::from_millis(500);
        let text = |plan| {
            introduction(&script(), grace, plan)
                .concat()
                .into_iter()
                .map(|(_, text)| text)
                .collect::<String>()
        };
        assert!(
            text(None).contains("period 2s, timeout 1s, 3 failures, grace 3s; about 16 s"),
            "{}",
            text(None)
        );
        assert!(!text(None).contains("guard"));
        assert!(text(Some("tracepoint")).contains("watch --enforce --grace 500ms   (tracepoint)"));
        assert!(text(Some("")).ends_with("--grace 500ms"));
        assert!(text(Some(SAMPLING)).contains("acts only after 10s, too late for this kubelet"));
    }
}
