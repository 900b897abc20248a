//! News of engines, as series. They exist from the first word about whether a loop has an engine: of a target without engines there
//! is none.

use super::Instruments;
use super::fold;
use super::process::{EngineState, Process, ProcessKey, key_of};
use crate::export::metric::Metric;
use crate::export::ready::Readiness;
use crate::export::registry::{GroupId, Now, word};
use crate::pipeline::LoopInfo;
use crate::pipeline::engines::{EngineNews, News, Why};

/// The series that are there from the beginning; those of connections where connections are seen.
fn begin(instruments: &mut Instruments, group: GroupId, sees_connections: bool, now: Now) {
    let registry = &mut instruments.registry;
    for stage in ["listening", "accepting"] {
        registry.begin(
            group,
            Metric::EngineStartup,
            vec![word("stage", stage)],
            now,
        );
    }
    for why in Why::COUNTED {
        let own = vec![word("reason", why.name())];
        registry.begin(group, Metric::EngineGenerations, own, now);
    }
    registry.begin(group, Metric::RescueRecovery, vec![], now);
    if sees_connections {
        for outcome in ["ok", "refused"] {
            let own = vec![word("outcome", outcome)];
            registry.begin(group, Metric::EngineConnects, own, now);
        }
    }
}

impl Instruments {
    /// Whether the watched processes of targets with engines have one that accepts.
    pub(in crate::export) fn engines_ready(&self) -> Vec<Readiness> {
        let of = |(key, process): (&ProcessKey, &Process)| {
            let state = process.engines.as_ref()?;
            Some(Readiness {
                pid: key.process.pid,
                target: key.target.clone(),
                pod: state.pod.clone(),
                ready: state.ready,
            })
        };
        self.processes.iter().filter_map(of).collect()
    }

    /// Takes news of the engines of a loop's process; true if it should be pushed at once.
    pub(super) fn engine(&mut self, info: &LoopInfo, news: &News, now: Now) -> bool {
        // News of a process that is over begin nothing anew.
        let Some(process) = self.processes.get_mut(&key_of(info)) else {
            return false;
        };
        match (&news.what, &mut process.engines) {
            (EngineNews::Ready(ready), Some(known)) => known.ready = *ready,
            (EngineNews::Ready(ready), unknown) => {
                *unknown = Some(EngineState {
                    ready: *ready,
                    zombies: 0,
                    pod: None,
                });
            }
            (EngineNews::Zombies { count, .. }, Some(known)) => known.zombies = *count,
            _ => {}
        }
        let Some(group) = process.group else {
            return false;
        };
        let registry = &mut self.registry;
        match &news.what {
            EngineNews::Ready(_) => {
                self.engines_again(info, now);
                return true;
            }
            EngineNews::Zombies { .. } => self.engines_again(info, now),
            EngineNews::Listening {
                after: Some(after), ..
            } => {
                let own = vec![word("stage", "listening")];
                registry.observe(group, Metric::EngineStartup, own, after.as_secs_f64(), now);
            }
            EngineNews::Accepting {
                after: Some(after), ..
            } => {
                let own = vec![word("stage", "accepting")];
                registry.observe(group, Metric::EngineStartup, own, after.as_secs_f64(), now);
            }
            EngineNews::Ended { why, .. } if *why != Why::Unknown => {
                let own = vec![word("reason", why.name())];
                registry.add(group, Metric::EngineGenerations, own, 1.0, now);
            }
            EngineNews::Connects { ok, refused } => {
                for (outcome, count) in [("ok", *ok), ("refused", *refused)] {
                    let own = vec![word("outcome", outcome)];
                    let count = fold::number(count);
                    registry.add(group, Metric::EngineConnects, own, count, now);
                }
            }
            EngineNews::Recovered { after } => {
                let after = after.as_secs_f64();
                registry.observe(group, Metric::RescueRecovery, vec![], after, now);
            }
            EngineNews::StartupRace(_) => return true,
            EngineNews::Spawned(_)
            | EngineNews::Found(_)
            | EngineNews::Listening { .. }
            | EngineNews::Accepting { .. }
            | EngineNews::Ended { .. } => {}
        }
        false
    }

    /// Begins the series of engines, unless they are there, and brings the gauges up to date.
    pub(super) fn engines_again(&mut self, info: &LoopInfo, now: Now) {
        let Some(process) = self.processes.get_mut(&key_of(info)) else {
            return;
        };
        let (Some(state), Some(group)) = (&mut process.engines, process.group) else {
            return;
        };
        state.pod.clone_from(&info.pod);
        let (ready, zombies) = (state.ready, state.zombies);
        begin(self, group, info.plan != "sampling", now);
        let zombies = fold::number(zombies);
        self.registry
            .set(group, Metric::EngineZombies, vec![], zombies, now);
        for state in ["accepts", "starting", "unknown"] {
            let is = f64::from(u8::from(ready.name() == state));
            let own = vec![word("state", state)];
            self.registry.set(group, Metric::EngineReady, own, is, now);
        }
    }
}
