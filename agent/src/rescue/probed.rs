//! The ports of loops whose probe is known, and who connects to them.

use std::collections::HashMap;
use std::time::Duration;

use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::kernel::clock;
use crate::pipeline::event::{KernelEvent, Listener, ProbeEnd};
use crate::pipeline::liveness::{Probes, Situation};
use crate::pipeline::{Mono, Pid, Tid};
use crate::proc;
use crate::target::scout::Question;

/// Where a process listens is asked again after this, and then more and more rarely: the tables of a node are long.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_AT_LEAST: Duration = Duration::from_mins(5);

/// Which process listens where, and what is known of the probes there.
#[derive(Debug, Default)]
pub(super) struct Probed {
    ports: HashMap<Pid, Vec<Listener>>,
    probes: HashMap<Listener, Probes>,
    /// When to ask next where a process listens, and how long after the last time that is.
    asks: HashMap<Pid, (Mono, Duration)>,
    /// That connections cannot be seen was told.
    refused: bool,
    /// Network namespaces of the node and of the agent, read once.
    shared: Option<[u32; 2]>,
}

impl Probed {
    /// How a loop is, which is away since then.
    pub(super) fn situation(&self, watched: &Loop, away: Option<Mono>) -> Situation<'_> {
        Situation {
            away,
            probes: self.probes_of(watched.id.process.pid),
        }
    }

    /// The probes of a process; of those of several ports the ones that are seen.
    pub(super) fn probes_of(&self, pid: Pid) -> Option<&Probes> {
        let now = clock::now();
        let ports = self.ports.get(&pid)?;
        let mut probes = ports.iter().filter_map(|port| self.probes.get(port));
        let first = probes.clone().next();
        probes.find(|probes| probes.are_seen(now)).or(first)
    }
}

impl Sentinel {
    /// Asks where a process is probed, of which that is not known.
    pub(super) fn ask_for_ports(&mut self, now: Mono) {
        let unseen: Vec<(Pid, usize)> = self
            .loops
            .values()
            .filter(|watched| watched.liveness.is_some())
            .map(|watched| (watched.id.process.pid, watched.target))
            .filter(|(pid, _)| {
                let probes = self.probed.probes_of(*pid);
                !probes.is_some_and(|probes| probes.are_seen(now))
            })
            .collect();
        for (pid, target) in unseen {
            let before = self.probed.asks.get(&pid);
            if before.is_none_or(|(next, _)| *next <= now) {
                self.ask_for_ports_of(pid, target, now);
            }
        }
    }

    /// Asks where a process of that target is probed.
    pub(super) fn ask_for_ports_of(&mut self, pid: Pid, target: usize, now: Mono) {
        let Some(target) = self.settings.targets.get(target) else {
            return;
        };
        let port = target.probed_port;
        let before = self.probed.asks.get(&pid);
        let after = before.map_or(ASK_AFTER, |(_, after)| ASK_AT_LEAST.min(*after * 2));
        self.probed.asks.insert(pid, (now.plus(after), after));
        self.ask(Question::Ports { pid, port });
    }

    /// A process listens on these ports, and on no others.
    pub(super) fn listens(&mut self, pid: Pid, listeners: Vec<Listener>) {
        let spec = self
            .loops
            .values()
            .filter(|watched| watched.id.process.pid == pid)
            .find_map(|watched| watched.liveness.as_ref());
        let Some(spec) = spec.map(|follower| *follower.spec()) else {
            return;
        };
        for listener in &listeners {
            if let Some(probes) = self.probed.probes.get_mut(listener) {
                if *probes.spec() != spec {
                    *probes = Probes::new(spec);
                }
                continue;
            }
            if let Err(error) = self.sensor.watch_port(*listener) {
                if !self.probed.refused {
                    log::warn!(
                        "the kubelet's probes are not seen, so that the forecast is as exact as their period: {error}"
                    );
                }
                self.probed.refused = true;
                return;
            }
            self.probed.probes.insert(*listener, Probes::new(spec));
        }
        let before = self.probed.ports.insert(pid, listeners);
        self.forget_ports(before.unwrap_or_default());
    }

    /// A process has ended.
    pub(super) fn listens_no_more(&mut self, pid: Pid) {
        self.probed.asks.remove(&pid);
        let before = self.probed.ports.remove(&pid);
        self.forget_ports(before.unwrap_or_default());
    }

    /// Forgets those of these ports on which nobody listens any more.
    fn forget_ports(&mut self, ports: Vec<Listener>) {
        for port in ports {
            let used = self
                .probed
                .ports
                .values()
                .flatten()
                .any(|used| *used == port);
            if !used && self.probed.probes.remove(&port).is_some() {
                self.sensor.forget_port(port);
            }
        }
    }

    pub(super) fn probe_began(
        &mut self,
        event: &KernelEvent,
        listener: Listener,
        start: Mono,
        from: u32,
    ) {
        if self.is_inside(listener, from) {
            return;
        }
        if let Some(probes) = self.probed.probes.get_mut(&listener) {
            probes.began(event.pid, start);
            self.follow_risk_at(listener);
        }
    }

    pub(super) fn probe_ended(
        &mut self,
        event: &KernelEvent,
        listener: Listener,
        start: Mono,
        how: ProbeEnd,
    ) {
        if let Some(probes) = self.probed.probes.get_mut(&listener) {
            probes.ended(event.pid, start, event.at, how);
            self.follow_risk_at(listener);
        }
    }

    /// Whether who connects is in the pod itself: such are sidecars, and a service mesh in front of the loop.
    fn is_inside(&mut self, listener: Listener, from: u32) -> bool {
        if listener.netns != from {
            return false;
        }
        let shared = *self.probed.shared.get_or_insert_with(|| {
            [1, std::process::id()].map(|pid| proc::network_namespace(Pid(pid)).unwrap_or(0))
        });
        // On the node's own network, and on that of who tries this out, everybody is in one namespace.
        !shared.contains(&from)
    }

    fn follow_risk_at(&mut self, listener: Listener) {
        let now = clock::now();
        let there = |watched: &&Loop| {
            let ports = self.probed.ports.get(&watched.id.process.pid);
            ports.is_some_and(|ports| ports.contains(&listener))
        };
        let concerned: Vec<Tid> = self
            .loops
            .values()
            .filter(there)
            .map(|watched| watched.id.tid)
            .collect();
        for tid in concerned {
            self.follow_risk(tid, now);
        }
        // What is due next may have changed.
        self.due = self.due.min(now);
    }
}
