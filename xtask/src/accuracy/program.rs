//! A stalling program from the harness's side: start it where it is to run, tell it to go, read the truth it tells.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::lab::Lab;
use super::row::{Environment, Row, Runtime};
use super::scene::Scene;
use super::truth::Began;
use crate::litellm::process::{all, children};
use crate::measure::victims::die_with_us;
use crate::{cmd, litellm};

/// Every line of the program comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// The running program. It ends when its stdin is closed, and is killed after that.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// As the harness, and the agent, see it.
    pub(super) pid: u32,
    /// As it sees itself.
    own_pid: u32,
}

#[derive(Debug, serde::Deserialize)]
struct Ready {
    pid: u32,
}

impl Program {
    /// Starts it and waits until its loop runs.
    pub(super) fn start(
        lab: &Lab,
        row: &Row,
        environment: Environment,
        scene: &Scene,
        folder: &Path,
    ) -> Result<Self> {
        let mut command = command(lab, row, environment, scene, folder);
        let errors = folder.join("stderr");
        let stderr = fs::File::create(&errors).context("cannot make a file for stderr")?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        die_with_us(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", cmd::shown(&command)))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the program has no stdout")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut program = Self {
            pid: child.id(),
            own_pid: child.id(),
            child,
            stdin,
            lines,
        };
        let ready: Ready = program
            .read()
            .with_context(|| cmd::tail(&fs::read_to_string(&errors).unwrap_or_default(), 10))
            .context("the program did not start")?;
        program.own_pid = ready.pid;
        program.pid = program
            .find(ready.pid)
            .context("the program's process is not to be found")?;
        if row.is_favoured() {
            // Where there is no such file, sessions have no share.
            let _ = fs::write(format!("/proc/{}/autogroup", program.pid), "-15");
        }
        Ok(program)
    }

    pub(super) fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the program was told to end")?;
        stdin
            .write_all(b"go\n")
            .context("the program does not listen any more")
    }

    /// The next line that it prints.
    pub(super) fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let end = cmd::now() + PATIENCE;
        loop {
            litellm::stop::check()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    return serde_json::from_str(&line)
                        .with_context(|| format!("the program printed {line:?}"));
                }
                Err(RecvTimeoutError::Timeout) if cmd::now() < end => {}
                Err(RecvTimeoutError::Timeout) => bail!("it has said nothing for {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("it has ended"),
            }
        }
    }

    /// What it says of the stall that begins, with ids as the harness sees them.
    pub(super) fn began(&mut self) -> Result<Began> {
        let mut began: Began = self.read()?;
        for id in [&mut began.child, &mut began.holder].into_iter().flatten() {
            *id = seen_from_here(self.pid, *id)
                .with_context(|| format!("its process {id} is not to be found"))?;
        }
        if began.holder_is_only_child || began.child_is_only_child {
            let only = litellm::stop::wait_for(PATIENCE, Duration::from_millis(5), || {
                Ok(children(self.pid).first().map(|child| child.pid))
            })?;
            began.holder = only.filter(|_| began.holder_is_only_child);
            began.child = only.filter(|_| began.child_is_only_child);
        }
        Ok(began)
    }

    /// The process that calls itself so, among the one that was started and its descendants.
    fn find(&self, own_name: u32) -> Option<u32> {
        let mut candidates = vec![self.child.id()];
        while let Some(pid) = candidates.pop() {
            if in_own_namespace(pid) == Some(own_name) {
                return Some(pid);
            }
            candidates.extend(children(pid).iter().map(|child| child.pid));
        }
        None
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stdin = None;
        let end = cmd::now() + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) && cmd::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Of Node.js; in a root of its own it went with the root.
        let _ = fs::remove_file(format!("/tmp/perf-{}.map", self.own_pid));
    }
}

/// The command, down to the program itself: each step becomes the next one by exec.
fn command(
    lab: &Lab,
    row: &Row,
    environment: Environment,
    scene: &Scene,
    folder: &Path,
) -> Command {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
    if row.is_favoured() {
        // In a session of its own, because the kernel may share processors out between sessions before it looks at processes.
        add(&["setsid", "nice", "-n", "-15"]);
    }
    match environment {
        Environment::Open if scene.names.is_none() => {}
        Environment::Open => add(&["unshare", "--mount", "--propagation", "private"]),
        Environment::Pid | Environment::Root => {
            add(&["unshare", "--mount", "--propagation", "private"]);
            add(&["--pid", "--fork", "--kill-child"]);
        }
    }
    add(&["sh"]);
    words.push(folder.join("enclose.sh").into());
    for group in scene.cgroup.iter().flat_map(|cgroup| cgroup.folders()) {
        words.extend(["-c".into(), group.into()]);
    }
    if let Some(names) = &scene.names {
        words.extend(["-n".into(), names.into()]);
    }
    let inside = environment == Environment::Root;
    if inside {
        words.extend([
            "-b".into(),
            lab.python_home.clone().into(),
            "/python".into(),
        ]);
        words.extend(["-b".into(), lab.venv.clone().into(), "/venv".into()]);
    }
    words.extend([environment.name().into(), folder.into()]);
    let own = if inside { Path::new("/app") } else { folder };
    words.extend(own_words(lab, row, own, inside));
    let mut command = Command::new(&words[0]);
    // What it drops (a log of V8) goes with its folder.
    command.args(&words[1..]).current_dir(folder);
    if inside {
        // The same Python where only the program's own root leads.
        let version = &lab.python_version;
        command
            .env("PYTHONHOME", "/python")
            .env(
                "PYTHONPATH",
                format!("/venv/lib/python{version}/site-packages"),
            )
            .env("LD_LIBRARY_PATH", "/python/lib");
    }
    command
}

fn own_words(lab: &Lab, row: &Row, folder: &Path, inside: bool) -> Vec<OsString> {
    let file = |name: &str| folder.join(name).into_os_string();
    let python = || {
        let relative = lab.python_file.strip_prefix(&lab.python_home);
        match relative {
            Ok(relative) if inside => Path::new("/python").join(relative),
            _ => lab.python.clone(),
        }
    };
    let mut words: Vec<OsString> = match row.runtime {
        Runtime::Asyncio | Runtime::Uvloop => vec![
            python().into(),
            file("stalls.py"),
            row.runtime.name().into(),
        ],
        // With a perf map, so that its frames have names.
        Runtime::Node => vec![
            PathBuf::clone(&lab.node).into(),
            "--perf-basic-prof".into(),
            "--interpreted-frames-native-stack".into(),
            file("stalls.cjs"),
        ],
        Runtime::Native => vec![file("stalls")],
    };
    words.extend([row.case.into(), folder.into()]);
    words
}

/// What a process calls itself.
fn in_own_namespace(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

/// The process that another one of its PID namespace calls so.
fn seen_from_here(neighbour: u32, name: u32) -> Option<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(neighbour)?;
    all().into_iter().find(|pid| {
        in_own_namespace(*pid) == Some(name) && namespace(*pid).as_ref() == Some(&wanted)
    })
}
