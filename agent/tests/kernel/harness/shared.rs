//! Agents that several tests share. To attach and detach the hooks takes a kernel longer than most tests, so loops whose test
//! needs nothing special of its agent are born below a process that an agent watches already, as workers are.

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::scene::ENFORCE;
use super::slowness;
use super::victim::Victim;
use super::watch::{Agent, Options, Watch};
use crate::victim::FLAG;

/// How long told engines get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grace {
    /// None.
    Zero,
    /// Below the length of a stall.
    Short,
    /// Longer than a stall.
    Usual,
}

impl Grace {
    /// As milliseconds.
    pub(crate) fn ms(self) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Short => 20,
            // Tests have to do something within it.
            Self::Usual => 300 * u64::from(slowness()),
        }
    }

    pub(crate) fn ns(self) -> u64 {
        self.ms() * 1_000_000
    }

    /// As an argument of the agent.
    fn argument(self) -> String {
        format!("{}ms", self.ms())
    }

    const ALL: [Self; 3] = [Self::Zero, Self::Short, Self::Usual];
}

/// An agent, and the process under which its loops are born.
struct Shared {
    agent: Agent,
    keeper: Victim,
}

static KEEPERS: Mutex<Vec<Victim>> = Mutex::new(Vec::new());
type Slot = OnceLock<Result<Mutex<Option<Shared>>, String>>;
static SHARED: [Slot; 3] = [const { OnceLock::new() }; 3];
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Starts the processes below which loops are born: by the main thread, because they die with the thread that starts them.
pub(crate) fn make_keepers() -> Result<()> {
    let mut keepers = KEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in Grace::ALL {
        keepers.push(Victim::start(&["keeper"])?);
    }
    Ok(())
}

fn start(grace: Grace) -> Result<Shared> {
    let keeper = KEEPERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut keeper = keeper.context("no keeper is left")?;
    let grace = grace.argument();
    let arguments = [&ENFORCE[..], &["--grace", &grace]].concat();
    let options = Options {
        arguments: &arguments,
        ..Options::default()
    };
    let (agent, mut watch) = Agent::start(&[keeper.pid], &options)?;
    // It follows when it reports a first loop: what is born from now on is born under its eyes.
    let first = adopt(&mut keeper, &["loop", "epoll_wait"])?;
    watch.next("the first loop", |line| line.is("loop", first.pid))?;
    first.quit()?;
    Ok(Shared { agent, keeper })
}

/// Starts a part below the process that the shared agent of that grace watches, and reads its lines from before.
pub(crate) fn victim(grace: Grace, part: &[&str]) -> Result<(Victim, Watch)> {
    let shared = SHARED[grace as usize].get_or_init(|| {
        let started = start(grace).map_err(|error| format!("{error:#}"));
        started.map(|shared| Mutex::new(Some(shared)))
    });
    let shared = shared
        .as_ref()
        .map_err(|error| anyhow!("the shared agent did not start: {error}"))?;
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = shared.as_mut().context("the shared agent has ended")?;
    let watch = shared.agent.reader();
    Ok((adopt(&mut shared.keeper, part)?, watch))
}

fn adopt(keeper: &mut Victim, part: &[&str]) -> Result<Victim> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = super::folder().join(format!("{number}.socket"));
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    let program = super::program(super::LOOP);
    keeper.tell(&format!(
        "{} {} {FLAG} {}",
        path.display(),
        program.display(),
        part.join(" ")
    ))?;
    let pid = keeper.answer("started")?.parse()?;
    let (stream, _) = listener.accept().context("the victim did not connect")?;
    Victim::connected(stream, pid)
}

/// Ends all shared agents, which must have nothing to complain of.
pub(crate) fn end() -> Result<()> {
    for grace in Grace::ALL {
        let Some(Ok(shared)) = SHARED[grace as usize].get() else {
            continue;
        };
        let Some(mut shared) = shared.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            continue;
        };
        let watch = shared.agent.reader();
        shared.agent.interrupt()?;
        let lines = watch.until_end()?;
        let (status, errors) = shared.agent.status()?;
        ensure!(
            status.success(),
            "the shared agent ended with {status}: {errors}"
        );
        let last = lines.last().context("no line at the end")?;
        ensure!(
            last.text("/reason") == "interrupted",
            "the last line is not the end: {last}"
        );
    }
    Ok(())
}
