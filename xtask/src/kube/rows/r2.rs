//! The deadlock of an expired IAM token under a real kubelet, which nobody can end from outside: it has to be told in time.
//!
//! And, in the long form, stalls of 30 s with a moment of air between them, which is or is not enough to answer a probe.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::judge;
use super::plan::{self, Beside, Plan, Planned};
use super::proxies::{self, Settings};
use super::stall::Stall;
use super::{Context, loops};
use crate::cmd;
use crate::kube::kubelet_log::{self, Kind};
use crate::litellm::clock::Clock;
use crate::litellm::criteria::Check;
use crate::litellm::lab::Lab;
use crate::litellm::{http, iam, stop};

const NAME: &str = "iam";
/// Two periods of 5 s.
const KNOWN: Duration = Duration::from_secs(11);
/// The proxy waits 30 s; the kubelet decides before that.
const LIMIT: Duration = Duration::from_secs(40);
/// So long before the decision the risk has to be imminent.
const IMMINENT_S: f64 = 8.0;

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let mut checks = deadlock(context)?;
    if context.full {
        checks.extend(back_to_back(context)?);
    }
    Ok(checks)
}

fn deadlock(context: &Context) -> Result<Vec<Check>> {
    let lab = Lab::prepare()?;
    let probe = plan::probe(5, 2, 4, Beside::Nothing);
    let (database, address) = proxies::database(context, &lab, NAME)?;
    let clock = Clock::new(&lab, NAME)?;
    let mut environment = iam::environment(&address, database.port()).to_vec();
    environment.extend(clock.environment());
    let settings = Settings {
        name: NAME,
        probe,
        arguments: &[iam::SWITCH],
        environment,
        grace_s: 5,
        is_guarded: false,
    };
    let (created, mut pods) =
        proxies::start(context, &lab, &database.url_on(&address), &[settings])?;
    let pod = pods.remove(0);
    let mut guard = pod.observer(context)?;
    stop::sleep_until(cmd::now() + KNOWN)?;
    guard.check()?;
    clock.set(iam::FORWARD)?;
    let start = loops::seconds()?;
    // Its answer never comes: the container is killed before.
    let asked = pod.address;
    let request =
        std::thread::spawn(move || http::get_with_key_from(asked, "/key/list", iam::REQUEST_LIMIT));
    let log = context.cluster.kubelet_log()?;
    let events = || kubelet_log::of_pod(log, &context.cluster.namespace, NAME);
    let decided = stop::wait_for(LIMIT, Duration::from_millis(500), || {
        let decided = |event: &kubelet_log::Event| event.kind == Kind::Decided && event.at > start;
        Ok(events()?.iter().any(decided).then_some(()))
    })?;
    decided.with_context(|| format!("the kubelet has not decided within {LIMIT:?}"))?;
    let (end, events) = (loops::seconds()?, events()?);
    let lines = guard.finish();
    context.keep(NAME, &lines)?;
    drop(created);
    let _ = request.join();
    let stall = Stall::new(probe, (start, end), Some(true), &lines, &events);
    let stalls = [stall];
    print!("{}", judge::table(&stalls));
    let lead = stalls[0].imminent().unwrap_or(f64::NAN);
    let mut checks = judge::of("r2, LiteLLM", &stalls, 1);
    checks.push(Check::new(
        lead >= IMMINENT_S,
        format!("r2, LiteLLM: imminent {lead:.1} s before the decision (at least {IMMINENT_S:.0})"),
    ));
    Ok(checks)
}

/// Whether the moment of air is enough to answer the probe that waits hangs on the phase, so there are several pods.
fn back_to_back(context: &Context) -> Result<Vec<Check>> {
    let stall = |lengths: &[f64], decides| Planned {
        lengths: lengths.to_vec(),
        decides,
    };
    let plan = Plan {
        probe: plan::probe(10, 5, 5, Beside::Nothing),
        stalls: vec![stall(&[30.0], Some(false)), stall(&[30.0, 30.0], None)],
    };
    let stalls = loops::round(context, "air", vec![plan; 4])?;
    print!("{}", judge::table(&stalls));
    let mut checks = judge::of("r2, back to back", &stalls, 0);
    let leads: Vec<f64> = stalls.iter().filter_map(Stall::imminent).collect();
    let worst = leads.iter().copied().fold(f64::INFINITY, f64::min);
    checks.push(Check::new(
        worst >= IMMINENT_S,
        format!(
            "r2, back to back: imminent {worst:.1} s before the decision at the least (at least {IMMINENT_S:.0}), in {} stalls",
            leads.len()
        ),
    ));
    Ok(checks)
}
