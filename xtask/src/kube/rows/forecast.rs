//! The forecast of the kill, held against the kubelet's own log: pods under different probes, several at the same time.
//!
//! In each of them an event loop stalls twice: for less than the kubelet needs to decide, and for more. In between it answers.

use anyhow::Result;

use super::{Context, judge, loops, plan};
use crate::litellm::criteria::Check;

pub(super) fn run(context: &Context) -> Result<Vec<Check>> {
    let mut stalls = Vec::new();
    for (number, plans) in plan::rounds(context.full).into_iter().enumerate() {
        stalls.extend(loops::round(context, &format!("loop-{number}"), plans)?);
    }
    print!("{}", judge::table(&stalls));
    let least = if context.full { 30 } else { 6 };
    Ok(judge::of("forecast", &stalls, least))
}
