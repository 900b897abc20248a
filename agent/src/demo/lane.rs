//! One of the two servers: its process, its story, and what the kubelet does to it.
//!
//! It signals its own server only. When to do what is decided by the kubelet's model and told by the show.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::happening::{Happening, Side};
use super::role::Report;
use super::script::RESTART;
use super::stage::{Actor, Stage};
use super::story::Story;
use crate::pipeline::Mono;

/// A word of a server, or none when its process has ended. Words of an earlier process mean nothing any more.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) side: Side,
    pub(super) generation: u32,
    pub(super) line: Option<String>,
}

/// A server and what is known of it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) story: Story,
    server: Actor,
    generation: u32,
    kill: Kill,
    restart_at: Option<Mono>,
}

/// How far the kubelet has got with ending the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    No,
    /// SIGTERM was sent; SIGKILL follows then.
    Terminated(Mono),
    /// SIGKILL was sent.
    Killed,
}

impl Lane {
    /// Starts the first server of a side, on a free port. Its words go to `hear`.
    pub(super) fn open(
        stage: &Stage,
        side: Side,
        hear: impl FnMut(Word) + Send + 'static,
    ) -> Result<Self> {
        let server = start(stage, side, 0, 0, hear)?;
        let story = Story::new(side, server.pid(), 0);
        Ok(Self {
            story,
            server,
            generation: 0,
            kill: Kill::No,
            restart_at: None,
        })
    }

    /// Whether the first server listens.
    pub(super) fn is_ready(&self) -> bool {
        self.story.port != 0
    }

    /// What a word of the server means for its story.
    pub(super) fn hear(&mut self, word: &Word, now: Mono) -> Result<Option<(Mono, Happening)>> {
        if word.generation != self.generation {
            return Ok(None);
        }
        let Some(line) = &word.line else {
            return self.ended(now).map(Some);
        };
        let report = serde_json::from_str(line)
            .with_context(|| format!("the {} server said {line:?}", self.story.side.name()))?;
        Ok(match report {
            Report::Frozen { mono_ns, engine } => {
                Some((Mono(mono_ns), Happening::Frozen { engine }))
            }
            Report::Thawed { mono_ns, .. } => Some((Mono(mono_ns), Happening::Thawed)),
            Report::Ready { .. } if self.generation > 0 => Some((
                now,
                Happening::Restarted {
                    pid: self.server.pid(),
                },
            )),
            Report::Ready { port, .. } => {
                self.story.port = port;
                None
            }
        })
    }

    fn ended(&mut self, now: Mono) -> Result<(Mono, Happening)> {
        if self.kill == Kill::No {
            let (name, words) = (self.story.side.name(), self.server.last_words());
            bail!("the {name} server ended by itself; it said: {words:?}");
        }
        self.kill = Kill::No;
        self.restart_at = Some(now.plus(RESTART));
        Ok((now, Happening::Gone))
    }

    /// The database stops answering: the server is to reconnect.
    pub(super) fn wedge(&mut self) -> Result<()> {
        let stdin = self
            .server
            .stdin
            .as_mut()
            .context("a server without input")?;
        stdin
            .write_all(b"w")
            .with_context(|| format!("wedging the {} server", self.story.side.name()))
    }

    /// The kubelet has decided: SIGTERM now, SIGKILL after `grace`.
    pub(super) fn terminate(&mut self, now: Mono, grace: Duration) -> Result<Happening> {
        self.server.signal(Signal::TERM)?;
        self.kill = Kill::Terminated(now.plus(grace));
        Ok(Happening::Terminated)
    }

    /// Sends the SIGKILL that is due.
    pub(super) fn kill_if_due(&mut self, now: Mono) -> Result<Option<Happening>> {
        match self.kill {
            Kill::Terminated(at) if at <= now => {
                self.server.signal(Signal::KILL)?;
                self.kill = Kill::Killed;
                Ok(Some(Happening::Killed))
            }
            _ => Ok(None),
        }
    }

    /// Starts the next server when the last one has been gone for long enough.
    pub(super) fn restart_if_due(
        &mut self,
        stage: &Stage,
        now: Mono,
        hear: impl FnMut(Word) + Send + 'static,
    ) -> Result<()> {
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.generation += 1;
            self.server = start(
                stage,
                self.story.side,
                self.generation,
                self.story.port,
                hear,
            )?;
        }
        Ok(())
    }

    /// The last of what the server wrote to its error output.
    pub(super) fn last_words(&self) -> String {
        self.server.last_words()
    }
}

fn start(
    stage: &Stage,
    side: Side,
    generation: u32,
    port: u16,
    mut hear: impl FnMut(Word) + Send + 'static,
) -> Result<Actor> {
    let engine = stage.engine();
    let engine = engine
        .to_str()
        .context("the folder for temporary files is no UTF-8")?;
    let arguments = [
        "--engine".to_owned(),
        engine.to_owned(),
        "--port".to_owned(),
        port.to_string(),
    ];
    let mut server = stage.start("server", &arguments)?;
    let tell = move |line| {
        let word = Word {
            side,
            generation,
            line,
        };
        hear(word);
    };
    server.listen(tell)?;
    Ok(server)
}
