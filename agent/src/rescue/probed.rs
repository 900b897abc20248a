//! The ports of loops whose probe is known, and who connects to them.

use std::collections::HashMap;
use std::time::Duration;

use super::loops::Loop;
use super::sentinel::Sentinel;
use crate::kernel::{KernelError, clock};
use crate::pipeline::event::{KernelEvent, Listener, ProbeEnd};
use crate::pipeline::liveness::sharing::{self, Hold};
use crate::pipeline::liveness::{Client, ProbeSpec, Probes};
use crate::pipeline::{Mono, Pid, Tid};
use crate::proc;
use crate::target::scout::Question;

/// Where a process listens is asked again after this, and then more and more rarely: the tables of a node are long.
const ASK_AFTER: Duration = Duration::from_secs(5);
const ASK_AT_LEAST: Duration = Duration::from_mins(5);

/// Of a process that listens on more ports only so many are looked at.
const MOST_PORTS: usize = 32;
/// What is known of the probes of a container that ended is kept for its successor, of so many …
const MOST_PARKED: usize = 1024;
/// … and for so long: a container that ends again and again is started after 5 minutes (`CrashLoopBackOff`).
const PARKED_FOR: Duration = Duration::from_mins(10);

/// Which process listens where, and what is known of the probes there.
#[derive(Debug, Default)]
pub(super) struct Probed {
    ports: HashMap<Pid, Vec<Listener>>,
    /// Who has a port, and how.
    holders: HashMap<Listener, Vec<(Pid, Hold)>>,
    probes: HashMap<Listener, Probes>,
    /// Those of ports where nobody listens any more, and since when: the next container of the pod is probed in the same phase.
    parked: HashMap<Listener, (Probes, Mono)>,
    /// When to ask next where a process listens, and how long after the last time that is.
    asks: HashMap<Pid, (Mono, Duration)>,
    /// Connections cannot be seen here, and that was told.
    refused: bool,
    /// Network namespaces of the node and of the agent, once they could be read.
    node: Option<u32>,
    own: Option<u32>,
}

impl Probed {
    /// The ports of a process that are looked at, and their probes.
    pub(super) fn probes_of(&self, pid: Pid) -> impl Iterator<Item = (Listener, &Probes)> {
        let ports = self.ports.get(&pid).map_or(&[][..], Vec::as_slice);
        ports
            .iter()
            .filter_map(|port| Some((*port, self.probes.get(port)?)))
    }

    /// The probes of a port that is looked at.
    pub(super) fn probes_at(&self, port: Listener) -> Option<&Probes> {
        self.probes.get(&port)
    }

    /// Who else answers at a port of a process; nothing if it answers nobody there itself.
    pub(super) fn others(&self, pid: Pid, port: Listener) -> Option<Vec<Pid>> {
        let holders = self.holders.get(&port).map_or(&[][..], Vec::as_slice);
        sharing::others(pid, holders)
    }

    /// Whether the probe of who has a port in this way is the one that is looked for there: two containers of a pod may name the same.
    fn decides(&self, hold: Hold, port: Listener) -> bool {
        let others = self.holders.get(&port).into_iter().flatten();
        hold != Hold::Elsewhere || others.into_iter().all(|(_, other)| *other <= hold)
    }

    fn forget_holder(&mut self, pid: Pid, port: Listener) {
        if let Some(holders) = self.holders.get_mut(&port) {
            holders.retain(|(holder, _)| *holder != pid);
            if holders.is_empty() {
                self.holders.remove(&port);
            }
        }
    }

    fn park(&mut self, port: Listener, mut probes: Probes, killed: bool, now: Mono) {
        probes.paused(now, killed);
        self.parked
            .retain(|_, (_, since)| now.since(*since) < PARKED_FOR);
        if self.parked.len() < MOST_PARKED {
            self.parked.insert(port, (probes, now));
        }
    }

    fn is_elsewhere(&self, pid: Pid) -> bool {
        let mut ports = self.ports.get(&pid).into_iter().flatten();
        let of = |port| self.holders.get(port).into_iter().flatten();
        ports.any(|port| of(port).any(|holder| *holder == (pid, Hold::Elsewhere)))
    }

    fn are_seen(&self, pid: Pid, now: Mono) -> bool {
        let mut probes = self.probes_of(pid);
        probes.any(|(_, probes)| probes.are_seen(now))
    }
}

impl Sentinel {
    /// Asks where a process is probed, of which that is not known.
    pub(super) fn ask_for_ports(&mut self, now: Mono) {
        if self.probed.refused {
            return;
        }
        let unseen: HashMap<Pid, usize> = self
            .loops
            .values()
            .filter(|watched| watched.liveness.is_some())
            .map(|watched| (watched.id.process.pid, watched.target))
            .filter(|(pid, _)| {
                // Who does not listen where it is probed may do so later.
                !self.probed.are_seen(*pid, now) || self.probed.is_elsewhere(*pid)
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
        let Some((_, port)) = self.probe_of(pid, target) else {
            return;
        };
        let before = self.probed.asks.get(&pid);
        let after = before.map_or(ASK_AFTER, |(_, after)| ASK_AT_LEAST.min(*after * 2));
        self.probed.asks.insert(pid, (now.plus(after), after));
        self.ask(Question::Ports { pid, port });
    }

    /// A process listens on these ports, and on no others.
    pub(super) fn listens(&mut self, pid: Pid, holdings: Vec<(Listener, Hold)>) {
        let spec = self
            .loops
            .values()
            .filter(|watched| watched.id.process.pid == pid)
            .find_map(|watched| watched.liveness.as_ref());
        let Some(spec) = spec.map(|follower| *follower.spec()) else {
            return;
        };
        let now = clock::now();
        let before = self.probed.ports.remove(&pid);
        if before.is_none() && holdings.len() > MOST_PORTS {
            log::warn!(
                "process {pid} listens on {} ports, and probes are looked for on the lowest {MOST_PORTS}: name the one that is probed (--liveness …@PORT)",
                holdings.len()
            );
        }
        let before = before.unwrap_or_default();
        let mut watched = Vec::new();
        for port in &before {
            self.probed.forget_holder(pid, *port);
        }
        for (listener, hold) in holdings.into_iter().take(MOST_PORTS) {
            // Who names a port on the command line or in the configuration means it, whoever stands in front of the loop.
            let hold = if spec.of_pod {
                hold
            } else {
                hold.max(Hold::Named)
            };
            let decides = self.probed.decides(hold, listener);
            if let Some(probes) = self.probed.probes.get_mut(&listener) {
                if decides {
                    probes.follow(spec, now);
                }
            } else if let Err(error) = self.sensor.watch_port(listener) {
                log::warn!(
                    "the kubelet's probes of process {pid} are not seen, so that the forecast is as exact as their period: {error}. `loopwarden doctor` says what is missing"
                );
                // Too many ports are no reason not to try again with fewer.
                self.probed.refused = !matches!(error, KernelError::Map { .. });
                break;
            } else {
                let parked = self.probed.parked.remove(&listener);
                let mut probes = parked.map_or_else(|| Probes::new(spec), |(probes, _)| probes);
                probes.resumed(now);
                probes.follow(spec, now);
                self.probed.probes.insert(listener, probes);
            }
            let holders = self.probed.holders.entry(listener).or_default();
            holders.push((pid, hold));
            watched.push(listener);
        }
        let gone = before.into_iter().filter(|port| !watched.contains(port));
        let gone: Vec<Listener> = gone.collect();
        self.probed.ports.insert(pid, watched);
        self.forget_ports(gone, None);
    }

    /// It is another probe that decides about a process.
    pub(super) fn follows(&mut self, pid: Pid, spec: ProbeSpec, now: Mono) {
        for port in self.probed.ports.get(&pid).into_iter().flatten() {
            let holders = self.probed.holders.get(port).into_iter().flatten();
            let own = holders.filter(|(holder, _)| *holder == pid);
            let hold = own.map(|(_, hold)| *hold).max();
            if hold.is_some_and(|hold| !self.probed.decides(hold, *port)) {
                continue;
            }
            if let Some(probes) = self.probed.probes.get_mut(port) {
                probes.follow(spec, now);
            }
        }
    }

    /// A process is not probed any more. If that is because it has ended: whether it was told to.
    pub(super) fn listens_no_more(&mut self, pid: Pid, ended: Option<bool>) {
        self.probed.asks.remove(&pid);
        let before = self.probed.ports.remove(&pid).unwrap_or_default();
        for port in &before {
            self.probed.forget_holder(pid, *port);
        }
        self.forget_ports(before, ended);
    }

    /// Forgets those of these ports on which nobody listens any more.
    fn forget_ports(&mut self, ports: Vec<Listener>, ended: Option<bool>) {
        for port in ports {
            let used = self
                .probed
                .ports
                .values()
                .flatten()
                .any(|used| *used == port);
            if !used && let Some(probes) = self.probed.probes.remove(&port) {
                self.sensor.forget_port(port);
                if let Some(killed) = ended {
                    self.probed.park(port, probes, killed, clock::now());
                }
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
        let Some(of_node) = self.is_of_node(listener, from) else {
            return;
        };
        let pid = event.pid;
        if let Some(probes) = self.probed.probes.get_mut(&listener) {
            probes.began(Client { pid, of_node }, start);
            self.follow_risk_at(listener);
        }
    }

    pub(super) fn probe_ended(
        &mut self,
        event: &KernelEvent,
        listener: Listener,
        start: Mono,
        (how, from): (ProbeEnd, u32),
    ) {
        let Some(of_node) = self.is_of_node(listener, from) else {
            return;
        };
        let pid = event.pid;
        if let Some(probes) = self.probed.probes.get_mut(&listener) {
            probes.ended(Client { pid, of_node }, start, event.at, how);
            self.follow_risk_at(listener);
        }
    }

    /// Whether who connects from there does so from the node's own network; nothing if it is in the pod itself: such are sidecars,
    /// and a service mesh in front of the loop.
    fn is_of_node(&mut self, listener: Listener, from: u32) -> Option<bool> {
        let of = |pid: u32| proc::network_namespace(Pid(pid)).ok();
        let node = self.probed.node.or_else(|| of(1));
        let own = self.probed.own.or_else(|| of(std::process::id()));
        (self.probed.node, self.probed.own) = (node, own);
        // On the node's own network, and on that of who tries this out, everybody is in one namespace.
        let is_shared = [node, own].contains(&Some(from));
        (listener.netns != from || is_shared).then_some(is_shared)
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
            // Before anything is told of it.
            self.hurry(tid, now);
            self.follow_risk(tid, now);
        }
        // What is due next may have changed.
        self.due = self.due.min(now);
    }
}
