//! A configuration as replay asks it: which of its targets an incident belongs to, and what is an engine there.

use crate::config::{Config, Target};
use crate::pipeline::record::InForce;
use crate::pipeline::replay::{Alternative, Incident};
use crate::pipeline::story::{Child, EpisodeStory};
use crate::rescue::Settings;
use crate::wiring::Rules;

/// A configuration to try.
pub(super) struct Tried {
    config: Config,
    settings: Settings,
}

impl Tried {
    pub(super) fn new(config: Config) -> Self {
        let settings = Rules::of_config(config.clone()).settings(true);
        Self { config, settings }
    }

    /// The target of the recorded name, else the first that the executable fits: command lines are not recorded.
    fn target(&self, incident: &Incident) -> Option<(usize, &Target)> {
        let named = |(_, target): &(usize, &Target)| target.name == incident.target;
        let fits = |(_, target): &(usize, &Target)| {
            let exe = target.matcher.exe.as_ref();
            exe.is_none_or(|exe| exe.matches(incident.exe.as_bytes()))
        };
        let targets = || self.config.targets.iter().enumerate();
        targets().find(named).or_else(|| targets().find(fits))
    }
}

impl Alternative for Tried {
    fn policy(&self, incident: &Incident, _: Option<&EpisodeStory>) -> Option<InForce> {
        let (index, _) = self.target(incident)?;
        Some(self.settings.in_force(index))
    }

    fn engine(&self, incident: &Incident, child: &Child) -> Option<bool> {
        let (_, target) = self.target(incident)?;
        let Some(engine) = &target.engine else {
            return Some(false);
        };
        if child.exe.is_empty() {
            return child.engine;
        }
        let exe = child.exe.as_bytes();
        let mut fitting = engine
            .matchers
            .iter()
            .filter(|matcher| matcher.exe.as_ref().is_none_or(|glob| glob.matches(exe)))
            .peekable();
        if fitting.peek().is_none() {
            Some(false)
        } else if fitting.any(|matcher| matcher.cmdline.is_none()) {
            Some(true)
        } else {
            // Which it is by its command line: that is not recorded, but whether it was an engine is.
            child.engine
        }
    }

    fn remarks(&self, incident: &Incident) -> Vec<String> {
        let mut remarks = Vec::new();
        let Some((_, target)) = self.target(incident) else {
            return remarks;
        };
        if target.name != incident.target {
            let by = if target.matcher.cmdline.is_some() {
                "its executable alone, because command lines are not recorded"
            } else {
                "its executable"
            };
            remarks.push(format!(
                "recorded for target {}, taken for target {} by {by}",
                incident.target, target.name
            ));
        }
        let engine = target.engine.as_ref();
        if engine.is_some_and(|engine| engine.matchers.iter().any(|one| one.cmdline.is_some())) {
            remarks.push(
                "engines are matched by their command line, which is not recorded: taken as recorded"
                    .into(),
            );
        }
        remarks
    }
}
