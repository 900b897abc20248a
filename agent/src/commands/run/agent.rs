//! Everything that runs in the node agent: started in order, until a signal ends it.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};

use super::sources::{Own, Watched, hooks};
use crate::commands::common::{announce, announce_end};
use crate::commands::output::{Output, Sinks};
use crate::commands::rulebook::{Rulebook, kube_settings};
use crate::commands::to_pods::ToPods;
use crate::config::{Config, ConfigWatcher, Reload, Source};
use crate::export::journal::{Journal, JournalInbox, JournalSender, JournalState, Setup};
use crate::export::{Exporter, Settings};
use crate::kernel;
use crate::kube::Kube;
use crate::pipeline::Notice;
use crate::rescue::{self, Stats};
use crate::wiring::journal_of;

/// How long the Kubernetes API gets to tell of the pods before anything is watched, so that series begin under their names.
const FIRST_PODS: Duration = Duration::from_secs(2);
/// How long the exporters get to push what is left.
const LAST_PUSH: Duration = Duration::from_secs(5);

/// Everything that runs.
pub(super) struct Agent {
    runtime: tokio::runtime::Runtime,
    exporter: Exporter,
    output: Output,
    journal: Option<Journal>,
    handle: rescue::Handle,
    watcher: ConfigWatcher,
}

impl Agent {
    pub(super) fn start(source: Source, config: Config, exports: Settings) -> Result<Self> {
        let locked = kernel::realtime::lock_memory();
        if let Err(reason) = &locked {
            log::info!("{reason}");
        }
        let sensor = kernel::sensor(kernel::Settings {
            all_execs: 1,
            ..kernel::Settings::default()
        });
        announce(sensor.as_ref());
        let stats = Arc::new(Stats::default());
        let watched = Arc::new(Watched::new(sensor.totals()));
        let kept = Arc::new(JournalState::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("export")
            .enable_all()
            .build()
            .context("cannot start the async runtime of the exporters")?;
        let rulebook = Rulebook::new(config.clone());
        let kube = start_kube(&config, &rulebook, runtime.handle());
        let own = Arc::new(Own {
            journal: kept.clone(),
            hooks: hooks(sensor.plan()),
            memory: locked.err(),
            stats: stats.clone(),
            kube: kube.as_ref().map(Kube::health),
        });
        let (keeper, inbox) = JournalSender::channel();
        let told = Some(keeper.deliveries());
        let exporter =
            runtime.block_on(Exporter::start_told(exports, watched.clone(), own, told))?;
        let output = start_output(watched)?;
        let lost = (output.teller(), exporter.sender());
        let setup = Setup {
            settings: journal_of(&config),
            state: kept,
            in_force: rulebook.in_force(),
            tell: Box::new(move |notice: Notice| {
                lost.1.notice(notice.clone());
                lost.0.tell(notice);
            }),
            events: exporter.events(),
        };
        let journal = start_journal(setup, keeper.clone(), inbox);
        let tell = to_all(keeper.clone(), kube.as_ref(), &exporter, &output);
        if let Some(kube) = &kube {
            wait_for_pods(kube);
        }
        let rules = rulebook.rules();
        let handle = rescue::start(sensor, rules.settings(true), rules, stats, tell)?;
        rulebook.attach(handle.remote(), keeper);
        let watcher = follow_file(source, config, rulebook)?;
        Ok(Self {
            runtime,
            exporter,
            output,
            journal,
            handle,
            watcher,
        })
    }

    pub(super) fn serve(self, signals: &SignalFd) -> Result<u8> {
        if let Some(address) = self.exporter.page_address() {
            log::info!("metrics: http://{address}/metrics");
        }
        let code = loop {
            let mut fds = [
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.handle.ended(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("waiting for signals failed"),
            }
            if !fds[1].revents().is_empty() {
                announce_end();
                break 1;
            }
            let Some(signal) = signals
                .read_signal()
                .context("reading the signalfd failed")?
            else {
                continue;
            };
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGHUP as i32) {
                self.watcher.reload_now();
            } else {
                break 0;
            }
        };
        drop(self.watcher);
        let _ = self.handle.stop();
        self.runtime.block_on(self.exporter.shutdown(LAST_PUSH));
        if let Some(journal) = self.journal {
            journal.finish();
        }
        self.output.finish();
        Ok(code)
    }
}

/// Sentences to stderr; the same thread keeps the loops that are watched.
fn start_output(watched: Arc<Watched>) -> Result<Output> {
    let sinks = Sinks {
        json: None,
        text: Some(Box::new(io::stderr())),
    };
    Output::start(sinks, move |notice| watched.observe(notice))
        .context("cannot start the output thread")
}

/// Starts the journal. An agent without one still guards.
fn start_journal(setup: Setup, sender: JournalSender, inbox: JournalInbox) -> Option<Journal> {
    let started = Journal::start(setup, sender, inbox);
    if let Err(error) = &started {
        log::error!("cannot start the journal's thread: {error}; no journal is kept");
    }
    started.ok()
}

/// Passes each notice of the rescue thread on to everybody who tells of it.
fn to_all(
    journal: JournalSender,
    kube: Option<&Kube>,
    exporter: &Exporter,
    output: &Output,
) -> impl FnMut(Notice) + Send + use<> {
    let (teller, notices) = (output.teller(), exporter.sender());
    let to_pods = kube.map(ToPods::new);
    move |notice: Notice| {
        journal.notice(&notice);
        if let Some(to_pods) = &to_pods {
            to_pods.tell(&notice);
        }
        notices.notice(notice.clone());
        teller.tell(notice);
    }
}

/// Starts following the node's pods, where that is wanted and possible.
fn start_kube(
    config: &Config,
    rulebook: &Arc<Rulebook>,
    runtime: &tokio::runtime::Handle,
) -> Option<Kube> {
    let settings = kube_settings(&config.kubernetes)?;
    log::info!("Kubernetes: following the pods of node {}", settings.node);
    let told = rulebook.clone();
    let kube = Kube::start(runtime, settings, move |pods| told.pods(pods));
    rulebook.tell_pods_through(kube.events());
    Some(kube)
}

fn wait_for_pods(kube: &Kube) {
    if !kube.wait_for_first(FIRST_PODS) {
        log::warn!(
            "the Kubernetes API has not told of this node's pods within {FIRST_PODS:?}: begun without"
        );
    }
}

fn follow_file(source: Source, config: Config, rulebook: Arc<Rulebook>) -> Result<ConfigWatcher> {
    let before = config.clone();
    let reload = move |reload| reloaded(reload, &before, &rulebook);
    ConfigWatcher::start(source, config, reload).context("cannot watch the configuration file")
}

fn reloaded(reload: Reload, before: &Config, rulebook: &Rulebook) {
    match reload {
        Reload::Changed { config, changes } => {
            for change in changes {
                log::warn!("configuration changed: {change}");
            }
            for (what, is_another) in [
                ("export", config.export != before.export),
                ("kubernetes", config.kubernetes != before.kubernetes),
            ] {
                if is_another {
                    log::warn!("a change of `{what}` takes effect when the agent is started again");
                }
            }
            rulebook.configured(*config);
        }
        Reload::Unchanged => log::warn!("configuration read again: nothing changed"),
        Reload::Rejected(error) => log::error!("the old configuration stays in force: {error}"),
    }
}
