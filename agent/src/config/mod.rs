//! The configuration: one YAML file → checked, plain values.
//!
//! `node` reads YAML into a tree that knows lines and columns, `raw` turns it into typed values, `resolve` merges presets,
//! fills in defaults and tells contradictions, `model` is what the rest of the program uses. `source` finds and reads the
//! file, `watcher` notices that it changed. Mistakes are told all at once, each with its place and what is allowed; a
//! configuration with a mistake is never used in part. `asked` reads what pods ask for by annotations.

mod asked;
pub mod duration;
mod links;
pub mod model;
mod node;
mod pattern;
mod presets;
pub mod probe;
mod problem;
mod raw;
mod raw_export;
mod raw_match;
mod read;
mod resolve;
pub mod schema;
mod show;
mod size;
mod source;
mod watch;
mod watcher;
mod yaml;

#[cfg(test)]
mod tests;

pub use asked::{Asked, AskedMode, Granted};
pub use model::{
    Allowance, Annotations, ApiUse, Budget, Config, EngineMatcher, EnginePolicy, EvidenceRules,
    Export, Journal, Kubernetes, KubernetesMatch, Limits, Liveness, Matcher, Metrics, Otlp,
    OtlpProtocol, Target,
};
pub use pattern::{CmdlineGlob, ExeGlob};
pub use problem::{ConfigError, Location, Problem};
pub use source::{DEFAULT_PATH, Source};
pub use watch::WatchOptions;
pub use watcher::{ConfigWatcher, Reload};

use crate::pipeline::Mode;
use problem::Problems;
use read::Reader;

impl Config {
    /// Reads a configuration from text. `file` is its name in messages; `mode`, if given, wins over the text.
    pub fn parse(text: &str, file: &str, mode: Option<Mode>) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let root = node::parse(text, &mut problems);
        if root.is_none() && problems.is_empty() {
            // A file that is being replaced is empty for a moment: that must not mean "all defaults".
            problems.add(None, "", "the file is empty", "write {} for the defaults");
        }
        let raw = root.map(|root| {
            raw::config(
                &mut Reader {
                    problems: &mut problems,
                },
                &root,
            )
        });
        let config = resolve::config(raw.unwrap_or_default(), mode, &mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems.into_error(file))
        }
    }

    /// What holds without a file: observe, preset `litellm`.
    pub fn built_in(mode: Option<Mode>) -> Result<Self, ConfigError> {
        Self::parse("{}", "built-in configuration", mode)
    }
}
