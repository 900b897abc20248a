//! What a failed part has to say again at the end: the log of a long run is often read, or kept, from its end only.

use std::collections::VecDeque;

/// Of one test's output; what comes first is mostly the reason, what follows the backtrace.
const LINES_OF_A_TEST: usize = 25;
const LINES_IN_ALL: usize = 80;
/// Of a command that names no test.
const LAST_LINES: usize = 20;
const LONGEST_LINE: usize = 240;

/// Reads what a command prints and keeps what its failed tests said, or else its last lines.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    kept: Vec<String>,
    last: VecDeque<String>,
    inside: bool,
    of_this_test: usize,
}

impl Failures {
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        // A VM's label may stand before what the test binary prints.
        let said = line.split_once(" |").map_or(line, |(_, said)| said).trim();
        if said == "failures:" {
            self.inside = true;
        } else if said.starts_with("test result: ") {
            self.inside = false;
        } else if self.inside && !said.is_empty() {
            if said.starts_with("---- ") {
                self.of_this_test = 0;
            }
            self.of_this_test += 1;
            if self.of_this_test <= LINES_OF_A_TEST && self.kept.len() < LINES_IN_ALL {
                self.kept.push(cut(line));
            }
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(cut(line));
    }

    /// What to show of a command that failed.
    pub(crate) fn of_failed(self) -> Vec<String> {
        if self.kept.is_empty() {
            self.last.into()
        } else {
            self.kept
        }
    }
}

fn cut(line: &str) -> String {
    line.chars().take(LONGEST_LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let mut failures = Failures::default();
        for line in text.lines() {
            failures.read(line);
        }
        failures.of_failed()
    }

    #[test]
    fn what_failed_tests_said_is_kept_with_the_label_before_it() {
        let text = "6.1 | test a::b ... FAILED\n6.1 | \n6.1 | failures:\n6.1 | \n6.1 | ---- a::b ----\n6.1 | it was 3\n6.1 | \n\
                    6.1 | failures:\n6.1 |     a::b\n6.1 | \n6.1 | test result: FAILED. 1 passed; 1 failed; 0 ignored\nlater";
        assert_eq!(
            of(text),
            ["6.1 | ---- a::b ----", "6.1 | it was 3", "6.1 |     a::b"]
        );
    }

    #[test]
    fn one_test_cannot_crowd_out_the_others() {
        let long = "noise\n".repeat(500);
        let kept = of(&format!(
            "failures:\n---- a ----\n{long}---- b ----\nwhy\ntest result: FAILED."
        ));
        assert_eq!(kept.len(), LINES_OF_A_TEST + 2);
        assert_eq!(kept.last().map(String::as_str), Some("why"));
    }

    #[test]
    fn a_command_that_names_no_test_shows_its_last_lines() {
        let text: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let kept = of(&text.join("\n"));
        assert_eq!(kept.len(), LAST_LINES);
        assert_eq!(kept.last().map(String::as_str), Some("line 99"));
    }
}
