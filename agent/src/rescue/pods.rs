//! In which pods the watched processes run: what is told of them carries the pod's name, and what the pod asks for and tells of its
//! containers holds.

use std::sync::Arc;

use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::pipeline::family::{Container, Process};
use crate::pipeline::liveness::{self, ProbeSpec, Threat};
use crate::pipeline::place::{Place, Seat};
use crate::pipeline::pod::{Found, PodName};
use crate::pipeline::{LoopInfo, Mono, Notice, Pid, Tid};
use crate::proc;
use crate::target::scout::Matching;

impl Sentinel {
    /// The name of the pod that a process runs in, as far as it is known.
    pub(super) fn pod_name(&self, process: &Process) -> Option<PodName> {
        let found = self.rules.pod(process.seat.as_ref()?)?;
        Some(found.name())
    }

    /// The number of the target of that name for a process in that container.
    pub(super) fn number_of(&self, target: usize, seat: Option<&Seat>) -> Option<usize> {
        let name = &self.settings.targets.get(target)?.name;
        self.rules.number(name, seat)
    }

    /// A process was found there: from now on what holds in its pod holds for it.
    pub(super) fn placed(&mut self, pid: Pid, place: &Place, now: Mono) {
        if place.is_unknown && self.told_unknown.insert(pid) {
            log::warn!(
                "process {pid} is in cgroups of a form that is not known, or that contradict each other: its pod is not known, so that the configuration alone holds for it"
            );
            self.tell(Notice::Lost {
                at: now,
                what: "cgroup_unknown".into(),
                count: 1,
            });
        }
        let Some(process) = self.family.get_mut(pid) else {
            return;
        };
        // Who is ending shows no cgroup of its own any more. It stays in its pod, and what that asked for holds to the end.
        if process.seat == place.seat || place.seat.is_none() {
            return;
        }
        process.seat.clone_from(&place.seat);
        let (key, target) = (process.key, process.target);
        match self.number_of(target, place.seat.as_ref()) {
            Some(number) if number != target => self.moved(pid, target, number),
            Some(_) => {}
            // Nothing in that pod is to be watched.
            None => return self.let_go(key),
        }
        self.name_loops(pid, now);
    }

    /// Reads again in which containers a process is, as far as its cgroups tell. Who has begun to end stays where it was.
    pub(super) fn place_anew(&mut self, pid: Pid) {
        let Some(process) = self.family.get_mut(pid) else {
            return;
        };
        let (Some(known), Some(place)) = (&process.container, proc::place_if_told(pid)) else {
            return;
        };
        // Namespaces that a process makes for itself after it was run do not make it another container's.
        if place.containers.is_none() && matches!(known, Container::Namespaces(_)) {
            return;
        }
        if let Ok(container) = proc::container(pid, &place) {
            process.container = Some(container);
        }
    }

    /// Tells of the loops of a process under the name of its pod, if that has changed.
    pub(super) fn name_loops(&mut self, pid: Pid, now: Mono) {
        let Some(process) = self.family.get(pid) else {
            return;
        };
        let pod = self.pod_name(process);
        let mut renamed: Vec<Arc<LoopInfo>> = Vec::new();
        for tid in self.threads_of(pid) {
            renamed.extend(self.rename(tid, pod.as_ref()));
        }
        for info in renamed {
            self.tell(Notice::Placed { at: now, info });
        }
    }

    fn rename(&mut self, tid: Tid, pod: Option<&PodName>) -> Option<Arc<LoopInfo>> {
        let info = self.loops.get_mut(&tid)?.info.as_mut()?;
        // A pod that is not told of any more is being removed: its loops keep their name until they end.
        let pod = pod.filter(|pod| info.pod.as_ref() != Some(*pod))?;
        let renamed = Arc::new(LoopInfo {
            pod: Some(pod.clone()),
            ..LoopInfo::clone(info)
        });
        *info = renamed.clone();
        Some(renamed)
    }

    /// Of a loop whose pod tells something else of its container than by the rules before, the risk is another at once.
    pub(super) fn follow_containers(&mut self, before: &dyn Matching, now: Mono) {
        let concerned = |watched: &&Loop| {
            let process = self.family.get(watched.id.process.pid);
            let seat = process.and_then(|process| process.seat.as_ref());
            seat.is_some_and(|seat| life_in(before, seat) != life_in(&*self.rules, seat))
        };
        let loops = self.loops.values().filter(concerned);
        for tid in loops.map(|watched| watched.id.tid).collect::<Vec<_>>() {
            self.follow_risk(tid, now);
            self.hurry(tid, now);
        }
        self.due = self.due.min(now);
    }

    /// Until when its pod gives a process to end that was told to, where the pod is known.
    pub(super) fn ends_by(&self, process: &Process) -> Option<Mono> {
        let told = process.ending?;
        let found = self.rules.pod(process.seat.as_ref()?)?;
        Some(found.container()?.life.ends_by(told))
    }

    /// The probe that a stall of a process lets fail, and its port where that is known: what its pod says, and only where no pod
    /// tells what the configuration does.
    pub(super) fn probe_of(&self, pid: Pid, target: usize) -> Option<(ProbeSpec, Option<u16>)> {
        let target = self.settings.targets.get(target)?;
        let seat = self
            .family
            .get(pid)
            .and_then(|process| process.seat.as_ref());
        let found = seat.and_then(|seat| self.rules.pod(seat));
        let Some(container) = found.as_ref().and_then(Found::container) else {
            return Some((target.liveness?, target.probed_port));
        };
        let configured = target.liveness.map(|spec| spec.imminent_margin);
        let margin = configured.unwrap_or(ProbeSpec::IMMINENT_MARGIN);
        match container.life.threat(margin) {
            Threat::Probe { spec, port } => Some((spec, Some(port))),
            Threat::Nothing(_) | Threat::Deletion { .. } => None,
        }
    }
}

/// What its pod says of the container, as the kubelet placed it: what that makes below itself can be named like another.
fn life_in(rules: &dyn Matching, seat: &Seat) -> Option<liveness::Container> {
    let found = rules.pod(seat)?;
    Some(found.container()?.life.clone())
}

#[cfg(test)]
mod tests;
