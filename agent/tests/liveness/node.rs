//! A node with one pod of one container: the workers of `pkg/kubelet/prober/worker.go` (Kubernetes 1.34), line by line, and a container
//! whose loop stalls, that is killed or crashes, and is started again. Written from that file, not from what it is held against.

use std::collections::BTreeMap;
use std::time::Duration;

use loopwarden::pipeline::Mono;
use loopwarden::pipeline::event::ProbeEnd;
use loopwarden::pipeline::liveness::{ContainerProbes, ContainerState, Probe};

use crate::life::MS;

/// What happens to the container.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    pub(crate) probes: ContainerProbes,
    /// When the first container runs.
    pub(crate) runs_ms: u64,
    /// How long each container takes to listen.
    pub(crate) boots_ms: u64,
    /// How long it takes to start the next one.
    pub(crate) down_ms: u64,
    /// The first container ends by itself then.
    pub(crate) crash_ms: Option<u64>,
    /// Its loop is away between these.
    pub(crate) stalls_ms: Vec<(u64, u64)>,
    /// The kubelet was started a moment ago: each worker begins so much later.
    pub(crate) jitter_ms: [u64; 3],
}

/// Something that an agent on the node may learn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sight {
    /// A connection of the kubelet was completed.
    Began { start: Mono },
    /// It is over.
    Ended { start: Mono, how: ProbeEnd },
    /// The container listens.
    Listens,
    /// The container ended; it was told to or not.
    Gone { killed: bool },
    /// Its pod's status is another.
    Status(ContainerState),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// One worker.
#[derive(Debug)]
struct Worker {
    kind: Kind,
    spec: Probe,
    container: u32,
    last_success: Option<bool>,
    result_run: u32,
    on_hold: bool,
    /// What its results manager holds.
    result: bool,
    ticks_from: u64,
    under_way: Option<UnderWay>,
    triggered: bool,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    start: u64,
    serial: u64,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    Wake(usize),
    ProbeEnds(usize, u64, bool),
    Runs,
    Listens,
    Ends { killed: bool, container: u32 },
}

pub(crate) struct Node {
    fate: Fate,
    workers: Vec<Worker>,
    queue: BTreeMap<(u64, u64), Due>,
    serial: u64,
    container: u32,
    running_from: Option<u64>,
    listens_at: u64,
    started: bool,
    /// Everything that was to be seen, in order.
    pub(crate) sights: Vec<(Mono, Sight)>,
    /// When it was decided to kill.
    pub(crate) kills: Vec<Mono>,
    /// When the probe that decides was answered.
    pub(crate) answers: Vec<Mono>,
}

impl Node {
    /// Plays a fate until `end`.
    pub(crate) fn play(fate: Fate, end_ms: u64) -> Self {
        let probes = &fate.probes;
        let kinds = [
            (Kind::Startup, probes.startup),
            (Kind::Readiness, probes.readiness),
            (Kind::Liveness, probes.liveness),
        ];
        let workers = kinds.iter().filter_map(|(kind, spec)| {
            Some(Worker {
                kind: *kind,
                spec: (*spec)?,
                container: 0,
                last_success: None,
                result_run: 0,
                on_hold: false,
                result: *kind == Kind::Liveness,
                ticks_from: 0,
                under_way: None,
                triggered: false,
            })
        });
        let mut node = Self {
            workers: workers.collect(),
            queue: BTreeMap::new(),
            serial: 0,
            container: 0,
            running_from: None,
            listens_at: 0,
            started: false,
            sights: Vec::new(),
            kills: Vec::new(),
            answers: Vec::new(),
            fate,
        };
        for at in 0..node.workers.len() {
            // Before the container: images are pulled meanwhile.
            let begins = 1000 + node.fate.jitter_ms[at];
            node.workers[at].ticks_from = begins;
            node.later(begins, Due::Wake(at));
        }
        node.later(node.fate.runs_ms, Due::Runs);
        while let Some(((now, _), due)) = node.queue.pop_first() {
            if now > end_ms {
                break;
            }
            node.happen(now, due);
        }
        node
    }

    fn later(&mut self, at: u64, due: Due) {
        self.serial += 1;
        self.queue.insert((at, self.serial), due);
    }

    fn show(&mut self, now: u64, sight: Sight) {
        self.sights.push((Mono(now * MS), sight));
    }

    fn happen(&mut self, now: u64, due: Due) {
        match due {
            Due::Wake(worker) => self.do_probe(worker, now),
            Due::ProbeEnds(worker, serial, success) => {
                if let Some(under_way) = self.workers[worker].under_way
                    && under_way.serial == serial
                {
                    let how = if success {
                        ProbeEnd::Answered
                    } else {
                        ProbeEnd::GivenUp
                    };
                    self.probe_ends(worker, now, success, how);
                }
            }
            Due::Runs => {
                self.container += 1;
                self.running_from = Some(now);
                self.started = self.fate.probes.startup.is_none();
                self.listens_at = now + self.fate.boots_ms;
                self.later(self.listens_at, Due::Listens);
                if let Some(crash) = self.fate.crash_ms.filter(|_| self.container == 1) {
                    let ends = Due::Ends {
                        killed: false,
                        container: self.container,
                    };
                    self.later(crash, ends);
                }
                self.status(now);
            }
            Due::Listens => self.show(now, Sight::Listens),
            Due::Ends { killed, container } => self.ends(now, killed, container),
        }
    }

    fn status(&mut self, now: u64) {
        // As `normalizeStatus` has it: whole seconds.
        let since = self.running_from.map(|from| Mono(from / 1000 * 1000 * MS));
        let state = ContainerState {
            started: Some(self.started),
            running_since: since,
            killed_at: None,
        };
        self.show(now, Sight::Status(state));
    }

    fn ends(&mut self, now: u64, killed: bool, container: u32) {
        if self.container != container || self.running_from.is_none() {
            return;
        }
        self.running_from = None;
        self.show(now, Sight::Gone { killed });
        for worker in 0..self.workers.len() {
            if self.workers[worker].under_way.is_some() {
                // The kernel closes its connections. Nobody looks at that port any more.
                self.probe_ends(worker, now, false, ProbeEnd::Refused);
            }
        }
        self.later(now + self.fate.down_ms, Due::Runs);
    }

    /// `doProbe`, up to the request.
    fn do_probe(&mut self, at: usize, now: u64) {
        let (container, running, started) = (self.container, self.running_from, self.started);
        let worker = &mut self.workers[at];
        if worker.under_way.is_some() {
            return;
        }
        worker.triggered = false;
        if container == 0 {
            return self.sleep(at, now, now);
        }
        if worker.container != container {
            worker.container = container;
            worker.result = worker.kind == Kind::Liveness;
            worker.on_hold = false;
        }
        let Some(from) = running.filter(|_| !worker.on_hold) else {
            return self.sleep(at, now, now);
        };
        let whole_seconds = (now - from / 1000 * 1000) / 1000;
        let delayed = whole_seconds < worker.spec.initial_delay.as_secs();
        if delayed || started == (worker.kind == Kind::Startup) {
            return self.sleep(at, now, now);
        }
        self.serial += 1;
        let serial = self.serial;
        worker.under_way = Some(UnderWay { start: now, serial });
        if now < self.listens_at {
            return self.probe_ends(at, now, false, ProbeEnd::Refused);
        }
        let timeout = millis(worker.spec.timeout);
        let start = begun(at, now);
        self.show(now, Sight::Began { start });
        let stall = self
            .fate
            .stalls_ms
            .iter()
            .find(|(begin, end)| *begin <= now && now < *end);
        let answer = stall.map_or(now, |(_, end)| *end) + 2;
        let success = answer < now + timeout;
        let ends = if success { answer } else { now + timeout };
        self.later(ends, Due::ProbeEnds(at, serial, success));
    }

    /// `doProbe`, from the result on.
    fn probe_ends(&mut self, at: usize, now: u64, success: bool, how: ProbeEnd) {
        let Some(UnderWay { start, .. }) = self.workers[at].under_way.take() else {
            return;
        };
        if start >= self.listens_at && self.running_from.is_some() {
            let start = begun(at, start);
            self.show(now, Sight::Ended { start, how });
        }
        let worker = &mut self.workers[at];
        if success && worker.kind != Kind::Readiness {
            self.answers.push(Mono(now * MS));
        }
        if worker.last_success == Some(success) {
            worker.result_run += 1;
        } else {
            worker.last_success = Some(success);
            worker.result_run = 1;
        }
        let threshold = if success {
            worker.spec.success_threshold
        } else {
            worker.spec.failure_threshold
        };
        if worker.result_run >= threshold {
            let news = worker.result != success;
            worker.result = success;
            let kind = worker.kind;
            if kind == Kind::Startup || (kind == Kind::Liveness && !success) {
                worker.on_hold = true;
                worker.result_run = 0;
            }
            match (kind, success) {
                (Kind::Startup, true) => {
                    self.started = true;
                    self.status(now);
                    self.trigger_readiness(now);
                }
                (Kind::Readiness, false) if news => self.trigger_readiness(now),
                (Kind::Startup | Kind::Liveness, false) => self.kill(at, now),
                _ => {}
            }
        }
        self.sleep(at, start, now);
    }

    /// `UpdatePodStatus`: who is started and not ready is probed out of turn, and ticks from there on.
    fn trigger_readiness(&mut self, now: u64) {
        let readiness = self
            .workers
            .iter()
            .position(|worker| worker.kind == Kind::Readiness && !worker.result);
        if let Some(at) = readiness {
            self.workers[at].triggered = true;
            if self.workers[at].under_way.is_none() {
                self.workers[at].ticks_from = now;
                self.later(now, Due::Wake(at));
            }
        }
    }

    fn kill(&mut self, at: usize, now: u64) {
        if self.running_from.is_none() {
            return;
        }
        self.kills.push(Mono(now * MS));
        let own = self.workers[at].spec.termination_grace;
        let grace = millis(own.unwrap_or(self.fate.probes.termination_grace)).max(2000);
        // SIGTERM does not end a loop that is away.
        let stall = self
            .fate
            .stalls_ms
            .iter()
            .find(|(begin, end)| *begin <= now && now < *end);
        let ends = stall.map_or(now, |(_, end)| *end) + 100;
        let ends_at = ends.min(now + grace);
        let container = self.container;
        let killed = true;
        self.later(ends_at, Due::Ends { killed, container });
    }

    /// Until the next tick; one that passed meanwhile fires at once.
    fn sleep(&mut self, at: usize, start: u64, now: u64) {
        let worker = &mut self.workers[at];
        if worker.triggered {
            worker.ticks_from = now;
            return self.later(now, Due::Wake(at));
        }
        let period = millis(worker.spec.period);
        let ticks = (start - worker.ticks_from) / period + 1;
        let next = worker.ticks_from + ticks * period;
        // A Go ticker that is late fires once, and then in its own rhythm.
        self.later(next.max(now), Due::Wake(at));
    }
}

/// No two connections are asked for at the same time.
fn begun(worker: usize, now: u64) -> Mono {
    let own = u64::try_from(worker).unwrap_or_default() * 1000;
    Mono(now * MS + own)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
