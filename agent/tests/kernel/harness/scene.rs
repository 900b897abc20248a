//! A loop, its agent, and children that nobody may touch.

use anyhow::{Context as _, Result, ensure};

use super::line::Line;
use super::shared::{self, Grace};
use super::victim::Victim;
use super::watch::{Agent, Options, Watch};
use super::{ENGINE, HELPER, alive};

/// What most tests need.
pub(crate) struct Scene {
    pub(crate) victim: Victim,
    pub(crate) watch: Watch,
    /// Unless it is a shared one.
    agent: Option<Agent>,
    /// Processes that must be alive at the end.
    untouched: Vec<(&'static str, u32)>,
}

/// Arguments of an agent that may act.
pub(crate) const ENFORCE: [&str; 3] = ["--enforce", "--engine", "query-engine-*"];

impl Scene {
    /// A loop on `epoll_wait`, born under the enforcing agent with that grace, and recognised.
    pub(crate) fn enforcing(grace: Grace) -> Result<Self> {
        Self::enforcing_on(grace, &["loop", "epoll_wait"])
    }

    /// The same for another kind of loop.
    pub(crate) fn enforcing_on(grace: Grace, part: &[&str]) -> Result<Self> {
        let (victim, watch) = shared::victim(grace, part)?;
        Self {
            victim,
            watch,
            agent: None,
            untouched: Vec::new(),
        }
        .recognised()
    }

    /// A loop that was there before its own agent, recognised.
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
        let (agent, watch) = Agent::start(&[victim.pid], options)?;
        Self {
            victim,
            watch,
            agent: Some(agent),
            untouched: Vec::new(),
        }
        .recognised()
    }

    fn recognised(mut self) -> Result<Self> {
        self.watch.focus = Some(self.victim.pid);
        self.line("loop")?;
        Ok(self)
    }

    /// Adds an engine and another child of the loop, both told to end and both deaf to it: nobody waits for them, so nobody
    /// may touch them.
    pub(crate) fn add_bystanders(&mut self) -> Result<()> {
        for (name, program) in [("other-engine", ENGINE), ("helper", HELPER)] {
            let pid = self.victim.spawn(name, "engine", program)?;
            self.victim.tell_to_end(name)?;
            self.must_live(name, pid);
        }
        Ok(())
    }

    /// Adds a deaf engine that was told to end.
    pub(crate) fn add_wedged_engine(&mut self) -> Result<u32> {
        let engine = self.add("engine", "engine", ENGINE)?;
        self.victim.tell_to_end("engine")?;
        Ok(engine)
    }

    /// Adds a child, and lets the loop go on for a moment.
    pub(crate) fn add(&mut self, name: &str, kind: &str, program: &str) -> Result<u32> {
        let pid = self.victim.spawn(name, kind, program)?;
        self.victim.ask("idle 20", "idled")?;
        Ok(pid)
    }

    /// Lets the loop run for more than a grace.
    pub(crate) fn idle_longer_than(&mut self, grace: Grace) -> Result<()> {
        let command = format!("idle {}", grace.ms() + 200);
        self.victim.ask(&command, "idled").map(|_| ())
    }

    /// A process that must be alive at the end.
    pub(crate) fn must_live(&mut self, name: &'static str, pid: u32) {
        self.untouched.push((name, pid));
    }

    /// Waits for a refused action in a wait for a child, and looks for some time whether it stays refused.
    pub(crate) fn refusal(&mut self, refused_by: &str) -> Result<Line> {
        let pid = self.victim.pid;
        let line = self
            .watch
            .next("a refused action", |line| line.is("action", pid))?;
        ensure!(
            line.text("/refused_by") == refused_by,
            "expected {refused_by}: {line}"
        );
        // Refusals that can heal are looked at again every 50 ms.
        let so_far = self.watch.seen().len();
        self.watch.linger(200)?;
        let id = line.text("/incident");
        let waits =
            |line: &&Line| line.text("/incident") == id && line.text("/cause/kind") == "child_wait";
        ensure!(
            self.watch.seen().iter().any(|line| waits(&line)),
            "the incident of {line} is no wait"
        );
        let acted = self
            .watch
            .seen()
            .iter()
            .skip(so_far)
            .find(|line| line.is("action", pid) && line.text("/outcome") != "refused");
        ensure!(
            acted.is_none(),
            "{line}, and then {}",
            acted.map_or(String::new(), Line::to_string)
        );
        Ok(line)
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

    /// Waits for a stall of that cause. Starting a child can stall a loop too, on a busy machine.
    pub(crate) fn stall(&mut self, cause: &str) -> Result<Line> {
        let pid = self.victim.pid;
        self.watch.next(&format!("a stall by {cause}"), |line| {
            (line.is("stall_opened", pid) || line.is("stall_updated", pid))
                && line.text("/cause/kind") == cause
        })
    }

    /// Lets the loop sleep until that is told as a stall, and returns how the stall ended.
    pub(crate) fn nap(&mut self) -> Result<Line> {
        self.victim.tell("nap")?;
        let stall = self.stall("sleep")?;
        self.victim.wake()?;
        self.victim.answer("napped")?;
        self.closed(&stall)
    }

    /// Waits for the end of the incident of that line.
    pub(crate) fn closed(&mut self, incident: &Line) -> Result<Line> {
        let id = incident.text("/incident");
        self.watch.next("the stall's end", |line| {
            line.kind() == "stall_closed" && line.text("/incident") == id
        })
    }

    /// How an incident that is known to have begun did begin.
    pub(crate) fn opened(&self, incident: &Line) -> Result<&Line> {
        let id = incident.text("/incident");
        let opened = self
            .watch
            .seen()
            .iter()
            .find(|line| line.kind() == "stall_opened" && line.text("/incident") == id);
        opened.with_context(|| format!("an incident without a beginning: {incident}"))
    }

    /// Waits until the engine was killed and the loop is back, and checks that this is what is told.
    pub(crate) fn rescued(&mut self, engine: u32) -> Result<Line> {
        let action = self.action()?;
        ensure!(
            action.is_sent() && action.text("/signal") == "SIGKILL",
            "{action}"
        );
        ensure!(
            action.number("/child") == Some(engine.into()),
            "another child than {engine}: {action}"
        );
        let closed = self.closed(&action)?;
        ensure!(
            closed.is_true("/rescued") && closed.text("/ended_by") == "poll",
            "{closed}"
        );
        Ok(action)
    }

    /// Ends the child of an incident from outside, and waits until the loop is back.
    pub(crate) fn free(&mut self, child: u32, incident: &Line) -> Result<Line> {
        alive::signal(child, libc::SIGKILL)?;
        self.freed(incident)
    }

    /// Waits until the loop is back without the agent's doing.
    pub(crate) fn freed(&mut self, incident: &Line) -> Result<Line> {
        self.victim.answer("waited")?;
        let closed = self.closed(incident)?;
        ensure!(
            !closed.is_true("/rescued"),
            "credited for what others did: {closed}"
        );
        Ok(closed)
    }

    /// Ends loop and agent, and checks that exactly these signals were sent and that nobody else was touched.
    pub(crate) fn end(mut self, sent: &[(u32, &str)]) -> Result<Vec<Line>> {
        for (name, pid) in &self.untouched {
            alive::must_live(name, *pid)?;
        }
        let pid = self.victim.pid;
        self.victim.quit()?;
        let lines = if let Some(agent) = self.agent {
            agent.finish(self.watch)?
        } else {
            self.watch
                .next("the summary", |line| line.is("summary", pid))?;
            self.watch.seen().to_vec()
        };
        let own: Vec<Line> = lines
            .into_iter()
            .filter(|line| line.number("/pid") == Some(pid.into()))
            .collect();
        was_sent(&own, sent)?;
        let summary = own
            .iter()
            .find(|line| line.is("summary", pid))
            .context("no summary")?;
        let counted = own
            .iter()
            .filter(|line| matches!(line.text("/outcome"), "sent" | "would_send"))
            .count();
        ensure!(
            summary.number("/actions") == u64::try_from(counted).ok(),
            "{counted} actions, and not {summary}"
        );
        Ok(own)
    }
}

/// Fails unless exactly these signals were sent.
pub(crate) fn was_sent(lines: &[Line], expected: &[(u32, &str)]) -> Result<()> {
    let sent: Vec<(Option<u64>, &str)> = lines
        .iter()
        .filter(|line| line.is_sent())
        .map(|line| (line.number("/child"), line.text("/signal")))
        .collect();
    let expected: Vec<(Option<u64>, &str)> = expected
        .iter()
        .map(|(child, signal)| (Some(u64::from(*child)), *signal))
        .collect();
    ensure!(sent == expected, "sent {sent:?} instead of {expected:?}");
    Ok(())
}
