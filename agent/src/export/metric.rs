//! The instruments: name, unit, kind, attributes and meaning of every metric, in one table.
//!
//! The table is the contract with dashboards and alerts: the text page, OTLP and docs/metrics.md are all made of it. It
//! holds no values (see `registry`) and must never be changed at run time.

use super::names;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down; it is gone when its process is.
    Gauge,
    /// Counts by value; the upper bounds are inclusive and ascending, the last bucket (no bound) is implied.
    Histogram(&'static [f64]),
}

/// What a series of a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A watched process: the series carry [`COMMON`] and end with it.
    Process,
    /// The agent itself.
    Agent,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Instrument {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// Unit in UCUM: `s`, `By` or an annotation.
    pub unit: &'static str,
    /// Kind of number.
    pub kind: Kind,
    /// What the series are about.
    pub scope: Scope,
    /// Attributes of its own, beside those of the scope.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Attributes of every series about a process.
pub const COMMON: [&str; 3] = [
    "loopwarden.target",
    "process.executable.name",
    "process.pid",
];

/// Powers of two of a nanosecond, in seconds: exact bounds of the kernel's buckets (16 µs to 69 s), so that folding
/// them moves no count across a bound.
pub const ITERATION_BOUNDS: [f64; 20] = {
    let shifts = [
        14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36,
    ];
    let mut bounds = [0.0; 20];
    let mut i = 0;
    while i < shifts.len() {
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let nanos = (1u64 << shifts[i]) as f64;
        bounds[i] = nanos / 1e9;
        i += 1;
    }
    bounds
};

/// Waits and stalls: from the shortest grace in use to two minutes, past which a kubelet has acted long ago.
pub const STALL_BOUNDS: [f64; 13] = [
    0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
];

/// Startups of engines: from some milliseconds to the five minutes of the incident, and twice that.
pub const STARTUP_BOUNDS: [f64; 14] = [
    0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

macro_rules! metrics {
    ($($id:ident: $name:literal, $unit:literal, $kind:expr, $scope:ident, [$($attribute:literal),*], $help:literal;)*) => {
        /// A metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the help text of the table says it")]
        pub enum Metric { $($id),* }

        impl Metric {
            /// All, in the order in which they are shown.
            pub const ALL: &[Metric] = &[$(Metric::$id),*];

            /// Its row.
            #[must_use]
            pub const fn instrument(self) -> &'static Instrument {
                match self {
                    $(Metric::$id => &Instrument {
                        name: $name, unit: $unit, kind: $kind, scope: Scope::$scope,
                        attributes: &[$($attribute),*], help: $help,
                    },)*
                }
            }
        }
    };
}

metrics! {
    LoopTime: "loopwarden.loop.time", "s", Kind::Counter, Process, ["state"],
        "Time of the loop inside its poll (idle) and in finished iterations (active)";
    LoopIteration: "loopwarden.loop.iteration.duration", "s", Kind::Histogram(&ITERATION_BOUNDS), Process, [],
        "Length of finished loop iterations, aggregated in the kernel";
    LoopStalled: "loopwarden.loop.stalled", "s", Kind::Gauge, Process, [],
        "Age of the stall going on now, 0 if there is none";
    StallDuration: "loopwarden.stall.duration", "s", Kind::Histogram(&STALL_BOUNDS), Process, ["cause"],
        "Length of closed stalls by what the loop was stuck on";
    StallOpen: "loopwarden.stall.open", "{stall}", Kind::Gauge, Process, ["cause"],
        "Stalls going on now by what the loop is stuck on";
    EngineWait: "loopwarden.engine.wait.duration", "s", Kind::Histogram(&STALL_BOUNDS), Process, [],
        "Finished waits of the loop thread for an engine";
    EngineStartup: "loopwarden.engine.startup.duration", "s", Kind::Histogram(&STARTUP_BOUNDS), Process, ["stage"],
        "Start of an engine until it listened, and until it had accepted its first connection";
    EngineConnects: "loopwarden.engine.connects", "{connect}", Kind::Counter, Process, ["outcome"],
        "Connections of the loop's process to its engines, completed and refused; absent where connections are not seen";
    EngineGenerations: "loopwarden.engine.generations", "{engine}", Kind::Counter, Process, ["reason"],
        "Engines that ended while their loop's process went on, by why";
    EngineZombies: "loopwarden.engine.zombies", "{engine}", Kind::Gauge, Process, [],
        "Engines that have ended more than 5 s ago and are not reaped";
    EngineReady: "loopwarden.engine.ready", "{engine}", Kind::Gauge, Process, ["state"],
        "1 for whether the loop's process has an engine that accepts (accepts, starting, unknown), 0 for the others";
    ActionSignals: "loopwarden.action.signals", "{signal}", Kind::Counter, Process,
        ["signal", "mode", "outcome", "refused_by"],
        "Signals that were sent, would have been sent, or were refused";
    RescueDuration: "loopwarden.rescue.duration", "s", Kind::Histogram(&STALL_BOUNDS), Process, [],
        "Start of a stall until the loop polled again, rescued stalls only";
    RescueRecovery: "loopwarden.rescue.recovery.duration", "s", Kind::Histogram(&STARTUP_BOUNDS), Process, [],
        "Rescue until a new engine had accepted its first connection";
    LivenessFailed: "loopwarden.liveness.failed_probes", "{probe}", Kind::Gauge, Process, [],
        "Liveness probes that are certain to have failed in a row so far";
    LivenessSigterm: "loopwarden.liveness.time_to_sigterm", "s", Kind::Gauge, Process, [],
        "Forecast: until the kubelet decides to kill the container; absent while the loop runs";
    LivenessSigkill: "loopwarden.liveness.time_to_sigkill", "s", Kind::Gauge, Process, [],
        "Forecast: until SIGKILL, if the container does not end before; absent while the loop runs";
    LivenessRisk: "loopwarden.liveness.risk", "{risk}", Kind::Gauge, Process, ["level"],
        "1 for the level of the risk that the kubelet kills the container, 0 for the others";
    AgentLoops: "loopwarden.agent.loops", "{loop}", Kind::Gauge, Agent, [],
        "Loops watched now";
    AgentLost: "loopwarden.agent.lost.events", "{event}", Kind::Counter, Agent, ["what"],
        "Things that were lost, by what";
    AgentKernel: "loopwarden.agent.kernel.events", "{event}", Kind::Counter, Agent, ["counter"],
        "Counters of the kernel half: drops and impossible readings";
    AgentMapEntries: "loopwarden.agent.map.entries", "{entry}", Kind::Gauge, Agent, ["map"],
        "Entries in use of a kernel map";
    AgentMapLimit: "loopwarden.agent.map.limit", "{entry}", Kind::Gauge, Agent, ["map"],
        "Entries that a kernel map can hold";
    AgentHook: "loopwarden.agent.hook.verdict", "{hook}", Kind::Gauge, Agent, ["hook", "verdict"],
        "1 for the verdict of a hook or optional part, 0 for the other verdicts";
    AgentScan: "loopwarden.agent.scan.lateness", "s", Kind::Histogram(&SCAN_BOUNDS), Agent, [],
        "How much later than due the agent looked at the loops";
    AgentNoticesDropped: "loopwarden.agent.notices.dropped", "{notice}", Kind::Counter, Agent, [],
        "Notices that the exporters did not take because they were behind";
    AgentExportFailures: "loopwarden.agent.export.failures", "{failure}", Kind::Counter, Agent, ["exporter"],
        "Attempts to export that failed, by exporter";
    AgentExportDropped: "loopwarden.agent.export.dropped", "{item}", Kind::Counter, Agent, ["exporter"],
        "Data points and log records given up, by exporter";
    AgentJournalIncidents: "loopwarden.agent.journal.incidents", "{incident}", Kind::Counter, Agent, ["outcome"],
        "Incidents that were over: written in full, only counted, or lost to the journal";
    AgentPodsAge: "loopwarden.agent.kubernetes.age", "s", Kind::Gauge, Agent, [],
        "Since when the Kubernetes API has not shown that what is known of the pods is current";
    AgentPods: "loopwarden.agent.kubernetes.pods", "{pod}", Kind::Gauge, Agent, [],
        "Pods of this node that are known";
    AgentKubernetesFailures: "loopwarden.agent.kubernetes.failures", "{failure}", Kind::Counter, Agent, [],
        "Requests and watches of the Kubernetes API that failed";
    AgentKubernetesRelists: "loopwarden.agent.kubernetes.relists", "{list}", Kind::Counter, Agent, [],
        "Lists of pods begun anew because a watch could not go on";
    AgentKubernetesEvents: "loopwarden.agent.kubernetes.events", "{event}", Kind::Counter, Agent, ["outcome"],
        "Kubernetes Events, written or lost";
    AgentJournalBytes: "loopwarden.agent.journal.size", "By", Kind::Gauge, Agent, [],
        "Size of the journal's files";
    AgentSeries: "loopwarden.agent.series", "{series}", Kind::Gauge, Agent, [],
        "Series held by the agent";
    AgentSeriesRefused: "loopwarden.agent.series.refused", "{series}", Kind::Counter, Agent, [],
        "Series refused, or ended early, because the limit was reached";
    AgentCpu: "loopwarden.agent.cpu.time", "s", Kind::Counter, Agent, [],
        "CPU time of the agent, user and system";
    AgentMemory: "loopwarden.agent.memory.resident", "By", Kind::Gauge, Agent, [],
        "Resident memory of the agent";
    AgentBuild: "loopwarden.agent.build.info", "{build}", Kind::Gauge, Agent, ["version"],
        "Always 1; the version is an attribute";
}

/// Lateness of a scan: 1 µs to 1 s, powers of two of a nanosecond like the kernel's buckets.
pub const SCAN_BOUNDS: [f64; 11] = {
    let mut bounds = [0.0; 11];
    let mut i = 0;
    while i < bounds.len() {
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let nanos = (1u64 << (10 + 2 * i)) as f64;
        bounds[i] = nanos / 1e9;
        i += 1;
    }
    bounds
};

impl Metric {
    /// Its name as Prometheus shows it: unit and `_total` are part of it.
    #[must_use]
    pub fn prometheus_name(self) -> String {
        let instrument = self.instrument();
        names::metric(
            instrument.name,
            instrument.unit,
            instrument.kind == Kind::Counter,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let expected = [
            (Metric::LoopTime, "loopwarden_loop_time_seconds_total"),
            (
                Metric::LoopIteration,
                "loopwarden_loop_iteration_duration_seconds",
            ),
            (Metric::LoopStalled, "loopwarden_loop_stalled_seconds"),
            (Metric::StallDuration, "loopwarden_stall_duration_seconds"),
            (Metric::StallOpen, "loopwarden_stall_open"),
            (
                Metric::EngineWait,
                "loopwarden_engine_wait_duration_seconds",
            ),
            (Metric::ActionSignals, "loopwarden_action_signals_total"),
            (
                Metric::EngineStartup,
                "loopwarden_engine_startup_duration_seconds",
            ),
            (Metric::EngineConnects, "loopwarden_engine_connects_total"),
            (
                Metric::EngineGenerations,
                "loopwarden_engine_generations_total",
            ),
            (
                Metric::RescueRecovery,
                "loopwarden_rescue_recovery_duration_seconds",
            ),
            (Metric::RescueDuration, "loopwarden_rescue_duration_seconds"),
            (Metric::LivenessFailed, "loopwarden_liveness_failed_probes"),
            (
                Metric::LivenessSigterm,
                "loopwarden_liveness_time_to_sigterm_seconds",
            ),
            (
                Metric::LivenessSigkill,
                "loopwarden_liveness_time_to_sigkill_seconds",
            ),
            (Metric::LivenessRisk, "loopwarden_liveness_risk"),
            (Metric::AgentCpu, "loopwarden_agent_cpu_time_seconds_total"),
            (
                Metric::AgentMemory,
                "loopwarden_agent_memory_resident_bytes",
            ),
            (Metric::AgentLost, "loopwarden_agent_lost_events_total"),
        ];
        for (metric, name) in expected {
            assert_eq!(metric.prometheus_name(), name);
        }
    }

    #[test]
    fn the_table_keeps_the_naming_rules() {
        for metric in Metric::ALL {
            let row = metric.instrument();
            assert!(
                row.name.starts_with("loopwarden.") && !row.name.contains("total"),
                "{}",
                row.name
            );
            assert!(
                row.unit == "s" || row.unit == "By" || row.unit.starts_with('{'),
                "{}: {}",
                row.name,
                row.unit
            );
            assert_eq!(
                row.scope == Scope::Agent,
                row.name.starts_with("loopwarden.agent."),
                "{}",
                row.name
            );
            if let Kind::Histogram(bounds) = row.kind {
                assert!(bounds.is_sorted() && bounds.len() <= 20, "{}", row.name);
            }
        }
    }

    #[test]
    fn folded_bounds_are_bounds_of_the_kernel() {
        let kernel: Vec<u64> = (0..crate::kernel::BUCKETS)
            .map(crate::kernel::bucket_bound)
            .collect();
        for bound in ITERATION_BOUNDS.iter().chain(&SCAN_BOUNDS) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive number"
            )]
            let nanos = (bound * 1e9).round() as u64;
            assert!(kernel.contains(&nanos), "{bound}");
        }
    }
}
