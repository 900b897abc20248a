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
mod tests;
