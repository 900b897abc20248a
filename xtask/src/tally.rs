//! Counts tests from what test binaries print.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    /// Adds what a line says when it is a test binary's summary. Anything may stand before it (a VM's label does).
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        let counts = counts
            .trim_start_matches("ok.")
            .trim_start_matches("FAILED.");
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (
                words.next().and_then(|word| word.parse::<u64>().ok()),
                words.next(),
            ) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// A part without a count counts as one test; a part that failed has at least one failure.
    pub(crate) fn of_part(mut self, succeeded: bool) -> Self {
        if succeeded && self.passed + self.failed == 0 {
            self.passed = 1;
        }
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, ignored: u64) -> Tally {
        Tally {
            passed,
            failed,
            ignored,
        }
    }

    #[test]
    fn summaries_are_added_up_and_other_lines_are_not_summaries() {
        let mut sum = Tally::default();
        for line in [
            "test wait::x ... ok",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "6.1 | test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "passed; 9 failed",
        ] {
            sum.read(line);
        }
        assert_eq!(sum, tally(7, 3, 1));
    }

    #[test]
    fn a_part_counts_at_least_as_one() {
        assert_eq!(Tally::default().of_part(true), tally(1, 0, 0));
        assert_eq!(Tally::default().of_part(false), tally(0, 1, 0));
        assert_eq!(tally(4, 0, 0).of_part(false), tally(4, 1, 0));
        assert_eq!(tally(4, 2, 0).of_part(false), tally(4, 2, 0));
    }
}
