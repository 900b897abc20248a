//! The course of the demo: start, wedge, let the kubelet and the guard do their work, stop, report.
//!
//! One thread, woken by the prober, the servers and the guard through one channel. It must run on the main thread: the
//! processes it starts die with it. What happens goes into the stories; whatever is shown is made from them.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::happening::{GuardNote, Happening, Side};
use super::kubelet::Verdict;
use super::lane::{Lane, Word};
use super::picture::{self, Scale};
use super::prober::{Prober, Told};
use super::screen::Screen;
use super::script::{Script, choose_probe, settled};
use super::stage::{Actor, Stage};
use super::text::{BAD, GOOD, Line, STRONG, Span};
use super::{Args, clock, guard, narrate, report};
use crate::pipeline::Mono;

/// From one picture to the next, and the longest time for which Ctrl-C goes unnoticed.
const FRAME: Duration = Duration::from_millis(100);
/// For the servers to listen, and for the guard to watch.
const START_LIMIT: Duration = Duration::from_secs(20);
/// For the guard to say its last words.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Event {
    Server(Word),
    Guard(Option<String>),
    Told(Told),
}

/// The running demo.
#[derive(Debug)]
pub(super) struct Show<'a> {
    args: &'a Args,
    script: Script,
    screen: Screen,
    sender: Sender<Event>,
    inbox: Receiver<Event>,
    interrupted: Arc<AtomicBool>,
    // Dropped in this order: clients, guard, servers, then the folder with the engine's executable.
    prober: Option<Prober>,
    guard: Option<Actor>,
    lanes: Vec<Lane>,
    stage: Stage,
}

impl<'a> Show<'a> {
    /// Starts the servers and, unless that is not wanted, the guard, and waits until all are at work.
    pub(super) fn open(args: &'a Args) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .with_context(|| format!("handling signal {signal}"))?;
        }
        let (sender, inbox) = channel();
        let script = Script {
            start: clock::now(),
            spec: choose_probe(args.probe, None),
            termination_grace: args.termination_grace,
        };
        let screen = Screen::open(args.json && std::io::stdout().is_terminal());
        let (lanes, stage) = (Vec::new(), Stage::set_up()?);
        let (prober, guard) = (None, None);
        let mut show = Self {
            args,
            script,
            screen,
            sender,
            inbox,
            interrupted,
            prober,
            guard,
            lanes,
            stage,
        };
        show.screen.print(&[narrate::title(!args.unguarded)]);
        show.start_servers()?;
        if !args.unguarded {
            show.start_guard()?;
        }
        Ok(show)
    }

    /// Plays it to the end.
    pub(super) fn play(mut self) -> Result<u8> {
        let plan = self.guard_plan();
        self.script.spec = choose_probe(self.args.probe, plan.as_deref());
        self.script.start = clock::now();
        let script = self.script;
        self.screen.print(&narrate::introduction(
            &script,
            self.args.grace,
            plan.as_deref(),
        ));
        let servers: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| (lane.story.side, lane.story.port))
            .collect();
        let tell = self.teller(Event::Told);
        self.prober = Some(Prober::start(&servers, script.spec, script.start, tell)?);

        let scale = Scale::fit(script.start, script.expected(), self.screen.columns());
        let mut wedged = false;
        let mut next_frame = script.start;
        loop {
            let now = clock::now();
            if now > script.give_up_at() {
                bail!("the demo should have ended after {:?}", script.expected());
            }
            if self.lanes.iter().all(|lane| settled(&lane.story, now)) {
                break;
            }
            if now >= script.wedge_at() && !wedged {
                wedged = true;
                self.wedge()?;
            }
            self.act_as_kubelet(now)?;
            if now >= next_frame {
                next_frame = now.plus(FRAME);
                self.draw(&scale, now);
            }
            let until_wedge = if wedged {
                FRAME
            } else {
                script.wedge_at().since(now)
            };
            self.next_event(next_frame.since(now).min(until_wedge))?;
        }
        let stopped = clock::now();
        self.close()?;
        self.draw(&scale, stopped);
        self.conclude(clock::now())
    }

    /// A way for another thread to send events here.
    fn teller<T>(&self, event: impl Fn(T) -> Event + Send + 'static) -> impl Fn(T) + Send + 'static
    where
        T: Send + 'static,
    {
        let sender = self.sender.clone();
        move |what| {
            // When the show has ended, nobody needs to know.
            let _ = sender.send(event(what));
        }
    }

    fn start_servers(&mut self) -> Result<()> {
        let guarded = (!self.args.unguarded).then_some(Side::Protected);
        for side in [Some(Side::Unprotected), guarded].into_iter().flatten() {
            let lane = Lane::open(&self.stage, side, self.teller(Event::Server))?;
            self.lanes.push(lane);
        }
        if !self.wait_until(|show| show.lanes.iter().all(Lane::is_ready))? {
            let words: Vec<_> = self.lanes.iter().map(Lane::last_words).collect();
            bail!("the servers did not listen within {START_LIMIT:?}: {words:?}");
        }
        let announcement = report::announcement(self.lanes.iter().map(|lane| &lane.story));
        self.json(&serde_json::to_string(&announcement).context("writing the first line")?)
    }

    fn start_guard(&mut self) -> Result<()> {
        let pid = self.lane(Side::Protected)?.story.pid;
        let hear = self.teller(Event::Guard);
        self.guard = Some(guard::start(&self.stage, pid, self.args.grace, hear)?);
        let watching = self.wait_until(|show| show.guard_plan().is_some())?;
        if let (false, Some(guard)) = (watching, &mut self.guard) {
            let what = format!("did not come to watch the loop within {START_LIMIT:?}");
            bail!(guard::diagnose(&self.stage, guard, &what));
        }
        Ok(())
    }

    fn lane(&mut self, side: Side) -> Result<&mut Lane> {
        let lane = self.lanes.iter_mut().find(|lane| lane.story.side == side);
        lane.with_context(|| format!("there is no {} server", side.name()))
    }

    fn guard_plan(&self) -> Option<String> {
        self.lanes.iter().find_map(|lane| {
            lane.story.guard_note(|note| match note {
                GuardNote::Watching { plan } => Some(plan.clone()),
                _ => None,
            })
        })
    }

    /// Takes events until `done`; false if that takes too long.
    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool> {
        let limit = clock::now().plus(START_LIMIT);
        while !done(self) {
            if clock::now() > limit {
                return Ok(false);
            }
            self.next_event(FRAME)?;
        }
        Ok(true)
    }

    fn next_event(&mut self, limit: Duration) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything that the demo started is ended");
        }
        // The show holds a sender itself, so the only error is a time-out.
        self.inbox
            .recv_timeout(limit)
            .map_or(Ok(()), |event| self.take(event))
    }

    fn take(&mut self, event: Event) -> Result<()> {
        let now = clock::now();
        match event {
            Event::Told(told) => {
                let (side, at, what) = told?;
                self.tell(side, at, what)
            }
            Event::Server(word) => match self.lane(word.side)?.hear(&word, now)? {
                Some((at, what)) => self.tell(word.side, at, what),
                None => Ok(()),
            },
            Event::Guard(Some(line)) => self.hear_guard(now, &line),
            Event::Guard(None) => self.guard_ended(now),
        }
    }

    fn hear_guard(&mut self, now: Mono, line: &str) -> Result<()> {
        self.json(line)?;
        let value: serde_json::Value = serde_json::from_str(line)
            .with_context(|| format!("the guard printed a line that is not JSON: {line:?}"))?;
        let at = value
            .get("mono_ns")
            .and_then(serde_json::Value::as_u64)
            .map_or(now, Mono);
        match GuardNote::read(&value) {
            Some(note) => self.tell(Side::Protected, at, Happening::Guard(note)),
            None => Ok(()),
        }
    }

    fn guard_ended(&mut self, now: Mono) -> Result<()> {
        let Some(mut guard) = self.guard.take() else {
            return Ok(());
        };
        if self.prober.is_none() {
            bail!(guard::diagnose(
                &self.stage,
                &mut guard,
                "ended before it watched the loop"
            ));
        }
        self.note(now, narrate::guard_gone());
        Ok(())
    }

    /// Goes on with the story of one side, and with what follows from it.
    fn tell(&mut self, side: Side, at: Mono, what: Happening) -> Result<()> {
        let script = self.script;
        let decided = matches!(what, Happening::Probed(Verdict::Kill(_)));
        let restarted = matches!(what, Happening::Restarted { .. });
        let lane = self.lane(side)?;
        let sentence = narrate::sentence(&lane.story, at, &what, &script);
        lane.story.tell(at, what);
        if let Some(sentence) = sentence {
            self.note(at, sentence);
        }
        if let (true, Some(prober)) = (restarted, &self.prober) {
            prober.restarted(side);
        }
        if decided {
            let now = clock::now();
            let what = self.lane(side)?.terminate(now, script.termination_grace)?;
            return self.tell(side, now, what);
        }
        Ok(())
    }

    fn wedge(&mut self) -> Result<()> {
        let what = "both servers lose their database and reconnect";
        let alone = "the server loses its database and reconnects";
        let sentence = if self.args.unguarded { alone } else { what };
        self.note(clock::now(), (STRONG, sentence.into()));
        self.lanes.iter_mut().try_for_each(Lane::wedge)
    }

    fn act_as_kubelet(&mut self, now: Mono) -> Result<()> {
        for index in 0..self.lanes.len() {
            let hear = self.teller(Event::Server);
            let lane = &mut self.lanes[index];
            lane.restart_if_due(&self.stage, now, hear)?;
            let side = lane.story.side;
            if let Some(what) = lane.kill_if_due(now)? {
                self.tell(side, now, what)?;
            }
        }
        Ok(())
    }

    /// Ends clients and guard in order and hears them out; the servers answer until the very end.
    fn close(&mut self) -> Result<()> {
        self.prober.iter_mut().for_each(Prober::finish);
        if let Some(guard) = &self.guard {
            guard::interrupt(guard)?;
        }
        let limit = clock::now().plus(STOP_LIMIT);
        while self.guard.is_some() && clock::now() < limit {
            match self.inbox.recv_timeout(FRAME) {
                Ok(Event::Guard(None)) => self.guard = None,
                Ok(event) => self.take(event)?,
                Err(_) => {}
            }
        }
        while let Ok(event) = self.inbox.try_recv() {
            self.take(event)?;
        }
        Ok(())
    }

    fn note(&mut self, at: Mono, sentence: Span) {
        self.screen
            .note(at.since(self.script.start).as_secs_f64(), sentence);
    }

    fn draw(&mut self, scale: &Scale, now: Mono) {
        let stories = self.lanes.iter().map(|lane| &lane.story);
        let seconds = now.since(self.script.start).as_secs_f64();
        self.screen.refresh(seconds, |glyphs| {
            let mut lines = picture::draw(stories, scale, glyphs, now);
            lines.push(Line::new());
            lines
        });
    }

    fn conclude(mut self, now: Mono) -> Result<u8> {
        let story = |side| {
            self.lanes
                .iter()
                .map(|lane| &lane.story)
                .find(|story| story.side == side)
        };
        let unprotected = story(Side::Unprotected).context("there is no unprotected server")?;
        let protected = story(Side::Protected);
        let result = report::result(unprotected, protected, now);
        let verdict = report::verdict(unprotected, protected, now);
        let (Ok(text) | Err(text)) = &verdict;
        let style = if verdict.is_ok() { GOOD } else { BAD };
        let mut lines = vec![Line::new()];
        lines.extend(report::table(&result));
        lines.push(Line::new());
        lines.extend(
            report::wrapped(text, self.screen.columns() - 2).map(|line| vec![(style, line)]),
        );
        self.screen.print(&lines);
        self.json(&serde_json::to_string(&result).context("writing the result")?)?;
        Ok(u8::from(verdict.is_err()))
    }

    fn json(&self, line: &str) -> Result<()> {
        if !self.args.json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .context("writing to standard output")
    }
}
