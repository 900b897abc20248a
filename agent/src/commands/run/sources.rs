//! What the exporters ask of the running agent: its loops, and its own state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::export::journal::JournalState;
use crate::export::{
    AgentSource, AgentStats, HookVerdict, JournalStats, KubernetesStats, LoopSource, MapFill,
};
use crate::kernel::{self, Plan, Totals};
use crate::kube;
use crate::pipeline::{LoopId, LoopInfo, LoopTotals, Notice};
use crate::rescue::Stats;

/// The loops that are watched now, kept from the notices on the output thread: the rescue thread shares no lock.
pub(super) struct Watched {
    totals: Arc<dyn Totals>,
    loops: Mutex<BTreeMap<LoopId, Arc<LoopInfo>>>,
}

impl Watched {
    pub(super) fn new(totals: Arc<dyn Totals>) -> Self {
        Self {
            totals,
            loops: Mutex::default(),
        }
    }

    pub(super) fn observe(&self, notice: &Notice) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Loop { info, .. } | Notice::Placed { info, .. } => {
                loops.insert(info.id, info.clone());
            }
            Notice::LoopEnded { info, .. } => {
                loops.remove(&info.id);
            }
            _ => {}
        }
    }
}

impl LoopSource for Watched {
    fn loops(&self) -> Vec<(Arc<LoopInfo>, LoopTotals)> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops
            .values()
            .filter_map(|info| Some((info.clone(), self.totals.totals(info.slot)?)))
            .collect()
    }
}

/// The agent's own state.
pub(super) struct Own {
    pub(super) journal: Arc<JournalState>,
    pub(super) hooks: Vec<HookVerdict>,
    pub(super) memory: Option<String>,
    pub(super) stats: Arc<Stats>,
    pub(super) kube: Option<Arc<kube::Health>>,
}

/// What came of each hook.
pub(super) fn hooks(plan: &Plan) -> Vec<HookVerdict> {
    let verdicts = plan.verdicts.iter();
    let told = verdicts.map(|(name, verdict)| HookVerdict {
        name: name.clone(),
        verdict: verdict.name().to_owned(),
        reason: verdict.reason().to_owned(),
    });
    told.collect()
}

fn part(name: &str, otherwise: &str, wrong: Option<String>) -> HookVerdict {
    HookVerdict {
        name: name.to_owned(),
        verdict: if wrong.is_some() { otherwise } else { "ok" }.to_owned(),
        reason: wrong.unwrap_or_default(),
    }
}

/// A verdict for each use of the API: what is not allowed is as good as not supported.
fn api_uses(report: &kube::Report) -> Vec<HookVerdict> {
    let verdict = |name: &&'static str| {
        let trouble = report.trouble.get(*name);
        let otherwise = match trouble {
            Some(trouble) if trouble.forbidden => "unsupported",
            _ => "broken",
        };
        part(
            name,
            otherwise,
            trouble.map(|trouble| trouble.error.clone()),
        )
    };
    report.uses.iter().map(verdict).collect()
}

impl AgentSource for Own {
    fn agent(&self) -> AgentStats {
        let (scan_lateness, scan_lateness_sum) = self.stats.lateness();
        let part = |name: &str, refused: Option<String>| part(name, "unsupported", refused);
        let mut hooks = self.hooks.clone();
        hooks.push(part("rescue.realtime", self.stats.no_priority()));
        hooks.push(part("rescue.locked_memory", self.memory.clone()));
        hooks.push(self::part("journal", "broken", self.journal.broken()));
        let kube = self.kube.as_ref().map(|health| health.report());
        hooks.extend(kube.iter().flat_map(api_uses));
        let (processes, threads) = self.stats.fill();
        let maps = vec![
            MapFill {
                name: "tasks",
                entries: processes,
                limit: u64::from(kernel::MAX_TASKS),
            },
            MapFill {
                name: "loops",
                entries: threads,
                limit: u64::from(kernel::MAX_LOOPS),
            },
        ];
        AgentStats {
            journal: Some(JournalStats {
                written: self.journal.written(),
                counted: self.journal.counted(),
                lost: self.journal.lost(),
                bytes: self.journal.bytes(),
            }),
            kubernetes: kube.map(|report| KubernetesStats {
                age: report.age,
                pods: report.pods,
                relists: report.relists,
                failures: report.errors,
                events: report.events,
                events_lost: report.events_lost,
            }),
            hooks,
            kernel_counters: self.stats.lost(),
            maps,
            scan_lateness,
            scan_lateness_sum,
        }
    }
}
