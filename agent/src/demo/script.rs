//! When what is due: the freeze, the end, and when to give up. Pure.

use std::time::Duration;

use super::happening::{Happening, Side};
use super::kubelet::{ProbeSpec, Worker};
use super::story::{Condition, Story};
use crate::pipeline::Mono;

/// The quiet before the freeze, so that everybody sees what normal is. It ends just before a liveliness request is due, so
/// that the longest wait for an answer tells the length of the freeze.
const LEAD_IN: Duration = Duration::from_millis(2990);
/// From the end of a container to its next process; a real proxy takes longer to answer again.
pub(super) const RESTART: Duration = Duration::from_secs(1);
/// The quiet afterwards.
const LEAD_OUT: Duration = Duration::from_millis(2500);
/// How much longer than expected it may take before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Short enough for a demo of a quarter of a minute.
const USUAL: ProbeSpec = ProbeSpec {
    period: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    failures: 3,
};

/// The guard's name for its last plan.
pub(super) const SAMPLING: &str = "sampling";
/// On that plan it does not know who told the engine to end, and waits this long before it acts (`unknown_grace`).
pub(super) const SAMPLING_ACTS_AFTER: Duration = Duration::from_secs(10);
/// A kubelet that leaves it the time.
const PATIENT: ProbeSpec = ProbeSpec {
    period: Duration::from_secs(6),
    timeout: Duration::from_secs(1),
    failures: 3,
};

/// The kubelet to play: the one asked for, else one that suits the guard's plan.
pub(super) fn choose_probe(asked: Option<ProbeSpec>, plan: Option<&str>) -> ProbeSpec {
    match (asked, plan) {
        (Some(spec), _) => spec,
        (None, Some(SAMPLING)) => PATIENT,
        (None, _) => USUAL,
    }
}

/// The course of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    /// The left edge of the timeline, and the first tick of the kubelets.
    pub(super) start: Mono,
    /// The kubelets' probe.
    pub(super) spec: ProbeSpec,
    /// From their SIGTERM to their SIGKILL.
    pub(super) termination_grace: Duration,
}

impl Script {
    /// When both servers are wedged.
    pub(super) fn wedge_at(&self) -> Mono {
        self.start.plus(LEAD_IN)
    }

    /// How long it takes if the unprotected server is killed.
    pub(super) fn expected(&self) -> Duration {
        let first_failed = Worker::new(self.spec, self.start).tick_after(self.wedge_at());
        let killed = first_failed.plus(self.spec.decision_after() + self.termination_grace);
        killed.plus(RESTART + LEAD_OUT).since(self.start)
    }

    /// When it is certain that the end will not come.
    pub(super) fn give_up_at(&self) -> Mono {
        self.start.plus(self.expected() + PATIENCE)
    }
}

/// Whether everything has happened to this server, and a quiet moment has passed.
pub(super) fn settled(story: &Story, now: Mono) -> bool {
    let quiet_since = story.last(|what| match what {
        Happening::Restarted { .. } => true,
        Happening::Thawed => story.side == Side::Protected,
        _ => false,
    });
    let answering = story.condition() == Condition::Answering;
    answering && quiet_since.is_some_and(|since| now.since(since) >= LEAD_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(spec: &str) -> Script {
        let spec = spec.parse().expect(spec);
        Script {
            start: Mono(7),
            spec,
            termination_grace: Duration::from_secs(3),
        }
    }

    #[test]
    fn the_usual_run_and_the_sampling_one_stay_below_a_minute() {
        for plan in [None, Some("tracepoint"), Some(SAMPLING)] {
            let spec = choose_probe(None, plan);
            let run = Script {
                spec,
                ..script("1s/1s/1")
            };
            assert!(
                run.expected() < Duration::from_mins(1),
                "{plan:?}: {:?}",
                run.expected()
            );
        }
        let run = Script {
            spec: USUAL,
            ..script("1s/1s/1")
        };
        // Wedged at 2.99 s; probes fail from 4 s on, the last at 9 s; SIGKILL at 12 s.
        assert_eq!(run.expected(), Duration::from_millis(15_500));
    }

    #[test]
    fn a_sampling_guard_gets_a_kubelet_that_leaves_it_the_time() {
        let decision = choose_probe(None, Some(SAMPLING)).decision_after();
        assert!(
            decision > SAMPLING_ACTS_AFTER + Duration::from_secs(2),
            "{decision:?}"
        );
        let asked = "1s/1s/1".parse().expect("a specification");
        assert_eq!(
            choose_probe(Some(asked), Some(SAMPLING)),
            asked,
            "who asks gets it"
        );
    }

    #[test]
    fn the_unprotected_server_is_settled_by_its_restart_only() {
        let ms = |ms: u64| Mono(ms * 1_000_000);
        let mut alone = Story::new(Side::Unprotected, 1, 1);
        let mut guarded = Story::new(Side::Protected, 2, 2);
        assert!(!settled(&guarded, ms(90_000)), "nothing has happened yet");
        for story in [&mut alone, &mut guarded] {
            story.tell(ms(3000), Happening::Frozen { engine: 3 });
            story.tell(ms(3500), Happening::Thawed);
        }
        assert!(!settled(&guarded, ms(5900)));
        assert!(settled(&guarded, ms(6000)));
        assert!(!settled(&alone, ms(6000)));
        alone.tell(ms(9000), Happening::Restarted { pid: 4 });
        assert!(settled(&alone, ms(11_500)));
        guarded.tell(ms(12_000), Happening::Gone);
        assert!(!settled(&guarded, ms(30_000)), "a restart is due");
    }
}
