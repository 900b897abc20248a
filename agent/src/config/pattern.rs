//! Globs over executable names and command lines.
//!
//! Two kinds, because they are used differently: an executable's basename must match from end to end, a command line
//! anywhere in it. Both work on bytes: neither is promised to be UTF-8.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobMatcher};

/// Longer patterns than this are a mistake; compiled globs grow with their text.
const MAX_CHARS: usize = 512;

/// A glob over the basename of an executable, from end to end: `query-engine-*`.
#[derive(Clone)]
pub struct ExeGlob(Pattern);

/// A glob that may match anywhere in a command line (arguments joined by spaces): `server.js`, `--worker-*`.
#[derive(Clone)]
pub struct CmdlineGlob(Pattern);

#[derive(Clone)]
struct Pattern {
    text: String,
    glob: GlobMatcher,
}

impl ExeGlob {
    /// Reads a glob; the error says in a few words what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Err(
                "contains '/', but only the basename of the executable is compared".to_owned(),
            );
        }
        Pattern::new(text, text).map(Self)
    }

    /// Whether `basename` matches.
    #[must_use]
    pub fn matches(&self, basename: &[u8]) -> bool {
        self.0.glob.is_match(OsStr::from_bytes(basename))
    }

    /// The glob as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl CmdlineGlob {
    /// Reads a glob; the error says in a few words what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        Pattern::new(text, &format!("*{text}*")).map(Self)
    }

    /// Whether the command line (arguments joined by single spaces) matches.
    #[must_use]
    pub fn matches(&self, cmdline: &[u8]) -> bool {
        self.0.glob.is_match(OsStr::from_bytes(cmdline))
    }

    /// The glob as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl Pattern {
    fn new(text: &str, glob: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("is empty".to_owned());
        }
        if text.chars().count() > MAX_CHARS {
            return Err(format!("is longer than {MAX_CHARS} characters"));
        }
        // `*` crosses '/': command lines are full of paths, and the author of `app*main.py` does not think of them.
        let glob = GlobBuilder::new(glob)
            .literal_separator(false)
            .backslash_escape(true)
            .build();
        let glob = glob.map_err(|error| format!("is no glob: {}", error.kind()))?;
        Ok(Self {
            text: text.to_owned(),
            glob: glob.compile_matcher(),
        })
    }
}

// The compiled form follows from the text, so the text is what two patterns are compared and shown by.
macro_rules! by_text {
    ($type:ty) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.0.text == other.0.text
            }
        }
        impl Eq for $type {}
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0.text)
            }
        }
    };
}
by_text!(ExeGlob);
by_text!(CmdlineGlob);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_matches_from_end_to_end() {
        for (glob, name, matches) in [
            ("query-engine-*", "query-engine-debian-openssl-3.0.x", true),
            ("query-engine-*", "prisma-query-engine-debian", false),
            ("node", "node", true),
            ("node", "node20", false),
            ("{python,pypy}*", "pypy3.10", true),
            ("python3.1[0-3]", "python3.11", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
        ] {
            assert_eq!(
                ExeGlob::new(glob).unwrap().matches(name.as_bytes()),
                matches,
                "{glob} {name}"
            );
        }
    }

    #[test]
    fn a_command_line_matches_anywhere_and_across_paths() {
        for (glob, cmdline, matches) in [
            (
                "litellm",
                "/usr/bin/python3 /usr/local/bin/litellm --port 4000",
                true,
            ),
            ("litellm", "python3 -m uvicorn app:main", false),
            ("app*main.py", "python3 /srv/app/web/main.py", true),
            ("server.js", "node server.js", true),
            ("server.js", "node serverXjs", false),
        ] {
            assert_eq!(
                CmdlineGlob::new(glob).unwrap().matches(cmdline.as_bytes()),
                matches,
                "{glob} {cmdline}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_match_too() {
        assert!(
            CmdlineGlob::new("litellm")
                .unwrap()
                .matches(b"python3 \xff\xfe litellm\n--x")
        );
        assert!(ExeGlob::new("query*").unwrap().matches(b"query\xff"));
    }

    #[test]
    fn a_bad_glob_says_why() {
        assert_eq!(
            ExeGlob::new("bin/x").unwrap_err(),
            "contains '/', but only the basename of the executable is compared"
        );
        assert_eq!(ExeGlob::new(" ").unwrap_err(), "is empty");
        assert_eq!(
            CmdlineGlob::new(&"x".repeat(600)).unwrap_err(),
            "is longer than 512 characters"
        );
        assert!(ExeGlob::new("a[").unwrap_err().starts_with("is no glob: "));
    }
}
