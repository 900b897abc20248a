//! What a stalling program says of its own stall.

use serde::{Deserialize, Serialize};

use super::sight;

/// A frame of the Python stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frame {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u64,
}

/// Said right before the stall begins. Ids are those of the program's own PID namespace.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Began {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    #[serde(rename = "began")]
    pub(super) at_ns: u64,
    /// Where the innermost frame may stand.
    #[serde(default)]
    pub(super) frames: Vec<Frame>,
    /// The innermost frame may be any.
    #[serde(default)]
    pub(super) anywhere: bool,
    /// Frames further out that have to be in the stack too: the program's own line and the coroutine.
    #[serde(default)]
    pub(super) outer: Vec<Frame>,
    /// A function of a program that is not Python, on its stack.
    pub(super) native: Option<String>,
    pub(super) child: Option<u32>,
    pub(super) holder: Option<u32>,
    pub(super) peer: Option<String>,
    pub(super) file: Option<String>,
    /// The program cannot tell the id of the child, but has only one.
    #[serde(default)]
    pub(super) child_is_only_child: bool,
    #[serde(default)]
    pub(super) holder_is_only_child: bool,
}

/// From the moment that a program names as the beginning to the stall itself.
const TOLD_WITHIN_MS: f64 = 20.0;

/// Said when it is over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ended {
    #[serde(rename = "ended")]
    pub(super) at_ns: u64,
    /// What the loop's thread has computed in between.
    pub(super) thread_cpu_ms: f64,
    /// And what all threads have.
    pub(super) process_cpu_ms: f64,
    /// What it took the program to say that it begins.
    #[serde(default)]
    pub(super) told_ms: f64,
    /// Why it was not the stall that it was to be, as far as the program can tell.
    pub(super) spoiled: Option<String>,
}

/// Both, with ids as the agent sees them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Truth {
    pub(super) pid: u32,
    pub(super) began: Began,
    pub(super) ended: Ended,
    /// What procfs showed in the middle of it.
    pub(super) seen: Vec<sight::Thread>,
}

impl Truth {
    #[expect(clippy::cast_precision_loss, reason = "some seconds as milliseconds")]
    pub(super) fn length_ms(&self) -> f64 {
        self.ended.at_ns.saturating_sub(self.began.at_ns) as f64 / 1e6
    }

    /// Why the stall was not what it was to be: others used the processors, too.
    pub(super) fn spoiled(&self, kind: &str) -> Option<String> {
        if let Some(why) = &self.ended.spoiled {
            return Some(why.clone());
        }
        if self.ended.told_ms > TOLD_WITHIN_MS {
            return Some(format!(
                "the program was held up for {:.0} ms before its stall, while it told of it",
                self.ended.told_ms
            ));
        }
        let share = |ms: f64| ms / self.length_ms().max(1.0);
        let (thread, process) = (
            share(self.ended.thread_cpu_ms),
            share(self.ended.process_cpu_ms),
        );
        let fine = match kind {
            "cpu_busy" => thread >= 0.75,
            "cpu_starved" => thread <= 0.25,
            "gil_wait" => thread <= 0.25 && process >= 0.75,
            _ => return None,
        };
        (!fine).then(|| {
            format!(
                "the loop's thread had {:.0} % of a processor and all threads {:.0} %, which is no {kind}",
                thread * 100.0,
                process * 100.0
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_that_the_machine_made_another_is_spoiled() {
        let truth = |thread_cpu_ms, process_cpu_ms| Truth {
            ended: Ended {
                at_ns: 1_000_000_000,
                thread_cpu_ms,
                process_cpu_ms,
                ..Ended::default()
            },
            ..Truth::default()
        };
        let cases = [
            ("cpu_busy", truth(990.0, 990.0), true),
            ("cpu_busy", truth(500.0, 500.0), false),
            ("cpu_starved", truth(30.0, 30.0), true),
            ("cpu_starved", truth(500.0, 500.0), false),
            ("gil_wait", truth(1.0, 990.0), true),
            ("gil_wait", truth(1.0, 400.0), false),
            ("sleep", truth(1.0, 400.0), true),
        ];
        for (kind, truth, fine) in cases {
            assert_eq!(truth.spoiled(kind).is_none(), fine, "{kind} {truth:?}");
        }
    }

    #[test]
    fn a_program_that_was_held_up_or_says_so_itself_is_spoiled() {
        let ended = |json: &str| Truth {
            ended: serde_json::from_str(json).unwrap(),
            ..Truth::default()
        };
        let text = |more: &str| {
            format!(r#"{{"ended": 1000000000, "thread_cpu_ms": 0, "process_cpu_ms": 0{more}}}"#)
        };
        assert_eq!(ended(&text("")).spoiled("sleep"), None);
        assert_eq!(ended(&text(r#", "told_ms": 2.5"#)).spoiled("sleep"), None);
        let late = ended(&text(r#", "told_ms": 97.0"#)).spoiled("sleep");
        assert!(late.is_some_and(|why| why.contains("97 ms")));
        let own = ended(&text(r#", "spoiled": "not in its poller""#)).spoiled("gil_wait");
        assert_eq!(own.as_deref(), Some("not in its poller"));
    }
}
