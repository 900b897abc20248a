//! The risk that the kubelet kills a loop's container: looked at when it can have changed, told when it has.

use super::look::away_since;
use super::loops::Loop;
use super::probed::Probed;
use super::sentinel::Sentinel;
use crate::pipeline::liveness::{Follower, Outlook, Situation};
use crate::pipeline::{Mono, Notice, Tid};

impl Sentinel {
    /// Brings the forecast of a loop up to date, and tells what there is to tell.
    pub(super) fn follow_risk(&mut self, tid: Tid, now: Mono) {
        let Some(watched) = self.loops.get(&tid) else {
            return;
        };
        let Some(info) = watched.info.clone() else {
            return;
        };
        let spec = self.probe_of(watched.id.process.pid, watched.target);
        let spec = spec.map(|(spec, _)| spec);
        let Some(watched) = self.loops.get_mut(&tid) else {
            return;
        };
        if watched.liveness.as_ref().map(Follower::spec) != spec.as_ref() {
            // Another configuration, pod or time of its life: what was told of the old probe is over.
            let before = watched.liveness.take();
            watched.liveness = spec.map(Follower::new);
            let (pid, target) = (watched.id.process.pid, watched.target);
            match spec {
                Some(spec) => {
                    self.follows(pid, spec, now);
                    self.ask_for_ports_of(pid, target, now);
                }
                None => self.listens_no_more(pid, None),
            }
            if let Some(risk) = before.and_then(|mut before| before.over(now)) {
                self.tell(Notice::Risk { info, risk });
            }
            return;
        }
        let away = away(watched, now);
        let probes = self.probed.probes_of(watched.id.process.pid);
        let situation = Situation {
            away,
            probes: &probes,
        };
        let told = watched
            .liveness
            .as_mut()
            .and_then(|liveness| liveness.look(now, situation));
        if let Some(risk) = told {
            self.tell(Notice::Risk { info, risk });
        }
    }

    /// Until when a loop has to be free, so that the kubelet does not decide to kill its container.
    pub(super) fn free_by(&self, watched: &Loop, now: Mono) -> Option<Mono> {
        let liveness = watched.liveness.as_ref()?;
        let situation = Situation {
            away: away(watched, now),
            probes: &self.probed.probes_of(watched.id.process.pid),
        };
        liveness.free_by(now, situation)
    }

    /// When the risk of a loop is to be looked at again.
    pub(super) fn risk_due(&self, watched: &Loop, now: Mono) -> Option<Mono> {
        let liveness = watched.liveness.as_ref()?;
        let situation = Situation {
            away: away(watched, now),
            probes: &self.probed.probes_of(watched.id.process.pid),
        };
        liveness.due(now, situation)
    }
}

/// A stall is over: what its end says of the probe.
pub(super) fn at_the_end(
    watched: &mut Loop,
    probed: &Probed,
    since: Mono,
    at: Mono,
) -> Option<Outlook> {
    let probes = probed.probes_of(watched.id.process.pid);
    watched.liveness.as_mut()?.back(since, at, &probes)
}

fn away(watched: &Loop, now: Mono) -> Option<Mono> {
    let open = watched.stall.as_ref().map(|stall| stall.since);
    let reading = watched.last.as_ref();
    open.or_else(|| away_since(watched, reading?, now))
}
