//! The risk that the kubelet kills a loop's container: looked at when it can have changed, told when it has.

use std::collections::BTreeSet;

use super::look::away_since;
use super::loops::Loop;
use super::probed::Probed;
use super::sentinel::Sentinel;
use crate::pipeline::event::Listener;
use crate::pipeline::liveness::{Follower, Outlook, Port, Situation, sharing};
use crate::pipeline::{Mono, Notice, Pid, Tid};

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
        let standing = self.standing(watched, away(watched, now), now);
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
        let ports = standing.ports(&self.probed);
        let situation = standing.situation(&ports);
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
        let standing = self.standing(watched, away(watched, now), now);
        let ports = standing.ports(&self.probed);
        liveness.free_by(now, standing.situation(&ports))
    }

    /// When the risk of a loop is to be looked at again.
    pub(super) fn risk_due(&self, watched: &Loop, now: Mono) -> Option<Mono> {
        let liveness = watched.liveness.as_ref()?;
        let standing = self.standing(watched, away(watched, now), now);
        let ports = standing.ports(&self.probed);
        liveness.due(now, standing.situation(&ports))
    }

    /// A stall is over that began at `since`: what its end says of the probe.
    pub(super) fn risk_at_the_end(&mut self, tid: Tid, since: Mono, at: Mono) -> Option<Outlook> {
        let watched = self.loops.get(&tid)?;
        let standing = self.standing(watched, Some(since), at);
        let liveness = self.loops.get_mut(&tid)?.liveness.as_mut()?;
        let ports = standing.ports(&self.probed);
        liveness.back(at, standing.situation(&ports))
    }

    /// How a loop that is away since then, or is not, stands in for its ports.
    fn standing(&self, watched: &Loop, own: Option<Mono>, now: Mono) -> Standing {
        let pid = watched.id.process.pid;
        if watched.liveness.is_none() {
            return Standing::default();
        }
        let mut ports = Vec::new();
        for (listener, _) in self.probed.probes_of(pid) {
            // Nobody is asked about while the loop itself polls.
            let others = own.and_then(|_| self.probed.others(pid, listener));
            let away = others.and_then(|others| {
                let others = others.into_iter().collect();
                sharing::away(own, self.aways_of(&others, now))
            });
            ports.push((listener, away));
        }
        // Where no port is known, each process is taken for the one that is probed.
        let away = if ports.is_empty() {
            own
        } else {
            ports.iter().filter_map(|(_, away)| *away).min()
        };
        Standing { away, ports }
    }

    /// Since when each loop of these processes is away, if it is.
    fn aways_of(&self, pids: &BTreeSet<Pid>, now: Mono) -> impl Iterator<Item = Option<Mono>> {
        let loops = self.loops.values().filter(|watched| watched.info.is_some());
        let theirs = loops.filter(|watched| pids.contains(&watched.id.process.pid));
        theirs.map(move |watched| away(watched, now))
    }
}

/// Since when nobody answers for a loop, in all and at each of its ports.
#[derive(Debug, Default)]
struct Standing {
    away: Option<Mono>,
    ports: Vec<(Listener, Option<Mono>)>,
}

impl Standing {
    fn ports<'a>(&self, probed: &'a Probed) -> Vec<Port<'a>> {
        let ports = self.ports.iter();
        let ports = ports.filter_map(|(listener, away)| {
            let probes = probed.probes_at(*listener)?;
            let away = *away;
            Some(Port { probes, away })
        });
        ports.collect()
    }

    fn situation<'a>(&self, ports: &'a [Port<'a>]) -> Situation<'a> {
        let away = self.away;
        Situation { away, ports }
    }
}

fn away(watched: &Loop, now: Mono) -> Option<Mono> {
    let open = watched.stall.as_ref().map(|stall| stall.since);
    let reading = watched.last.as_ref();
    open.or_else(|| away_since(watched, reading?, now))
}
