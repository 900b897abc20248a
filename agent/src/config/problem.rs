//! What is wrong with a configuration: where, what was found, what is allowed. All of it at once.

use std::fmt;
use std::path::PathBuf;

/// More problems than this in one file are counted, not listed.
const MAX_LISTED: usize = 20;

/// Where in the file something stands, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; none if it is not the file that says so (a command-line option).
    pub at: Option<Location>,
    /// The key, from the top: `targets[0].engine.grace`. Empty for the document itself.
    pub key: String,
    /// What was found, or what contradicts what.
    pub found: String,
    /// What would be right.
    pub allowed: String,
}

/// Why there is no configuration. The text is for people and complete: it names the file in every line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the reader said, and what to do.
        reason: String,
    },
    /// The file was read and is wrong.
    Invalid {
        /// Name of the file as the user gave it.
        file: String,
        /// What is wrong, in the order of the file.
        problems: Vec<Problem>,
        /// How many more there are.
        unlisted: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.found, self.allowed)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Invalid {
                file,
                problems,
                unlisted,
            } => {
                for (index, problem) in problems.iter().enumerate() {
                    let newline = if index == 0 { "" } else { "\n" };
                    write!(f, "{newline}{file}:")?;
                    if let Some(at) = problem.at {
                        write!(f, "{}:{}:", at.line, at.column)?;
                    }
                    write!(f, " {problem}")?;
                }
                if *unlisted > 0 {
                    write!(f, "\n{file}: and {unlisted} more")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Gathers problems while a file is read, so that a person can mend them in one go.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(
        &mut self,
        at: impl Into<Option<Location>>,
        key: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.push(Problem {
            at: at.into(),
            key: key.into(),
            found: found.into(),
            allowed: allowed.into(),
        });
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something at or below `key` has been told: then its absence is no problem of its own.
    pub(super) fn mention(&self, key: &str) -> bool {
        self.0.iter().any(|problem| {
            problem
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// The error, in the order of the file.
    pub(super) fn into_error(mut self, file: &str) -> ConfigError {
        self.0.sort_by_key(|problem| problem.at);
        let unlisted = self.0.len().saturating_sub(MAX_LISTED);
        self.0.truncate(MAX_LISTED);
        ConfigError::Invalid {
            file: file.to_owned(),
            problems: self.0,
            unlisted,
        }
    }
}

/// A value as a message shows it: quoted, escaped, and short whatever the file holds.
pub(super) fn quote(text: &str) -> String {
    const MAX: usize = 40;
    if text.chars().nth(MAX).is_none() {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX).collect();
    format!("{start:?}…")
}
