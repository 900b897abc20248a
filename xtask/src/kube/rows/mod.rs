//! The tests, each with its criteria.

mod agent;
mod api;
mod basics;
mod forecast;
mod incident;
mod judge;
mod loops;
mod outage;
mod plan;
mod pods;
mod proxies;
mod r2;
mod stall;
mod warnings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Args;
use super::cluster::Cluster;
use crate::cmd;
use crate::litellm::criteria::Check;
use crate::litellm::{guard, stop};

/// A test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// A pod starts, has a network, and is gone when deleted
    Basics,
    /// The ways to disturb the API: little rights, a wire that holds and cuts, a past that is forgotten
    Api,
    /// The node agent beside pods of every kind: names, annotations, Events
    Pods,
    /// The API is gone, and back with everything changed
    Outage,
    /// The forecast of the kill, held against the kubelet's own log
    Forecast,
    /// Two LiteLLM proxies side by side, one guarded, and their database freezes
    Incident,
    /// The deadlock of LiteLLM's expired IAM token, told in time
    R2,
}

impl Row {
    const ALL: [Self; 7] = [
        Self::Basics,
        Self::Api,
        Self::Pods,
        Self::Outage,
        Self::Forecast,
        Self::Incident,
        Self::R2,
    ];
}

/// What a test needs.
#[derive(Debug)]
struct Context<'a> {
    cluster: &'a Cluster,
    /// The agent to test.
    agent: &'a Path,
    /// For what the run writes.
    folder: &'a Path,
    full: bool,
}

impl Context<'_> {
    /// Leaves what an agent has said, for a look at it when something is wrong.
    fn keep(&self, name: &str, lines: &[Value]) -> Result<()> {
        let text: String = lines
            .iter()
            .flat_map(|line| [line.to_string(), "\n".into()])
            .collect();
        let file = self.folder.join(format!("{name}.json"));
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Creates pods, and what they need.
    fn create_pods(&self, names: Vec<String>, objects: &[Value]) -> Result<Pods<'_>> {
        let pods = Pods {
            context: self,
            names,
        };
        let cluster = self.cluster;
        cluster.kubectl.apply(&cluster.namespace, objects)?;
        Ok(pods)
    }

    fn delete_pods(&self, names: &[String]) -> Result<()> {
        let pods = names.iter().map(|name| format!("pod/{name}"));
        let grace = Duration::from_secs(1);
        self.cluster
            .kubectl
            .delete(&self.cluster.namespace, pods, grace)
    }
}

/// Pods of a row; deleted when dropped, so that they are gone before the folders that are mounted into them.
#[derive(Debug)]
struct Pods<'a> {
    context: &'a Context<'a>,
    names: Vec<String>,
}

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.context.delete_pods(&self.names) {
            eprintln!("kube: {error:#}");
        }
    }
}

/// Runs the tests that were asked for; one that fails does not stop the next.
pub(crate) fn run(args: &Args, cluster: &Cluster) -> Result<Vec<Check>> {
    let rows = if args.rows.is_empty() {
        Row::ALL.to_vec()
    } else {
        args.rows.clone()
    };
    let agent: PathBuf = args.guard.clone().map_or_else(guard::build, Ok)?;
    let mut folder = tempfile::Builder::new()
        .prefix("loopwarden-kube-")
        .tempdir()
        .context("cannot create a folder for the run")?;
    let context = Context {
        cluster,
        agent: &agent,
        folder: folder.path(),
        full: args.full,
    };
    let mut checks = Vec::new();
    for row in rows {
        stop::check()?;
        checks.extend(run_one(row, &context)?);
    }
    if checks.iter().any(|check| !check.passed) {
        folder.disable_cleanup(true);
        eprintln!("kube: what the run wrote is in {}", folder.path().display());
    }
    Ok(checks)
}

fn run_one(row: Row, context: &Context) -> Result<Vec<Check>> {
    let name = format!("{row:?}").to_lowercase();
    eprintln!("kube: {name}");
    let start = cmd::now();
    let found = match row {
        Row::Basics => basics::run(context),
        Row::Api => api::run(context),
        Row::Pods => pods::run(context),
        Row::Outage => outage::run(context),
        Row::Forecast => forecast::run(context),
        Row::Incident => incident::run(context),
        Row::R2 => r2::run(context),
    };
    eprintln!("kube: {name} took {}", cmd::minutes(start.elapsed()));
    found.or_else(|error| {
        // An interruption ends the run, whatever it has made of the row.
        stop::check()?;
        Ok(vec![Check::new(false, format!("{name}: {error:#}"))])
    })
}
