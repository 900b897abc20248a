//! The countdown to the kubelet's kill, as the lines and events tell it.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::pipeline::liveness::{Level, Outlook, RiskView};

/// The countdown of the contract.
pub(in crate::export) fn liveness(outlook: &Outlook) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("failed_probes".into(), json!(outlook.failed_probes));
    let spans = [
        ("seconds_to_decision", outlook.to_decision),
        // The kubelet sends it at once, unless a preStop hook comes first.
        ("seconds_to_sigterm", outlook.to_decision),
        ("seconds_to_sigkill", outlook.to_sigkill),
        ("uncertainty_s", outlook.uncertainty),
        ("sigterm_uncertainty_s", outlook.sigterm_uncertainty),
        ("sigkill_uncertainty_s", outlook.sigkill_uncertainty),
    ];
    for (name, span) in spans {
        if let Some(span) = span {
            fields.insert(name.into(), json!(rounded(span)));
        }
    }
    fields.insert("probes_seen".into(), json!(outlook.probes_seen));
    fields
}

/// Seconds, to the millisecond: no forecast is finer.
fn rounded(span: Duration) -> f64 {
    // In one division, which gives the number that is nearest to the decimal one.
    f64::from(u32::try_from(span.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}

/// The risk in words.
pub(in crate::export) fn risk_text(risk: &RiskView) -> String {
    let outlook = &risk.outlook;
    let seconds = |span: Option<Duration>| span.unwrap_or_default().as_secs_f64();
    let mut text = match risk.level {
        Level::None => return "is out of danger: no liveness probe fails any more".to_owned(),
        Level::Elevated if outlook.to_decision.is_none() => {
            "answers again; failed liveness probes count until one has its answer".to_owned()
        }
        Level::Elevated => "AT RISK: ".to_owned(),
        Level::Imminent => "KILL IS IMMINENT: ".to_owned(),
    };
    let failed = outlook.failed_probes;
    if outlook.to_decision.is_none() {
        if failed > 0 {
            let _ = write!(text, " ({failed} for certain)");
        }
        return text;
    }
    // What was seen is said as such, and what must be so as a guess.
    let _ = match (outlook.probes_seen, failed) {
        (true, 0) => write!(text, "a liveness probe waits for its answer"),
        (true, _) => write!(text, "liveness probes failed, {failed} in a row"),
        (false, 0) => write!(text, "liveness probes may fail (they are not seen)"),
        (false, _) => write!(
            text,
            "liveness probes fail, at least {failed} (they are not seen)"
        ),
    };
    let _ = match outlook.to_decision {
        Some(Duration::ZERO) if outlook.probes_seen => write!(
            text,
            "; the kubelet has decided to kill: SIGKILL in {:.1} s",
            seconds(outlook.to_sigkill)
        ),
        left => write!(
            text,
            "; the kubelet decides to kill in {:.1} s (+/- {:.1} s)",
            seconds(left),
            seconds(outlook.uncertainty)
        ),
    };
    text
}
