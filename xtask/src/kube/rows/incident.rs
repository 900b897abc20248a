//! The incident itself: two proxies side by side, one of them guarded, and their database freezes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::{NodeAgent, Rights};
use super::judge;
use super::plan::{self, Beside, Probe};
use super::proxies::{self, Settings};
use super::stall::Stall;
use super::{Context, loops};
use crate::cmd;
use crate::kube::account::Access;
use crate::kube::kubelet_log::{self, Event, Kind};
use crate::litellm::criteria::Check;
use crate::litellm::lab::Lab;
use crate::litellm::probe::{Figures, Prober};
use crate::litellm::stop;

/// One agent for both: which of them it guards, they say themselves.
const CONFIG: &str =
    "mode: observe\ntargets: [ { preset: litellm } ]\nannotations: { allow: [ enforce ] }";
const WRITES: &str = "events: true, engine_ready: true";

const WITHOUT: &str = "unprotected";
const WITH: &str = "protected";
/// The proxies settle, and with what comes after it their probes are seen: two periods of 10 s.
const SETTLE: Duration = Duration::from_secs(16);
/// The same for 5 s.
const SETTLE_SHORT: Duration = Duration::from_secs(6);
const MEASURED_BEFORE: Duration = Duration::from_secs(5);
const WATCHDOG_LIMIT: Duration = Duration::from_secs(15);
const GRACE_S: u32 = 10;
/// Of the guarded proxy's answers, at the default grace of 500 ms.
const LONGEST_MS: f64 = 600.0;
/// The same on a machine that others use, too.
const LONGEST_SHARED_MS: f64 = 3_000.0;

/// How long nothing is measured at first, how long the database is frozen, and how long the measurement goes on after that.
#[derive(Debug, Clone, Copy)]
struct Times {
    settle: Duration,
    freeze: Duration,
    after: Duration,
}

/// What became of a pod.
#[derive(Debug)]
struct Outcome {
    name: &'static str,
    figures: Figures,
    restarts: u64,
    exit: Option<i64>,
    /// Seconds after the freeze.
    failures: Vec<f64>,
    decisions: Vec<f64>,
}

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let lab = Lab::prepare()?;
    let rights = Rights::of(context, &["pods", "annotations", "events", "engine-ready"])?;
    let five = plan::probe(5, 2, 4, Beside::Nothing);
    let defaults = plan::probe(10, 1, 3, Beside::Nothing);
    let (probes, times) = if context.full {
        let times = Times {
            settle: SETTLE,
            freeze: Duration::from_mins(1),
            after: Duration::from_secs(30),
        };
        (vec![five, defaults], times)
    } else {
        let times = Times {
            settle: SETTLE_SHORT,
            freeze: Duration::from_secs(36),
            after: Duration::from_secs(6),
        };
        (vec![five], times)
    };
    let mut checks = Vec::new();
    for (number, probe) in probes.into_iter().enumerate() {
        checks.extend(of_probe(context, &lab, &rights, number, probe, times)?);
    }
    Ok(checks)
}

fn of_probe(
    context: &Context,
    lab: &Lab,
    rights: &Rights,
    number: usize,
    probe: Probe,
    times: Times,
) -> Result<Vec<Check>> {
    let (mut database, address) = proxies::database(context, lab, &format!("incident-{number}"))?;
    let settings = [WITHOUT, WITH].map(|name| Settings {
        name,
        probe,
        arguments: &[],
        environment: Vec::new(),
        grace_s: GRACE_S,
        is_guarded: name == WITH,
    });
    let access = Access::of(&context.cluster.kubectl)?;
    let kubeconfig = rights.kubeconfig(&access, access.server)?;
    let name = format!("incident-{number}");
    let mut agent = NodeAgent::start(context, &name, &kubeconfig, CONFIG, WRITES)?;
    let (created, pods) = proxies::start(context, lab, &database.url_on(&address), &settings)?;
    let gate = gate(context)?;
    // Only of the pod that the kubelet kills: the guarded one has the node agent, and is not to share its processors with two.
    let observer = pods[0].observer(context)?;
    stop::sleep_until(cmd::now() + times.settle)?;
    let origin = cmd::now();
    let probers: Vec<Prober> = pods
        .iter()
        .map(|pod| Prober::start(pod.address, origin))
        .collect();
    stop::sleep_until(cmd::now() + MEASURED_BEFORE)?;
    database.wait_for_query("SELECT 1", WATCHDOG_LIMIT)?;
    for pod in &pods {
        pod.warm();
    }
    database.freeze()?;
    let (frozen, frozen_at) = (cmd::now(), loops::seconds()?);
    let guarded = pods.iter().find(|pod| pod.name == WITH);
    let faults = || guarded.and_then(proxies::Proxy::major_faults);
    let faults_before = faults();
    hold(frozen + times.freeze, &mut agent)?;
    let faults = faults()
        .zip(faults_before)
        .map(|(after, before)| after.saturating_sub(before));
    database.thaw();
    stop::sleep_until(cmd::now() + times.after)?;
    let figures: Vec<Figures> = probers
        .into_iter()
        .map(|prober| Figures::of(&prober.finish().all))
        .collect();
    let said = observer.finish();
    context.keep(&format!("{WITHOUT}-{number}"), &said)?;
    let mut outcomes = Vec::new();
    let mut truth = Vec::new();
    for (name, figures) in [WITHOUT, WITH].into_iter().zip(figures) {
        let events = events(context, name, frozen_at)?;
        outcomes.push(outcome(context, name, figures, &events, frozen_at)?);
        truth.push(events);
    }
    let sent = |pod, outcome| -> Result<f64> {
        let labels = [("k8s_pod_name", pod), ("outcome", outcome)];
        let counts = agent
            .page()?
            .values("loopwarden_action_signals_total", &labels);
        Ok(counts.iter().sum())
    };
    let signals = Signals {
        with: sent(WITH, "sent")?,
        without: sent(WITHOUT, "sent")?,
        without_would: sent(WITHOUT, "would_send")?,
    };
    drop(created);
    print!("{}", table(probe, &outcomes));
    let waited = faults.map_or_else(|| "?".to_owned(), |faults| faults.to_string());
    println!("the guarded proxy waited for the disk {waited} times to get at its own code");
    let end = frozen_at + times.freeze.as_secs_f64();
    let stall = Stall::new(probe, (frozen_at, end), Some(true), &said, &truth[0]);
    let mut checks = judge(context, probe, &outcomes, signals, &stall);
    checks.push(gate);
    Ok(checks)
}

/// What the node agent has done, by its own page.
#[derive(Debug, Clone, Copy)]
struct Signals {
    with: f64,
    without: f64,
    without_would: f64,
}

/// The guarded pod is ready, so its condition is as the agent has set it.
fn gate(context: &Context) -> Result<Check> {
    let namespace = &context.cluster.namespace;
    let pod = context
        .cluster
        .kubectl
        .get(namespace, &format!("pod/{WITH}"))?;
    let conditions = pod["status"]["conditions"].as_array();
    let own = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == proxies::GATE)
        .cloned()
        .unwrap_or_default();
    Ok(Check::new(
        own["status"] == "True" && own["reason"] == "EngineAccepts",
        format!(
            "the pod with the readiness gate became ready when its engine accepted: {}",
            own["message"]
        ),
    ))
}

/// Waits, and fails when the agent has ended.
fn hold(end: Instant, agent: &mut NodeAgent) -> Result<()> {
    while cmd::now() < end {
        agent.check()?;
        stop::sleep_until((cmd::now() + Duration::from_secs(1)).min(end))?;
    }
    Ok(())
}

fn events(context: &Context, name: &str, from: f64) -> Result<Vec<Event>> {
    let log = context.cluster.kubelet_log()?;
    let mut events = kubelet_log::of_pod(log, &context.cluster.namespace, name)?;
    events.retain(|event| event.at >= from);
    Ok(events)
}

fn outcome(
    context: &Context,
    name: &'static str,
    figures: Figures,
    events: &[Event],
    frozen_at: f64,
) -> Result<Outcome> {
    let pod = context
        .cluster
        .kubectl
        .get(&context.cluster.namespace, &format!("pod/{name}"))?;
    let status = &pod["status"]["containerStatuses"][0];
    let of = |kind: Kind| {
        let moments = events.iter().filter(|event| event.kind == kind);
        moments.map(|event| event.at - frozen_at).collect()
    };
    Ok(Outcome {
        name,
        figures,
        restarts: status["restartCount"].as_u64().unwrap_or(0),
        exit: status["lastState"]["terminated"]["exitCode"].as_i64(),
        failures: of(Kind::Failed),
        decisions: of(Kind::Decided),
    })
}

fn judge(
    context: &Context,
    probe: Probe,
    outcomes: &[Outcome],
    signals: Signals,
    stall: &Stall,
) -> Vec<Check> {
    let (without, with) = (&outcomes[0], &outcomes[1]);
    let longest = if context.full {
        LONGEST_MS
    } else {
        LONGEST_SHARED_MS
    };
    let name = format!("incident {}", probe.spec());
    let mut checks = vec![
        Check::new(
            without.restarts >= 1 && without.decisions.len() == 1,
            format!(
                "unguarded: killed {} times (once), {} restarts, exit {:?}",
                without.decisions.len(),
                without.restarts,
                without.exit
            ),
        ),
        Check::new(
            without.figures.ok_percent < 75.0,
            format!(
                "unguarded: the incident shows, {:.1} % answered (less than 75)",
                without.figures.ok_percent
            ),
        ),
        Check::new(
            with.restarts == 0 && with.decisions.is_empty() && with.failures.is_empty(),
            format!(
                "guarded: {} restarts (0), {} failed probes (0)",
                with.restarts,
                with.failures.len()
            ),
        ),
        Check::new(
            with.figures.ok_percent >= 100.0,
            format!("guarded: {:.2} % answered (100)", with.figures.ok_percent),
        ),
        Check::new(
            with.figures.max_ms <= longest,
            format!(
                "guarded, default grace: longest answer {:.0} ms (at most {longest:.0})",
                with.figures.max_ms
            ),
        ),
        Check::new(
            signals.with > 0.0 && signals.without == 0.0 && signals.without_would > 0.0,
            format!(
                "the annotation decides: {} signals sent for the guarded pod, {} for the other, which would have got {}",
                signals.with, signals.without, signals.without_would
            ),
        ),
    ];
    for check in &mut checks {
        check.text = format!("{name}: {}", check.text);
    }
    checks.extend(judge::of(
        &format!("{name}, unguarded"),
        std::slice::from_ref(stall),
        1,
    ));
    checks
}

fn table(probe: Probe, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<8} {:<12} {:>7} {:>11} {:>8} {:>8}  failed probes, decision: seconds after the freeze\n",
        "probe", "pod", "2xx %", "longest ms", "restarts", "exit"
    );
    for outcome in outcomes {
        let list = |moments: &[f64]| {
            let shown: Vec<String> = moments.iter().map(|at| format!("{at:.1}")).collect();
            shown.join(", ")
        };
        let _ = writeln!(
            text,
            "{:<8} {:<12} {:>7.2} {:>11.1} {:>8} {:>8}  {}; {}",
            probe.spec(),
            outcome.name,
            outcome.figures.ok_percent,
            outcome.figures.max_ms,
            outcome.restarts,
            outcome
                .exit
                .map_or_else(String::new, |code| code.to_string()),
            list(&outcome.failures),
            list(&outcome.decisions),
        );
    }
    text
}
