//! `loopwarden run`: the node agent.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};

use super::common::{announce, announce_end, catch_signals};
use super::output::{Output, Sinks};
use super::rulebook::{Rulebook, kube_settings};
use super::to_pods::ToPods;
use crate::config::{Config, ConfigWatcher, OtlpProtocol, Reload, Source};
use crate::export::journal::{Journal, JournalInbox, JournalSender, JournalState, Setup};
use crate::export::{
    AgentSource, AgentStats, Exporter, FileOtlp, FileSettings, HookVerdict, JournalStats,
    KubernetesStats, LoopSource, MapFill, Settings,
};
use crate::kernel::{self, Totals};
use crate::kube::{self, Kube};
use crate::pipeline::{LoopId, LoopInfo, LoopTotals, Mode, Notice};
use crate::rescue::{self, Stats};
use crate::wiring::journal_of;

/// How long the Kubernetes API gets to tell of the pods before anything is watched, so that series begin under their names.
const FIRST_PODS: Duration = Duration::from_secs(2);
/// How long the exporters get to push what is left.
const LAST_PUSH: Duration = Duration::from_secs(5);

/// Run the node agent: watch every process the configuration names, tell the world, and in enforce mode end wedged engines.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; without it /etc/loopwarden/config.yaml if there is one, else observe LiteLLM
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Wins over the file's mode
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Print the configuration in force, presets expanded, and end
    #[arg(long)]
    print_config: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ModeArg {
    /// Everything but the signal
    Observe,
    /// Signals are sent
    Enforce,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Observe => Self::Observe,
            ModeArg::Enforce => Self::Enforce,
        }
    }
}

/// Runs the command; the value is the exit status.
pub fn run(args: Args) -> Result<u8> {
    let mut source = Source::new(args.config, args.mode.map(Mode::from));
    let config = match source.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("loopwarden: {error}");
            return Ok(2);
        }
    };
    if args.print_config {
        print!("{}", config.to_yaml());
        return Ok(0);
    }
    let exports =
        match Settings::from_env_over(&file_settings(&config), |name| std::env::var(name).ok()) {
            Ok(exports) => exports,
            Err(error) => {
                eprintln!("loopwarden: {error}");
                return Ok(2);
            }
        };
    // Before any thread starts, so that none of them takes these signals.
    let signals = catch_signals()?;
    log::info!("configuration: {}", source.describe());
    Agent::start(source, config, exports)?.serve(&signals)
}

/// Everything that runs.
struct Agent {
    runtime: tokio::runtime::Runtime,
    exporter: Exporter,
    output: Output,
    journal: Option<Journal>,
    handle: rescue::Handle,
    watcher: ConfigWatcher,
}

impl Agent {
    fn start(source: Source, config: Config, exports: Settings) -> Result<Self> {
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
        let watched = Arc::new(Watched {
            totals: sensor.totals(),
            loops: Mutex::default(),
        });
        let hooks = sensor
            .plan()
            .verdicts
            .iter()
            .map(|(name, verdict)| HookVerdict {
                name: name.clone(),
                verdict: verdict.name().to_owned(),
                reason: verdict.reason().to_owned(),
            });
        let kept = Arc::new(JournalState::default());
        let hooks = hooks.collect();
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
            hooks,
            memory: locked.err(),
            stats: stats.clone(),
            kube: kube.as_ref().map(Kube::health),
        });
        let (keeper, inbox) = JournalSender::channel();
        let told = Some(keeper.deliveries());
        let exporter =
            runtime.block_on(Exporter::start_told(exports, watched.clone(), own, told))?;
        let sinks = Sinks {
            json: None,
            text: Some(Box::new(io::stderr())),
        };
        let output = Output::start(sinks, move |notice| watched.observe(notice))
            .context("cannot start the output thread")?;

        let (teller, notices) = (output.teller(), exporter.sender());
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
        let reloader = keeper.clone();
        let to_pods = kube.as_ref().map(ToPods::new);
        let tell = move |notice: Notice| {
            keeper.notice(&notice);
            if let Some(to_pods) = &to_pods {
                to_pods.tell(&notice);
            }
            notices.notice(notice.clone());
            teller.tell(notice);
        };
        if let Some(kube) = &kube
            && !kube.wait_for_first(FIRST_PODS)
        {
            log::warn!(
                "the Kubernetes API has not told of this node's pods within {FIRST_PODS:?}: begun without"
            );
        }
        let rules = rulebook.rules();
        let handle = rescue::start(sensor, rules.settings(true), rules, stats, tell)?;
        rulebook.attach(handle.remote(), reloader);
        let before = config.clone();
        let watcher = ConfigWatcher::start(source, config, move |reload| {
            reloaded(reload, &before, &rulebook);
        })
        .context("cannot watch the configuration file")?;
        Ok(Self {
            runtime,
            exporter,
            output,
            journal,
            handle,
            watcher,
        })
    }

    fn serve(self, signals: &SignalFd) -> Result<u8> {
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

/// Starts the journal. An agent without one still guards.
fn start_journal(setup: Setup, sender: JournalSender, inbox: JournalInbox) -> Option<Journal> {
    let started = Journal::start(setup, sender, inbox);
    if let Err(error) = &started {
        log::error!("cannot start the journal's thread: {error}; no journal is kept");
    }
    started.ok()
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

fn file_settings(config: &Config) -> FileSettings {
    let otlp = config.export.otlp.as_ref().map(|otlp| FileOtlp {
        endpoint: Some(otlp.endpoint.clone()),
        protocol: Some(
            match otlp.protocol {
                OtlpProtocol::Grpc => "grpc",
                OtlpProtocol::HttpProtobuf => "http/protobuf",
            }
            .to_owned(),
        ),
        ..FileOtlp::default()
    });
    let metrics_listen = config.export.metrics.as_ref().map(|metrics| metrics.listen);
    FileSettings {
        otlp,
        metrics_listen,
        interval: None,
    }
}

/// The loops that are watched now, kept from the notices on the output thread: the rescue thread shares no lock.
struct Watched {
    totals: Arc<dyn Totals>,
    loops: Mutex<BTreeMap<LoopId, Arc<LoopInfo>>>,
}

impl Watched {
    fn observe(&self, notice: &Notice) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Loop { info, .. } | Notice::Placed { info, .. } => {
                loops.insert(info.id, info.clone());
            }
            Notice::LoopEnded { info, .. } => {
                loops.remove(&info.id);
            }
            _ => {}
        }
    }
}

impl LoopSource for Watched {
    fn loops(&self) -> Vec<(Arc<LoopInfo>, LoopTotals)> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops
            .values()
            .filter_map(|info| Some((info.clone(), self.totals.totals(info.slot)?)))
            .collect()
    }
}

/// The agent's own state.
struct Own {
    journal: Arc<JournalState>,
    hooks: Vec<HookVerdict>,
    memory: Option<String>,
    stats: Arc<Stats>,
    kube: Option<Arc<kube::Health>>,
}

fn part(name: &str, otherwise: &str, wrong: Option<String>) -> HookVerdict {
    HookVerdict {
        name: name.to_owned(),
        verdict: if wrong.is_some() { otherwise } else { "ok" }.to_owned(),
        reason: wrong.unwrap_or_default(),
    }
}

/// A verdict for each use of the API: what is not allowed is as good as not supported.
fn api_uses(report: &kube::Report) -> Vec<HookVerdict> {
    let verdict = |name: &&'static str| {
        let trouble = report.trouble.get(*name);
        let otherwise = match trouble {
            Some(trouble) if trouble.forbidden => "unsupported",
            _ => "broken",
        };
        part(
            name,
            otherwise,
            trouble.map(|trouble| trouble.error.clone()),
        )
    };
    report.uses.iter().map(verdict).collect()
}

impl AgentSource for Own {
    fn agent(&self) -> AgentStats {
        let (scan_lateness, scan_lateness_sum) = self.stats.lateness();
        let part = |name: &str, refused: Option<String>| part(name, "unsupported", refused);
        let mut hooks = self.hooks.clone();
        hooks.push(part("rescue.realtime", self.stats.no_priority()));
        hooks.push(part("rescue.locked_memory", self.memory.clone()));
        hooks.push(self::part("journal", "broken", self.journal.broken()));
        let kube = self.kube.as_ref().map(|health| health.report());
        hooks.extend(kube.iter().flat_map(api_uses));
        let (processes, threads) = self.stats.fill();
        let maps = vec![
            MapFill {
                name: "tasks",
                entries: processes,
                limit: u64::from(kernel::MAX_TASKS),
            },
            MapFill {
                name: "loops",
                entries: threads,
                limit: u64::from(kernel::MAX_LOOPS),
            },
        ];
        AgentStats {
            journal: Some(JournalStats {
                written: self.journal.written(),
                counted: self.journal.counted(),
                lost: self.journal.lost(),
                bytes: self.journal.bytes(),
            }),
            kubernetes: kube.map(|report| KubernetesStats {
                age: report.age,
                pods: report.pods,
                relists: report.relists,
                failures: report.errors,
                events: report.events,
                events_lost: report.events_lost,
            }),
            hooks,
            kernel_counters: self.stats.lost(),
            maps,
            scan_lateness,
            scan_lateness_sum,
        }
    }
}
