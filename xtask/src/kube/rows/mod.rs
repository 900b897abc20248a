//! The tests, each with its criteria.

mod basics;

use anyhow::Result;

use super::Args;
use super::cluster::Cluster;
use crate::cmd;
use crate::litellm::criteria::Check;
use crate::litellm::stop;

/// A test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// A pod starts, has a network, and is gone when deleted
    Basics,
}

impl Row {
    const ALL: [Self; 1] = [Self::Basics];
}

/// Runs the tests that were asked for; one that fails does not stop the next.
pub(crate) fn run(args: &Args, cluster: &Cluster) -> Result<Vec<Check>> {
    let rows = if args.rows.is_empty() {
        Row::ALL.to_vec()
    } else {
        args.rows.clone()
    };
    let mut checks = Vec::new();
    for row in rows {
        stop::check()?;
        let name = format!("{row:?}").to_lowercase();
        eprintln!("kube: {name}");
        let start = cmd::now();
        let found = match row {
            Row::Basics => basics::run(cluster),
        };
        match found {
            Ok(found) => checks.extend(found),
            // An interruption ends the run, whatever it has made of the row.
            Err(error) => {
                stop::check()?;
                checks.push(Check::new(false, format!("{name}: {error:#}")));
            }
        }
        eprintln!("kube: {name} took {}", cmd::minutes(start.elapsed()));
    }
    Ok(checks)
}
