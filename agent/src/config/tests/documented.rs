//! `docs/configuration.md` and the program say the same.

use super::good::read;
use crate::config::presets::PRESETS;
use crate::config::schema::SECTIONS;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// The rows of the table below the heading of a section, by key.
fn rows(path: &str) -> Vec<(&'static str, &'static str)> {
    let heading = if path.is_empty() {
        "Top of the file".to_owned()
    } else {
        format!("`{path}`")
    };
    let is_heading =
        |line: &str| line.starts_with('#') && line.trim_start_matches(['#', ' ']) == heading;
    let below = PAGE
        .lines()
        .skip_while(|line| !is_heading(line))
        .skip(1)
        .take_while(|line| !line.starts_with('#'));
    below
        .filter_map(|line| Some((line.strip_prefix("| `")?.split_once("` |")?.0, line)))
        .collect()
}

#[test]
fn every_key_has_its_row_and_every_row_its_key() {
    for section in SECTIONS {
        let keys: Vec<_> = rows(section.path).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, section.keys, "the table of {:?}", section.path);
    }
}

#[test]
fn the_examples_are_good() {
    let examples: Vec<_> = PAGE
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert!(!read(example).targets.is_empty());
    }
}

#[test]
fn every_preset_is_described() {
    for (name, _) in PRESETS {
        assert!(PAGE.contains(&format!("\n`{name}`: ")), "{name}");
    }
}
