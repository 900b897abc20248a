//! What pods, namespaces and the node ask for by annotations, and what of it they get.
//!
//! Less than the configuration gives (`observe`, `off`, a longer grace) may always be asked for. More only where
//! `annotations.allow` names it: whoever may write a pod's annotations is not who installed the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::duration;
use super::model::{Allowance, EngineMatcher, EnginePolicy, Target, defaults};
use super::pattern::ExeGlob;
use super::problem::quote;
use super::raw::ALLOWANCES;
use crate::pipeline::Mode;
use crate::pipeline::pod::{ANNOTATIONS, KEYS};

/// How much of it is repeated when an annotation cannot be read: it is somebody else's text.
const SHOWN: usize = 60;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// What `mode` may ask for, from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskedMode {
    /// Not to be watched at all.
    Off,
    /// To be watched, and no more.
    Observe,
    /// That wedged engines are ended.
    Enforce,
}

/// What one object asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asked {
    /// `loopwarden.dev/mode`
    pub mode: Option<AskedMode>,
    /// `loopwarden.dev/stall-after`
    pub stall_after: Option<Duration>,
    /// `loopwarden.dev/engine`
    pub engine: Option<ExeGlob>,
    /// `loopwarden.dev/grace`
    pub grace: Option<Duration>,
}

/// What holds for the processes of one target in one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// Nothing if they are not to be watched.
    pub mode: Option<Mode>,
    /// The target, with what the pod asked for and may have.
    pub target: Target,
    /// What it asked for and may not have, a sentence each.
    pub refused: Vec<String>,
}

impl Asked {
    /// Reads annotations, without their prefix; what is wrong with them is added to `problems`, a sentence each.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>, problems: &mut Vec<String>) -> Self {
        let mut asked = Self::default();
        for (key, text) in annotations {
            let text = text.trim();
            let allowed = match key.as_str() {
                "mode" => {
                    asked.mode = mode(text);
                    let wrong = asked.mode.is_none();
                    // Whatever was meant, it was not the same as everywhere.
                    asked.mode.get_or_insert(AskedMode::Observe);
                    wrong.then_some("enforce, observe, off; taken for observe")
                }
                "stall-after" => {
                    asked.stall_after = span(text, MILLISECOND);
                    asked
                        .stall_after
                        .is_none()
                        .then_some("1ms to 1h, such as 100ms; ignored")
                }
                "grace" => {
                    asked.grace = span(text, Duration::ZERO);
                    asked
                        .grace
                        .is_none()
                        .then_some("0s to 1h, such as 500ms; ignored")
                }
                "engine" => {
                    asked.engine = ExeGlob::new(text).ok();
                    let allowed = "a glob over the basename of the executable, such as query-engine-*; ignored";
                    asked.engine.is_none().then_some(allowed)
                }
                _ => {
                    let known: Vec<_> = KEYS
                        .iter()
                        .map(|key| format!("{ANNOTATIONS}{key}"))
                        .collect();
                    problems.push(format!(
                        "there is no annotation {ANNOTATIONS}{}; allowed: {}",
                        shown(key),
                        known.join(", ")
                    ));
                    None
                }
            };
            if let Some(allowed) = allowed {
                problems.push(format!(
                    "{ANNOTATIONS}{key} is {}; allowed: {allowed}",
                    quote(&shown(text))
                ));
            }
        }
        asked
    }

    /// What holds for `target` in a pod that asks for this, where the configuration's mode is `mode`. `at_most` is what its namespace
    /// and its node ask for.
    #[must_use]
    pub fn granted(
        &self,
        target: &Target,
        mode: Mode,
        at_most: Option<AskedMode>,
        allow: &[Allowance],
    ) -> Granted {
        let mut refused = Vec::new();
        let mut may = |what: Allowance, asked: String| {
            let may = allow.contains(&what);
            if !may {
                let word = ALLOWANCES.iter().find(|(_, known)| *known == what);
                let word = word.map_or("", |(word, _)| word);
                refused.push(format!(
                    "{ANNOTATIONS}{asked} is not granted: the agent's configuration does not have {word} in annotations.allow"
                ));
            }
            may
        };
        let given = match mode {
            Mode::Observe => AskedMode::Observe,
            Mode::Enforce => AskedMode::Enforce,
        };
        let mut granted = match self.mode {
            Some(asked) if asked > given => {
                if may(Allowance::Enforce, "mode: enforce".into()) {
                    asked
                } else {
                    given
                }
            }
            Some(asked) => asked,
            None => given,
        };
        if let Some(at_most) = at_most {
            granted = granted.min(at_most);
        }
        let mut target = target.clone();
        if let Some(span) = self.stall_after.filter(|span| *span != target.stall_after)
            && may(
                Allowance::StallAfter,
                format!("stall-after: {}", duration::format(span)),
            )
        {
            target.stall_after = span;
        }
        if let Some(glob) = &self.engine {
            let same = |engine: &EnginePolicy| matches!(&engine.matchers[..], [EngineMatcher { exe: Some(exe), cmdline: None }] if exe == glob);
            if !target.engine.as_ref().is_some_and(same)
                && may(
                    Allowance::Engine,
                    format!("engine: {}", shown(glob.as_str())),
                )
            {
                let matchers = vec![EngineMatcher {
                    exe: Some(glob.clone()),
                    cmdline: None,
                }];
                let engine = target.engine.get_or_insert_with(default_engine);
                engine.matchers = matchers;
            }
        }
        if let Some((engine, grace)) = target.engine.as_mut().zip(self.grace) {
            let shorter = grace < engine.grace;
            if !shorter
                || may(
                    Allowance::ShorterGrace,
                    format!("grace: {}", duration::format(grace)),
                )
            {
                engine.grace = grace;
                // The less is known of a wait, the longer it is let be.
                engine.unknown_grace = engine.unknown_grace.max(grace);
                engine.untold_grace = engine.untold_grace.map(|untold| untold.max(grace));
            }
        }
        Granted {
            mode: match granted {
                AskedMode::Off => None,
                AskedMode::Observe => Some(Mode::Observe),
                AskedMode::Enforce => Some(Mode::Enforce),
            },
            target,
            refused,
        }
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

fn default_engine() -> EnginePolicy {
    EnginePolicy {
        matchers: Vec::new(),
        grace: defaults::GRACE,
        unknown_grace: defaults::UNKNOWN_GRACE,
        untold_grace: None,
        through_wrapper: false,
        max_kills: defaults::MAX_KILLS,
    }
}

fn mode(text: &str) -> Option<AskedMode> {
    match text {
        "off" => Some(AskedMode::Off),
        "observe" => Some(AskedMode::Observe),
        "enforce" => Some(AskedMode::Enforce),
        _ => None,
    }
}

fn span(text: &str, least: Duration) -> Option<Duration> {
    let span = duration::parse(text).ok()?;
    (least..=HOUR).contains(&span).then_some(span)
}

fn shown(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    clean.take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn asked(of: &[(&str, &str)]) -> (Asked, Vec<String>) {
        let annotations = of
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let mut problems = Vec::new();
        let asked = Asked::read(&annotations, &mut problems);
        (asked, problems)
    }

    fn litellm() -> Target {
        Config::built_in(None).unwrap().targets.remove(0)
    }

    const ALL: [Allowance; 4] = [
        Allowance::Enforce,
        Allowance::Engine,
        Allowance::ShorterGrace,
        Allowance::StallAfter,
    ];

    #[test]
    fn less_is_always_granted_and_more_only_where_it_is_allowed() {
        use AskedMode::{Enforce as E, Observe as O, Off};
        let table = [
            // The configuration's, the pod's, at most; granted without and with an allowance.
            (
                Mode::Observe,
                None,
                None,
                Some(Mode::Observe),
                Some(Mode::Observe),
            ),
            (
                Mode::Enforce,
                None,
                None,
                Some(Mode::Enforce),
                Some(Mode::Enforce),
            ),
            (
                Mode::Observe,
                Some(E),
                None,
                Some(Mode::Observe),
                Some(Mode::Enforce),
            ),
            (
                Mode::Enforce,
                Some(E),
                None,
                Some(Mode::Enforce),
                Some(Mode::Enforce),
            ),
            (
                Mode::Enforce,
                Some(O),
                None,
                Some(Mode::Observe),
                Some(Mode::Observe),
            ),
            (Mode::Enforce, Some(Off), None, None, None),
            (Mode::Observe, Some(Off), Some(E), None, None),
            (
                Mode::Observe,
                None,
                Some(E),
                Some(Mode::Observe),
                Some(Mode::Observe),
            ),
            (
                Mode::Enforce,
                None,
                Some(O),
                Some(Mode::Observe),
                Some(Mode::Observe),
            ),
            (
                Mode::Observe,
                Some(E),
                Some(O),
                Some(Mode::Observe),
                Some(Mode::Observe),
            ),
            (Mode::Enforce, Some(E), Some(Off), None, None),
        ];
        for (mode, pod, at_most, without, with) in table {
            let asked = Asked {
                mode: pod,
                ..Asked::default()
            };
            let get = |allow| asked.granted(&litellm(), mode, at_most, allow).mode;
            assert_eq!(
                (get(&[]), get(&ALL)),
                (without, with),
                "{mode:?} {pod:?} {at_most:?}"
            );
        }
    }

    #[test]
    fn what_is_asked_for_and_not_allowed_is_told() {
        let (asked, problems) = asked(&[
            ("mode", "enforce"),
            ("stall-after", "50ms"),
            ("engine", "my-engine"),
            ("grace", "100ms"),
        ]);
        assert_eq!(problems, [""; 0]);
        let granted = asked.granted(&litellm(), Mode::Observe, None, &[]);
        assert_eq!(granted.target, litellm());
        let words = ["enforce", "stall-after", "engine", "shorter-grace"];
        assert_eq!(granted.refused.len(), words.len());
        for (told, word) in granted.refused.iter().zip(words) {
            assert!(told.contains(&format!("does not have {word} in")), "{told}");
        }
        let granted = asked.granted(&litellm(), Mode::Observe, None, &ALL);
        assert_eq!(granted.refused, [""; 0]);
        let engine = granted.target.engine.unwrap();
        assert_eq!(granted.target.stall_after, Duration::from_millis(50));
        assert_eq!(engine.grace, Duration::from_millis(100));
        assert!(engine.is_engine(b"my-engine", b"") && !engine.is_engine(b"query-engine-x", b""));
    }

    #[test]
    fn a_longer_grace_is_less_and_lengthens_the_others() {
        let (asked, _) = asked(&[("grace", "20s")]);
        let engine = asked
            .granted(&litellm(), Mode::Enforce, None, &[])
            .target
            .engine
            .unwrap();
        let twenty = Duration::from_secs(20);
        assert_eq!((engine.grace, engine.unknown_grace), (twenty, twenty));
    }

    #[test]
    fn a_grace_makes_no_engine() {
        let plain = Target {
            engine: None,
            ..litellm()
        };
        let (asked, _) = asked(&[("grace", "20s")]);
        assert_eq!(
            asked.granted(&plain, Mode::Enforce, None, &ALL).target,
            plain
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_and_a_mode_taken_for_the_careful_one() {
        let (asked, problems) = asked(&[
            ("mode", "on\u{7}"),
            ("stall-after", "100"),
            ("engine", "bin/x"),
            ("grace", "2d"),
            ("colour", "red"),
        ]);
        let expected = Asked {
            mode: Some(AskedMode::Observe),
            ..Asked::default()
        };
        assert_eq!(asked, expected);
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(
            problems.iter().all(|told| !told.contains('\u{7}')),
            "{problems:?}"
        );
        let long = "x".repeat(10_000);
        let (_, problems) = super::tests::asked(&[("mode", &long)]);
        assert!(problems[0].len() < 200, "{problems:?}");
    }
}
