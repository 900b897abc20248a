//! Known programs: targets that ship with the agent, in the format of an item of `targets`.

use super::node;
use super::problem::{Location, Problems};
use super::raw::{self, RawTarget};
use super::read::{At, Field, Reader};

/// Name and text of every preset.
pub(super) const PRESETS: &[(&str, &str)] = &[("litellm", include_str!("presets/litellm.yaml"))];

/// The preset's target, with every value at the place that names the preset; `None` for a name that there is not, or if
/// the preset itself is wrong, which a test rules out.
pub(super) fn load(name: &At<String>, path: &str) -> Option<RawTarget> {
    let (_, text) = PRESETS.iter().find(|(known, _)| *known == name.value)?;
    read(text, name.at, path).ok()
}

fn read(text: &str, at: Location, path: &str) -> Result<RawTarget, Problems> {
    let mut problems = Problems::default();
    let target = node::parse(text, &mut problems).and_then(|mut root| {
        root.relocate(at);
        let mut reader = Reader {
            problems: &mut problems,
        };
        raw::target(
            &mut reader,
            &Field {
                node: &root,
                path: path.to_owned(),
            },
        )
    });
    target.filter(|_| problems.is_empty()).ok_or(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_good_target_of_its_own_name() {
        for (name, text) in PRESETS {
            let at = Location { line: 1, column: 1 };
            let target = read(text, at, "targets[]")
                .map_err(|problems| problems.into_error(name).to_string())
                .unwrap();
            assert_eq!(target.name.map(|name| name.value).as_deref(), Some(*name));
            assert!(
                target.matcher.is_some() && target.preset.is_none(),
                "{name}"
            );
        }
    }
}
