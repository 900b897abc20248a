//! A loop, its agent, and children that nobody may touch.

use anyhow::{Context as _, Result, ensure};

use super::line::Line;
use super::victim::Victim;
use super::watch::{Options, Watch};
use super::{ENGINE, HELPER, alive};

/// What most tests need.
pub(crate) struct Scene {
    pub(crate) victim: Victim,
    pub(crate) watch: Watch,
    /// Children that must be alive at the end.
    untouched: Vec<(&'static str, u32)>,
}

/// Arguments of an agent that may act.
pub(crate) const ENFORCE: [&str; 3] = ["--enforce", "--engine", "query-engine-*"];

impl Scene {
    /// A loop on `epoll_wait` under an enforcing agent with that grace, recognised.
    pub(crate) fn enforcing(grace: &str) -> Result<Self> {
        Self::with(
            Victim::start(&["loop", "epoll_wait"])?,
            &[&ENFORCE[..], &["--grace", grace]].concat(),
        )
    }

    /// A loop under an agent with these arguments, recognised.
    pub(crate) fn with(victim: Victim, arguments: &[&str]) -> Result<Self> {
        Self::with_options(
            victim,
            &Options {
                arguments,
                ..Options::default()
            },
        )
    }

    /// The same with all options of the agent.
    pub(crate) fn with_options(victim: Victim, options: &Options<'_>) -> Result<Self> {
        let mut watch = Watch::start(&[victim.pid], options)?;
        watch.next("the loop", |line| line.is("loop", victim.pid))?;
        Ok(Self {
            victim,
            watch,
            untouched: Vec::new(),
        })
    }

    /// Adds an engine and another child of the loop, both told to end and both deaf to it: nobody waits for them, so nobody
    /// may touch them.
    pub(crate) fn add_bystanders(&mut self) -> Result<()> {
        for (name, program) in [("other-engine", ENGINE), ("helper", HELPER)] {
            let pid = self.victim.spawn(name, "engine", program)?;
            self.victim.tell_to_end(name)?;
            self.untouched.push((name, pid));
        }
        Ok(())
    }

    /// Adds a deaf engine.
    pub(crate) fn add_engine(&mut self) -> Result<u32> {
        self.add("engine", "engine", ENGINE)
    }

    /// Adds a child, and lets the loop go on for a moment.
    pub(crate) fn add(&mut self, name: &'static str, kind: &str, program: &str) -> Result<u32> {
        let pid = self.victim.spawn(name, kind, program)?;
        self.victim.ask("idle 20", "idled")?;
        Ok(pid)
    }

    /// A process that must be alive at the end.
    pub(crate) fn must_live(&mut self, name: &'static str, pid: u32) {
        self.untouched.push((name, pid));
    }

    /// Waits for a refusal of this incident's action.
    pub(crate) fn refusal(&mut self) -> Result<Line> {
        let pid = self.victim.pid;
        self.watch.next("a refused action", |line| {
            line.is("action", pid) && line.text("/outcome") == "refused"
        })
    }

    /// Waits for an action other than a refusal.
    pub(crate) fn action(&mut self) -> Result<Line> {
        let pid = self.victim.pid;
        self.watch.next("an action", |line| {
            line.is("action", pid) && line.text("/outcome") != "refused"
        })
    }

    /// Waits for a line of the loop.
    pub(crate) fn line(&mut self, kind: &str) -> Result<Line> {
        let pid = self.victim.pid;
        self.watch.next(kind, |line| line.is(kind, pid))
    }

    /// Ends a child from outside, and waits until the loop is back.
    pub(crate) fn free(&mut self, child: u32) -> Result<Line> {
        alive::signal(child, libc::SIGKILL)?;
        self.victim.answer("waited")?;
        let closed = self.line("stall_closed")?;
        ensure!(
            !closed.is_true("/rescued"),
            "credited for what others did: {closed}"
        );
        Ok(closed)
    }

    /// Ends loop and agent, and checks that exactly these actions were taken and that nobody else was touched.
    pub(crate) fn end(self, sent: &[(u32, &str)]) -> Result<Vec<Line>> {
        for (name, pid) in &self.untouched {
            alive::must_live(name, *pid)?;
        }
        let pid = self.victim.pid;
        self.victim.quit()?;
        let lines = self.watch.finish()?;
        let found: Vec<(u32, String)> = lines
            .iter()
            .filter(|line| line.is_sent())
            .map(|line| {
                let child = line
                    .number("/child")
                    .and_then(|child| u32::try_from(child).ok());
                Ok((
                    child.context("an action without a child")?,
                    line.text("/signal").to_owned(),
                ))
            })
            .collect::<Result<_>>()?;
        let sent: Vec<(u32, String)> = sent
            .iter()
            .map(|(child, signal)| (*child, (*signal).to_owned()))
            .collect();
        ensure!(found == sent, "sent {found:?} instead of {sent:?}");
        let summary = lines
            .iter()
            .find(|line| line.is("summary", pid))
            .context("no summary")?;
        let told = summary.number("/actions").context("no count of actions")?;
        let counted = lines
            .iter()
            .filter(|line| {
                line.is("action", pid) && matches!(line.text("/outcome"), "sent" | "would_send")
            })
            .count();
        ensure!(
            u64::try_from(counted)? == told,
            "the summary counts {told} actions instead of {counted}"
        );
        Ok(lines)
    }
}
