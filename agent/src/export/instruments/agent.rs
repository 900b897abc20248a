//! Series about the agent itself.

use super::{Instruments, fold};
use crate::export::metric::Metric;
use crate::export::registry::{Now, Registry, text, word};
use crate::export::source::{AgentStats, KubernetesStats};

/// Words a verdict can have; one series each, so that an alert needs no join.
const VERDICTS: [&str; 3] = ["ok", "unsupported", "broken"];

/// What this process uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OwnUse {
    /// CPU time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
}

impl Instruments {
    /// Takes the agent's own state.
    pub fn agent(&mut self, stats: &AgentStats, own_use: OwnUse, now: Now) {
        let (held, refused) = (self.registry.held(), self.registry.refused());
        let agent = Registry::AGENT;
        let registry = &mut self.registry;
        for hook in &stats.hooks {
            for verdict in VERDICTS {
                let own = vec![text("hook", &hook.name), word("verdict", verdict)];
                registry.set(
                    agent,
                    Metric::AgentHook,
                    own,
                    f64::from(u8::from(hook.verdict == verdict)),
                    now,
                );
            }
        }
        for (counter, count) in &stats.kernel_counters {
            registry.raise(
                agent,
                Metric::AgentKernel,
                vec![word("counter", counter)],
                fold::number(*count),
                now,
            );
        }
        for map in &stats.maps {
            let own = vec![word("map", map.name)];
            registry.set(
                agent,
                Metric::AgentMapEntries,
                own.clone(),
                fold::number(map.entries),
                now,
            );
            registry.set(
                agent,
                Metric::AgentMapLimit,
                own,
                fold::number(map.limit),
                now,
            );
        }
        if let Some(journal) = &stats.journal {
            for (outcome, count) in [
                ("written", journal.written),
                ("counted", journal.counted),
                ("lost", journal.lost),
            ] {
                registry.raise(
                    agent,
                    Metric::AgentJournalIncidents,
                    vec![word("outcome", outcome)],
                    fold::number(count),
                    now,
                );
            }
            let bytes = fold::number(journal.bytes);
            registry.set(agent, Metric::AgentJournalBytes, vec![], bytes, now);
        }
        if let Some(kubernetes) = &stats.kubernetes {
            self.kubernetes(kubernetes, now);
        }
        let registry = &mut self.registry;
        let scans = fold::scans(&stats.scan_lateness);
        registry.fill(
            agent,
            Metric::AgentScan,
            &scans,
            stats.scan_lateness_sum.as_secs_f64(),
            now,
        );
        registry.raise(agent, Metric::AgentCpu, vec![], own_use.cpu_seconds, now);
        registry.set(
            agent,
            Metric::AgentMemory,
            vec![],
            fold::number(own_use.resident_bytes),
            now,
        );
        registry.set(
            agent,
            Metric::AgentBuild,
            vec![word("version", env!("CARGO_PKG_VERSION"))],
            1.0,
            now,
        );
        registry.set(
            agent,
            Metric::AgentSeries,
            vec![],
            fold::number(held as u64),
            now,
        );
        registry.raise(
            agent,
            Metric::AgentSeriesRefused,
            vec![],
            fold::number(refused),
            now,
        );
    }

    fn kubernetes(&mut self, stats: &KubernetesStats, now: Now) {
        let (agent, registry) = (Registry::AGENT, &mut self.registry);
        if let Some(age) = stats.age {
            registry.set(agent, Metric::AgentPodsAge, vec![], age.as_secs_f64(), now);
        }
        let pods = fold::number(stats.pods);
        registry.set(agent, Metric::AgentPods, vec![], pods, now);
        for (metric, outcome, count) in [
            (Metric::AgentKubernetesFailures, None, stats.failures),
            (Metric::AgentKubernetesRelists, None, stats.relists),
            (Metric::AgentKubernetesEvents, Some("written"), stats.events),
            (
                Metric::AgentKubernetesEvents,
                Some("lost"),
                stats.events_lost,
            ),
        ] {
            let own = outcome.map(|outcome| word("outcome", outcome));
            let own = own.into_iter().collect();
            registry.raise(agent, metric, own, fold::number(count), now);
        }
    }

    /// Takes the counters of the exporters themselves: by exporter, failures and items dropped.
    pub fn exporters(
        &mut self,
        counts: &[(&'static str, u64, u64)],
        notices_dropped: u64,
        now: Now,
    ) {
        let agent = Registry::AGENT;
        for (exporter, failures, dropped) in counts {
            let own = || vec![word("exporter", exporter)];
            self.registry.raise(
                agent,
                Metric::AgentExportFailures,
                own(),
                fold::number(*failures),
                now,
            );
            self.registry.raise(
                agent,
                Metric::AgentExportDropped,
                own(),
                fold::number(*dropped),
                now,
            );
        }
        self.registry.raise(
            agent,
            Metric::AgentNoticesDropped,
            vec![],
            fold::number(notices_dropped),
            now,
        );
    }
}
