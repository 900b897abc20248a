//! The cluster's store, over etcd's own gateway: forgetting the past makes watches expire that want to go on from there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::node::ETCD;
use crate::litellm::http;

const LIMIT: Duration = Duration::from_secs(20);

/// Forgets all revisions before the newest; returns that.
pub(crate) fn compact() -> Result<u64> {
    // Any key: every answer tells the revision.
    let answer = post("/v3/kv/range", &json!({"key": "AA=="}))?;
    let revision: u64 = answer["header"]["revision"]
        .as_str()
        .and_then(|revision| revision.parse().ok())
        .with_context(|| format!("etcd tells no revision: {answer}"))?;
    post(
        "/v3/kv/compaction",
        &json!({"revision": revision.to_string(), "physical": true}),
    )?;
    Ok(revision)
}

fn post(path: &str, body: &Value) -> Result<Value> {
    let address: SocketAddr = ETCD.parse()?;
    let answer = http::post_to(address, path, &body.to_string(), LIMIT)
        .with_context(|| format!("etcd does not answer on {ETCD}{path}"))?;
    if !answer.is_success() {
        bail!(
            "etcd answers {path} with {}: {}",
            answer.status,
            answer.body
        );
    }
    serde_json::from_str(&answer.body)
        .with_context(|| format!("no JSON from etcd: {}", answer.body))
}
