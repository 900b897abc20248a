//! Events that are to be on a pod before the kubelet kills its container.

use anyhow::Result;
use serde_json::Value;

use super::Context;
use crate::litellm::criteria::Check;

/// Written on a pod before the kubelet's own `Killing`.
const WARNINGS: [&str; 2] = ["LivenessAtRisk", "KillImminent"];

/// Of each pod that the kubelet has killed, whether the warnings came before that.
pub(super) fn before_kills(context: &Context) -> Result<Vec<Check>> {
    let cluster = context.cluster;
    let events = cluster.kubectl.events(&cluster.namespace)?;
    let checks = WARNINGS.iter().map(|warning| of(warning, &events));
    Ok(checks.collect())
}

fn of(warning: &str, events: &[Value]) -> Check {
    let first = |pod: &Value, reason: &str| {
        let of_pod =
            |event: &&Value| event["reason"] == reason && event["involvedObject"]["uid"] == *pod;
        // RFC 3339 in UTC, to the second: in the order of time as text, too.
        let created = |event: &Value| {
            event["metadata"]["creationTimestamp"]
                .as_str()
                .map(str::to_owned)
        };
        events.iter().filter(of_pod).filter_map(created).min()
    };
    let killings = events.iter().filter(|event| {
        let message = event["message"].as_str().unwrap_or_default();
        event["reason"] == "Killing" && message.contains("failed liveness probe")
    });
    let pods: Vec<&Value> = killings
        .map(|event| &event["involvedObject"]["uid"])
        .collect();
    let in_time = pods.iter().filter(|pod| {
        let (told, killed) = (first(pod, warning), first(pod, "Killing"));
        told.is_some() && told < killed
    });
    let in_time = in_time.count();
    Check::new(
        !pods.is_empty() && in_time == pods.len(),
        format!(
            "node agent: the Event {warning} is on the pod before the kubelet's Killing, probes known from its spec: on {in_time} of {}",
            pods.len()
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_warning_counts_only_on_the_same_pod_and_before_the_kill() {
        let event = |uid: &str, reason: &str, second: u32| {
            json!({
                "reason": reason, "involvedObject": {"uid": uid}, "message": "Container main failed liveness probe, will be restarted",
                "metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            })
        };
        let killed = event("a", "Killing", 20);
        for (events, passed) in [
            (vec![event("a", "KillImminent", 10), killed.clone()], true),
            (vec![event("b", "KillImminent", 10), killed.clone()], false),
            (vec![event("a", "KillImminent", 20), killed.clone()], false),
            (vec![killed], false),
            (vec![], false),
        ] {
            assert_eq!(of("KillImminent", &events).passed, passed, "{events:?}");
        }
    }
}
