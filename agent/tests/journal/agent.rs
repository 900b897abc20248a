//! An agent reduced to its journal and its exporters, joined as `run` joins them, and the handle of the test that starts it.
//!
//! It takes commands on stdin: `stall N` hands in so many incidents from begin to end, `burst N` the same while its exporters
//! hang. Each is answered with a line when their records are on the disk. It ends with its stdin.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use loopwarden::export::journal::{Journal, JournalSender, JournalSettings, JournalState, Setup};
use loopwarden::export::{Exporter, NoticeSender};
use loopwarden::pipeline::record::InForce;
use loopwarden::pipeline::{IncidentId, LoopInfo};

use super::export_support::{Source, settings};
use super::writer::{DIR, closed, opened};

/// Where the collector is; makes this program the agent.
pub const COLLECTOR: &str = "LOOPWARDEN_TEST_COLLECTOR";
/// How long the exporters get at the end, in milliseconds.
const LAST_PUSH: &str = "LOOPWARDEN_TEST_LAST_PUSH_MS";

/// A running agent.
pub struct Agent {
    process: Child,
    answers: BufReader<ChildStdout>,
    /// Where its metrics are shown.
    pub page: String,
}

impl Agent {
    /// Starts one. `patient`: at its end it waits for the collector.
    pub fn start(dir: &Path, collector: &str, patient: bool) -> Self {
        let last_push = if patient { "60000" } else { "1" };
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(DIR, dir)
            .env(COLLECTOR, collector)
            .env(LAST_PUSH, last_push)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut agent = Self {
            process,
            answers,
            page: String::new(),
        };
        agent.page = agent.answer();
        agent
    }

    /// Has it do something, and waits until the journal has it.
    pub fn tell(&mut self, command: &str) {
        let stdin = self.process.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{command}").expect("the agent listens");
        assert_eq!(self.answer(), "0 lost");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    /// Lets it end.
    pub fn quit(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("it ends").success());
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }
}

/// Is the agent.
pub fn run(dir: &Path, collector: &str) -> ! {
    let last_push = std::env::var(LAST_PUSH).expect("set by the test");
    let last_push = Duration::from_millis(last_push.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (sender, inbox) = JournalSender::channel();
    let source = Arc::new(Source::default());
    let exporter = runtime
        .block_on(Exporter::start_told(
            settings(true, &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", collector)]),
            source.clone(),
            source,
            Some(sender.deliveries()),
        ))
        .expect("exporters");
    let state = Arc::new(JournalState::default());
    let setup = Setup {
        settings: JournalSettings {
            dir: dir.to_owned(),
            max_bytes: 64 << 20,
        },
        state: state.clone(),
        in_force: Arc::new(|_: &LoopInfo| InForce::default()),
        tell: Box::new(|_| ()),
        events: exporter.events(),
    };
    let journal = Journal::start(setup, sender.clone(), inbox).expect("a thread");
    println!(
        "http://{}/metrics",
        exporter.page_address().expect("a page")
    );
    let mut handed = 0;
    for line in std::io::stdin().lines() {
        let line = line.expect("a command");
        let (what, count) = line.split_once(' ').expect("two words");
        let held = (what == "burst").then(|| hold(&runtime));
        let count: u64 = count.parse().expect("a number");
        stalls(count, &sender, &exporter.sender());
        handed += count;
        drop(held);
        while state.written() + state.lost() < handed {
            std::thread::yield_now();
        }
        println!("{} lost", state.lost());
    }
    runtime.block_on(exporter.shutdown(last_push));
    journal.finish();
    std::process::exit(0);
}

/// Keeps the exporters' only thread until the answer is dropped.
fn hold(runtime: &tokio::runtime::Runtime) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    runtime.spawn(async move {
        let _ = begin.send(());
        let _ = held.recv();
    });
    begun.recv().expect("the thread runs");
    release
}

fn stalls(count: u64, journal: &JournalSender, exporters: &NoticeSender) {
    for number in 0..count {
        let unix_ms = 1_700_000_000_000 + number;
        let name = IncidentId::new(unix_ms, fastrand::u128(..));
        for notice in [opened(name), closed(name)] {
            journal.notice(&notice);
            exporters.notice(notice);
        }
    }
}
