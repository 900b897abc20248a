//! The watched processes and their descendants: who is whose child, who was told to end, who is an engine.

use std::collections::HashMap;
use std::time::Duration;

use super::event::{KernelEvent, What};
use super::ids::{Mono, Pid, PidKey};
use super::place::Seat;

/// SIGINT, SIGQUIT, SIGKILL and SIGTERM: whoever sends one of these tells a process to end.
pub const TELLING: [i32; 4] = [2, 3, 9, 15];
const SIGSTOP: [i32; 2] = [19, 20];
const SIGCONT: i32 = 18;
/// A signal that stops takes effect when the process is next to run: on a busy or throttled machine not at once.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

/// Where a process runs, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Container {
    /// In the containers of these ids, as [`Place::containers`](super::place::Place::containers) has them.
    Named(String),
    /// In none that cgroups tell of: its PID and mount namespaces stand for it.
    Namespaces(String),
}

/// A signal that told a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// By whom.
    pub by: Pid,
    /// Which.
    pub signal: i32,
    /// When.
    pub at: Mono,
}

impl Told {
    /// The signal's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.signal {
            2 => "SIGINT",
            3 => "SIGQUIT",
            9 => "SIGKILL",
            15 => "SIGTERM",
            _ => "another signal",
        }
    }
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Identity.
    pub key: PidKey,
    /// Parent.
    pub parent: Pid,
    /// Its number in its parent's PID namespace.
    pub ns_pid: Option<i32>,
    /// Basename of the executable as recorded at exec, empty if it could not be read.
    pub exe: String,
    /// Whether the configuration names it as an engine; `None` until it was matched.
    pub engine: Option<bool>,
    /// Where it runs; `None` until it was read.
    pub container: Option<Container>,
    /// In which container of a pod, as its cgroups tell.
    pub seat: Option<Seat>,
    /// Number of the configured target it belongs to.
    pub target: usize,
    /// Its threads are watched.
    pub watched: bool,
    /// First time its parent told it to end.
    pub told: Option<Mono>,
    /// With which signal.
    pub told_by: Option<i32>,
    /// Last time anybody told it to end.
    pub ending: Option<Mono>,
    /// The first signal that told it to end, from anybody.
    pub first_told: Option<Told>,
    /// A signal that stops whoever neither ignores nor handles it was sent then, and none to continue since.
    pub stopped: Option<Mono>,
    /// procfs has shown that it did stop.
    pub stop_shown: bool,
    /// By whom.
    pub stopped_by: Option<Pid>,
    /// The last time it was stopped and continued, it had been stopped since then.
    pub held_from: Option<Mono>,
    /// It was last seen stopped or frozen then.
    pub held_until: Option<Mono>,
    /// Its birth was seen, so that nothing it was told before is unknown.
    pub seen_born: bool,
    /// When, if it was.
    pub born: Option<Mono>,
}

impl Process {
    /// A process found by a scan.
    #[must_use]
    pub fn found(key: PidKey, parent: Pid, target: usize, watched: bool) -> Self {
        Self {
            key,
            parent,
            ns_pid: None,
            exe: String::new(),
            engine: None,
            container: None,
            seat: None,
            target,
            watched,
            told: None,
            told_by: None,
            ending: None,
            first_told: None,
            stopped: None,
            stop_shown: false,
            stopped_by: None,
            held_from: None,
            held_until: None,
            seen_born: false,
            born: None,
        }
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Family {
    processes: HashMap<Pid, Process>,
}

impl Family {
    /// The process of that id, if it has not ended.
    #[must_use]
    pub fn get(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The same, to fill in what was read.
    pub fn get_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        self.processes.get_mut(&pid)
    }

    /// Adds a process, or replaces one of the same id that ended unseen.
    pub fn insert(&mut self, process: Process) {
        self.processes.insert(process.key.pid, process);
    }

    /// Removes a process.
    pub fn remove(&mut self, pid: Pid) -> Option<Process> {
        self.processes.remove(&pid)
    }

    /// Every process.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// The direct children of a process, in order of their ids.
    #[must_use]
    pub fn children(&self, parent: Pid) -> Vec<&Process> {
        let mut children: Vec<_> = self
            .processes
            .values()
            .filter(|process| process.parent == parent)
            .collect();
        children.sort_by_key(|process| process.key.pid);
        children
    }

    /// The engines below a process, children excepted its own.
    #[must_use]
    pub fn engines_below(&self, pid: Pid) -> Vec<PidKey> {
        let mut found = Vec::new();
        let mut queue = vec![pid];
        // Bounded: each process has one parent, and a ring of parents would be a misreading.
        let mut steps = self.processes.len();
        while let Some(parent) = queue.pop() {
            for child in self.children(parent) {
                if child.engine == Some(true) {
                    found.push(child.key);
                }
                queue.push(child.key.pid);
            }
            if steps == 0 {
                break;
            }
            steps -= 1;
        }
        found
    }

    /// Takes in what the kernel reports; true if the family now has a process whose facts must be read.
    pub fn apply(&mut self, event: &KernelEvent) -> bool {
        match &event.what {
            What::Forked {
                parent,
                ns_pid,
                start_ns,
                watched,
            } => {
                let target = self.get(*parent).map_or(0, |process| process.target);
                let key = PidKey {
                    pid: event.pid,
                    start_ns: *start_ns,
                };
                let mut process = Process::found(key, *parent, target, *watched);
                process.ns_pid = *ns_pid;
                process.seen_born = true;
                process.born = Some(event.at);
                // Until it runs another program it is its parent's image: the same executable, and no engine of its own.
                if let Some(parent) = self.get(*parent) {
                    process.exe.clone_from(&parent.exe);
                    process.container.clone_from(&parent.container);
                    process.seat.clone_from(&parent.seat);
                    process.engine = Some(false);
                }
                self.insert(process);
                false
            }
            What::Execed { exe, start_ns, .. } => match self.get_mut(event.pid) {
                Some(process) => {
                    process.exe.clone_from(exe);
                    process.engine = None;
                    process.container = None;
                    // Another program is in the same pod. Should it be ending before it is looked at, nothing would tell any more.
                    if process.key.start_ns == 0 {
                        process.key.start_ns = *start_ns;
                    }
                    true
                }
                None => false,
            },
            What::Signalled { sender, signal } => {
                self.signalled(event.pid, *sender, *signal, event.at);
                false
            }
            What::Exited { .. } => {
                self.remove(event.pid);
                false
            }
            _ => false,
        }
    }

    fn signalled(&mut self, pid: Pid, sender: Pid, signal: i32, at: Mono) {
        let Some(process) = self.get_mut(pid) else {
            return;
        };
        if TELLING.contains(&signal) {
            process.ending = Some(at);
            process.first_told.get_or_insert(Told {
                by: sender,
                signal,
                at,
            });
            if process.parent == sender && process.told.is_none() {
                process.told = Some(at);
                process.told_by = Some(signal);
            }
        } else if SIGSTOP.contains(&signal) {
            // An earlier one that did not show may have been ignored.
            if !process.stop_shown {
                process.stopped = Some(at);
                process.stopped_by = Some(sender);
            }
        } else if signal == SIGCONT
            && let Some(from) = process.stopped.take()
        {
            process.held_from = Some(from);
            process.held_until = Some(at);
            process.stopped_by = None;
            process.stop_shown = false;
        }
    }

    /// Takes in whether procfs shows a process as stopped: a signal alone says only that it should have, and what continues it
    /// may have gone unseen.
    pub fn seen_stopped(&mut self, pid: Pid, shown: bool, now: Mono) {
        let Some(process) = self.get_mut(pid) else {
            return;
        };
        let Some(from) = process.stopped else {
            return;
        };
        if shown {
            process.stop_shown = true;
        } else if process.stop_shown {
            process.held_from = Some(from);
            process.held_until = Some(now);
        } else if now.since(from) < STOPS_WITHIN {
            return;
        }
        if !shown {
            process.stopped = None;
            process.stopped_by = None;
            process.stop_shown = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Tid;

    fn event(pid: u32, at: u64, what: What) -> KernelEvent {
        KernelEvent {
            at: Mono(at),
            pid: Pid(pid),
            tid: Tid(pid),
            what,
        }
    }

    fn family() -> Family {
        let mut family = Family::default();
        family.insert(Process::found(
            PidKey {
                pid: Pid(10),
                start_ns: 1,
            },
            Pid(1),
            0,
            true,
        ));
        let born = What::Forked {
            parent: Pid(10),
            ns_pid: Some(7),
            start_ns: 50,
            watched: true,
        };
        family.apply(&event(20, 50, born));
        family
    }

    #[test]
    fn a_child_is_known_from_birth_with_its_number_in_the_parents_namespace() {
        let family = family();
        let child = family.get(Pid(20)).unwrap();
        assert_eq!(
            (child.parent, child.ns_pid, child.seen_born),
            (Pid(10), Some(7), true)
        );
        assert_eq!(family.children(Pid(10)).len(), 1);
    }

    #[test]
    fn only_the_parent_tells_and_only_the_first_time_counts() {
        let mut family = family();
        family.apply(&event(
            20,
            60,
            What::Signalled {
                sender: Pid(99),
                signal: 15,
            },
        ));
        let child = family.get(Pid(20)).unwrap();
        assert_eq!((child.told, child.ending), (None, Some(Mono(60))));
        let first = child.first_told.unwrap();
        assert_eq!(
            (first.by, first.name(), first.at),
            (Pid(99), "SIGTERM", Mono(60))
        );
        family.apply(&event(
            20,
            70,
            What::Signalled {
                sender: Pid(10),
                signal: 2,
            },
        ));
        family.apply(&event(
            20,
            80,
            What::Signalled {
                sender: Pid(10),
                signal: 15,
            },
        ));
        family.apply(&event(
            20,
            90,
            What::Signalled {
                sender: Pid(10),
                signal: 1,
            },
        ));
        let child = family.get(Pid(20)).unwrap();
        assert_eq!((child.told, child.ending), (Some(Mono(70)), Some(Mono(80))));
    }

    #[test]
    fn time_under_sigstop_is_known() {
        let mut family = family();
        family.apply(&event(
            20,
            60,
            What::Signalled {
                sender: Pid(99),
                signal: 19,
            },
        ));
        let child = family.get(Pid(20)).unwrap();
        assert_eq!(
            (child.stopped, child.stopped_by),
            (Some(Mono(60)), Some(Pid(99)))
        );
        family.apply(&event(
            20,
            90,
            What::Signalled {
                sender: Pid(99),
                signal: 18,
            },
        ));
        let child = family.get(Pid(20)).unwrap();
        assert_eq!((child.stopped, child.held_until), (None, Some(Mono(90))));
    }

    #[test]
    fn a_stop_counts_only_while_it_is_shown() {
        let sent = |family: &mut Family, at, signal| {
            let sender = Pid(99);
            family.apply(&event(20, at, What::Signalled { sender, signal }));
        };
        let of = |family: &Family| {
            let child = family.get(Pid(20)).unwrap();
            (child.stopped, child.stop_shown, child.held_until)
        };
        let mut family = family();
        let second = 1_000_000_000;
        // Ignored: it is given a moment, and forgotten.
        sent(&mut family, 60, 20);
        family.seen_stopped(Pid(20), false, Mono(70));
        assert_eq!(of(&family), (Some(Mono(60)), false, None));
        family.seen_stopped(Pid(20), false, Mono(60 + second));
        assert_eq!(of(&family), (None, false, None));
        // Ignored, and nobody looked before one came that is not.
        let (first, then) = (2 * second, 9 * second);
        sent(&mut family, first, 20);
        sent(&mut family, then, 19);
        family.seen_stopped(Pid(20), true, Mono(then + 5));
        assert_eq!(of(&family), (Some(Mono(then)), true, None));
        // The same again changes nothing, and what let it run went unseen.
        sent(&mut family, then + 9, 20);
        family.seen_stopped(Pid(20), false, Mono(then + 10));
        assert_eq!(of(&family), (None, false, Some(Mono(then + 10))));
    }

    #[test]
    fn an_engine_below_a_wrapper_is_found_and_exec_asks_for_a_new_match() {
        let mut family = family();
        let seat = Seat {
            uid: None,
            container: "of a pod".into(),
        };
        family.get_mut(Pid(20)).unwrap().seat = Some(seat.clone());
        let born = What::Forked {
            parent: Pid(20),
            ns_pid: Some(8),
            start_ns: 60,
            watched: true,
        };
        family.apply(&event(30, 60, born));
        let ran = What::Execed {
            parent: Pid(20),
            start_ns: 60,
            exe: "query-engine-x".into(),
        };
        assert!(family.apply(&event(30, 61, ran)));
        let run = family.get(Pid(30)).unwrap();
        assert_eq!((run.engine, &run.seat), (None, &Some(seat)));
        family.get_mut(Pid(30)).unwrap().engine = Some(true);
        assert_eq!(family.engines_below(Pid(20)).len(), 1);
        family.apply(&event(
            30,
            70,
            What::Exited {
                start_ns: 60,
                status: 9,
            },
        ));
        assert!(family.engines_below(Pid(20)).is_empty());
    }
}
