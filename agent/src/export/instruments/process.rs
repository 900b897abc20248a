//! What is known of one process and its loops, and how it becomes series.

use std::collections::HashMap;
use std::time::Duration;

use super::{SETTLES, fold};
use crate::export::metric::Metric;
use crate::export::registry::{AttributeValue, Attributes, GroupId, Now, Registry, text, word};
use crate::pipeline::engines::EngineReady;
use crate::pipeline::liveness::{Level, RiskView};
use crate::pipeline::pod::PodName;
use crate::pipeline::{CauseKind, LoopId, LoopInfo, LoopTotals, Mono, PidKey};

/// A process as its series name it: after an exec the same id is another program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ProcessKey {
    pub(super) process: PidKey,
    pub(super) exe: String,
    pub(super) target: String,
}

#[derive(Debug)]
pub(super) struct Process {
    /// `None` if there was no room.
    pub(super) group: Option<GroupId>,
    /// Its loops.
    pub(super) loops: HashMap<LoopId, Loop>,
    /// What those have counted that ended some time ago: it stays part of the sum.
    pub(super) past: LoopTotals,
    /// What is known of its engines; nothing without engines.
    pub(super) engines: Option<EngineState>,
}

/// The engines of a process.
#[derive(Debug, Clone)]
pub(super) struct EngineState {
    /// Whether one accepts.
    pub(super) ready: EngineReady,
    /// How many have ended and are not reaped.
    pub(super) zombies: u64,
    /// The pod that the process runs in.
    pub(super) pod: Option<PodName>,
}

#[derive(Debug, Default)]
pub(super) struct Loop {
    pub(super) totals: LoopTotals,
    pub(super) ended: bool,
    /// The source has named it, so that its absence there means something.
    pub(super) listed: bool,
    /// Since when the source does not name it any more.
    pub(super) missing: Option<Mono>,
    pub(super) stall: Option<Stall>,
    /// What was last told of its liveness probe.
    pub(super) risk: Option<RiskView>,
}

#[derive(Debug)]
pub(super) struct Stall {
    pub(super) since: Mono,
    pub(super) cause: CauseKind,
    /// Iterations when it was first seen by a collection.
    pub(super) iterations: Option<u64>,
}

impl Loop {
    /// It is missing from the source for long, and no notice told its end.
    pub(super) fn is_over(&mut self, listed: bool, now: Mono) -> bool {
        if listed || !self.listed || self.ended {
            self.missing = None;
            return false;
        }
        now.since(*self.missing.get_or_insert(now)) >= SETTLES
    }

    /// A stall is one iteration: when two have ended since, the notice of its end was lost.
    pub(super) fn forget_missed_end(&mut self) {
        if let Some(stall) = &mut self.stall {
            let first = *stall.iterations.get_or_insert(self.totals.iterations);
            if self.totals.iterations > first + 1 {
                self.stall = None;
            }
        }
    }
}

impl Process {
    /// Keeps no more than the counts of loops that have ended: a server may start a thread with one for every request.
    pub(super) fn forget_ended(&mut self, may_come_back: impl Fn(LoopId) -> bool) {
        let past = &mut self.past;
        self.loops.retain(|id, record| {
            let is_over = record.ended && !may_come_back(*id);
            if is_over {
                past.absorb(&record.totals);
            }
            !is_over
        });
    }
}

/// Writes the counts and gauges of one process.
pub(super) fn show(registry: &mut Registry, process: &Process, now: Now) {
    let Some(group) = process.group else { return };
    let sum = |part: fn(&LoopTotals) -> Duration| {
        let loops = process.loops.values();
        loops.fold(part(&process.past), |sum, l| {
            sum.saturating_add(part(&l.totals))
        })
    };
    let busy = sum(|totals| totals.busy).as_secs_f64();
    registry.raise(
        group,
        Metric::LoopTime,
        vec![word("state", "active")],
        busy,
        now,
    );
    let idle = sum(|totals| totals.idle).as_secs_f64();
    registry.raise(
        group,
        Metric::LoopTime,
        vec![word("state", "idle")],
        idle,
        now,
    );
    let loops = process.loops.values().map(|l| &l.totals);
    let all = loops.chain([&process.past]);
    let counts = fold::iterations(all.map(|totals| &totals.histogram));
    registry.fill(group, Metric::LoopIteration, &counts, busy, now);
    let stalls = || process.loops.values().filter_map(|l| l.stall.as_ref());
    let oldest = stalls()
        .map(|stall| now.mono.since(stall.since))
        .max()
        .unwrap_or_default();
    registry.set(
        group,
        Metric::LoopStalled,
        vec![],
        oldest.as_secs_f64(),
        now,
    );
    for cause in CauseKind::ALL {
        let open = stalls().filter(|stall| stall.cause == cause).count();
        let own = vec![word("cause", cause.name())];
        registry.set(
            group,
            Metric::StallOpen,
            own,
            fold::number(open as u64),
            now,
        );
    }
    show_risk(registry, process, now);
}

/// Writes what is known of liveness probes: the worst of the loops of the process.
fn show_risk(registry: &mut Registry, process: &Process, now: Now) {
    let Some(group) = process.group else { return };
    let told = || {
        process
            .loops
            .values()
            .filter(|l| !l.ended)
            .filter_map(|l| l.risk.as_ref())
    };
    let Some(worst) = told().map(|risk| risk.level).max() else {
        return;
    };
    for level in Level::ALL {
        let own = vec![word("level", level.name())];
        let is = f64::from(u8::from(level == worst));
        registry.set(group, Metric::LivenessRisk, own, is, now);
    }
    let failed = told().map(|risk| risk.outlook.failed_probes).max();
    let failed = f64::from(failed.unwrap_or(0));
    registry.set(group, Metric::LivenessFailed, vec![], failed, now);
    let mut countdown = |metric: Metric, span: fn(&RiskView) -> Option<Duration>| {
        let left = |risk: &RiskView| Some(span(risk)?.saturating_sub(now.mono.since(risk.at)));
        match told().filter_map(left).min() {
            Some(left) => registry.set(group, metric, vec![], left.as_secs_f64(), now),
            None => registry.absent(group, metric, &vec![]),
        }
    };
    countdown(Metric::LivenessSigterm, |risk| risk.outlook.to_decision);
    countdown(Metric::LivenessSigkill, |risk| risk.outlook.to_sigkill);
}

pub(super) fn key_of(info: &LoopInfo) -> ProcessKey {
    ProcessKey {
        process: info.id.process,
        exe: info.exe.clone(),
        target: info.target.clone(),
    }
}

pub(super) fn base(info: &LoopInfo) -> Attributes {
    let mut attributes = vec![
        text("loopwarden.target", &info.target),
        text("process.executable.name", &info.exe),
        (
            "process.pid",
            AttributeValue::Int(i64::from(info.id.process.pid.0)),
        ),
    ];
    if let Some(pod) = &info.pod {
        attributes.push(text("k8s.namespace.name", &pod.namespace));
        attributes.push(text("k8s.pod.name", &pod.name));
        let container = pod.container.as_ref();
        attributes.extend(container.map(|name| text("k8s.container.name", name)));
    }
    attributes
}
