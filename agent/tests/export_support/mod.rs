//! What the tests of the exporters share: sources that hold still, and a client for pages.
#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(dead_code, reason = "each test binary uses its own part")]
#![expect(unreachable_pub, reason = "a module of test binaries")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopwarden::export::{
    AgentSource, AgentStats, Exporter, FileSettings, HookVerdict, JournalStats, KubernetesStats,
    LoopSource, MapFill, Settings,
};
use loopwarden::pipeline::engines::{EngineNews, EngineReady, News};
use loopwarden::pipeline::liveness::{Level, Outlook, RiskView};
use loopwarden::pipeline::{
    ActionNotice, Cause, CauseKind, EndedBy, Histogram, IncidentId, LoopId, LoopInfo, LoopTotals,
    Mode, Mono, Notice, Outcome, Pid, PidKey, Signal, StallView, Tid,
};

/// How long a test waits for something that normally comes within a second.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Loops and an agent that are what the test says.
#[derive(Debug, Default)]
pub struct Source {
    pub loops: Mutex<Vec<(Arc<LoopInfo>, LoopTotals)>>,
}

impl LoopSource for Source {
    fn loops(&self) -> Vec<(Arc<LoopInfo>, LoopTotals)> {
        self.loops.lock().unwrap().clone()
    }
}

impl AgentSource for Source {
    fn agent(&self) -> AgentStats {
        AgentStats {
            hooks: vec![HookVerdict {
                name: "signal".into(),
                verdict: "unsupported".into(),
                reason: "no such tracepoint".into(),
            }],
            maps: vec![MapFill {
                name: "LOOPS",
                entries: 2,
                limit: 4096,
            }],
            kernel_counters: vec![("ring_full", 2)],
            scan_lateness: Histogram {
                bounds: vec![1 << 20, u64::MAX],
                counts: vec![3, 0],
            },
            kubernetes: Some(KubernetesStats {
                age: Some(Duration::from_secs(7)),
                pods: 3,
                events: 2,
                ..KubernetesStats::default()
            }),
            journal: Some(JournalStats {
                written: 3,
                counted: 1,
                lost: 0,
                bytes: 4096,
            }),
            scan_lateness_sum: Duration::from_millis(1),
        }
    }
}

/// Settings as the variables say, over a file that says where the page listens.
pub fn settings(page: bool, variables: &[(&str, &str)]) -> Settings {
    let file = FileSettings {
        metrics_listen: page.then(|| "127.0.0.1:0".parse().unwrap()),
        ..FileSettings::default()
    };
    let get = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    Settings::from_env_over(&file, get).unwrap()
}

pub async fn start(settings: Settings) -> (Exporter, Arc<Source>) {
    let source = Arc::new(Source::default());
    let exporter = Exporter::start(settings, source.clone(), source.clone())
        .await
        .unwrap();
    (exporter, source)
}

pub fn info(pid: u32) -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(pid),
                start_ns: 9,
            },
            tid: Tid(pid),
        },
        slot: 0,
        target: "litellm".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "raw",
        pod: None,
    })
}

/// 900 iterations below 0.13 s and 100 between that and 0.27 s, bounds as the kernel has them.
pub fn totals() -> LoopTotals {
    LoopTotals {
        iterations: 1000,
        idle: Duration::from_secs(40),
        busy: Duration::from_secs(20),
        max: Duration::from_millis(250),
        histogram: Histogram {
            bounds: vec![1 << 27, 1 << 28, u64::MAX],
            counts: vec![900, 100, 0],
        },
    }
}

fn mono() -> Mono {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Mono(u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap())
}

fn view(busy: Duration) -> StallView {
    StallView {
        incident: IncidentId(1),
        at: mono(),
        busy,
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::ChildWait,
            ..Cause::default()
        },
        evidence: None,
        shares: Vec::new(),
    }
}

pub fn opened(info: &Arc<LoopInfo>) -> Notice {
    Notice::StallOpened {
        info: info.clone(),
        view: view(Duration::from_millis(100)),
    }
}

pub fn at_risk(info: &Arc<LoopInfo>) -> Notice {
    let outlook = Outlook {
        failed_probes: 1,
        to_decision: Some(Duration::from_secs(9)),
        to_sigkill: Some(Duration::from_secs(39)),
        uncertainty: Some(Duration::from_secs(5)),
        sigterm_uncertainty: Some(Duration::from_secs(5)),
        sigkill_uncertainty: Some(Duration::from_secs(5)),
        probes_seen: false,
    };
    Notice::Risk {
        info: info.clone(),
        risk: RiskView {
            at: Mono(0),
            level: Level::Imminent,
            changed: true,
            outlook,
        },
    }
}

pub fn closed(info: &Arc<LoopInfo>) -> Notice {
    let view = view(Duration::from_millis(520));
    Notice::StallClosed {
        info: info.clone(),
        view,
        rescued: true,
        ended_by: EndedBy::Poll,
        liveness: None,
    }
}

pub fn ended(info: &Arc<LoopInfo>) -> Notice {
    Notice::LoopEnded {
        at: mono(),
        info: info.clone(),
        totals: totals(),
        ended_by: EndedBy::Exit,
    }
}

pub fn waited(info: &Arc<LoopInfo>) -> Notice {
    Notice::EngineWait {
        at: mono(),
        info: info.clone(),
        lasted: Duration::from_millis(500),
    }
}

/// A loop whose engine has had its first connection.
pub fn engine(info: &Arc<LoopInfo>) -> Notice {
    Notice::Engine {
        info: info.clone(),
        news: News {
            at: mono(),
            what: EngineNews::Ready(EngineReady::Accepts),
        },
    }
}

pub fn sent(info: &Arc<LoopInfo>) -> Notice {
    let action = ActionNotice {
        incident: IncidentId(1),
        at: mono(),
        child: Pid(99),
        child_exe: "query-engine".into(),
        signal: Signal::Kill,
        mode: Mode::Enforce,
        busy: Duration::from_millis(500),
        outcome: Outcome::Sent,
        grace: Duration::from_millis(500),
        grace_reason: None,
        detail: None,
    };
    Notice::Action {
        info: info.clone(),
        action,
    }
}

/// Status and body of a page.
pub async fn get(url: &str, accept: &str) -> Result<(u16, String), String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::get(url)
        .header("accept", accept)
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    let response = client.request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Asks until the answer satisfies; panics with the last answer when patience is at an end.
pub async fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    ok: impl Fn(&T) -> bool,
) -> T {
    let mut last = None;
    let asking = async {
        loop {
            let answer = ask().await;
            if ok(&answer) {
                return answer;
            }
            last = Some(answer);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}; last: {last:?}"))
}

/// The value of the first line of a text page that starts with `series`.
pub fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// As [`value`], of the exporter's own page, now.
pub async fn shown(exporter: &Exporter, series: &str) -> Option<f64> {
    let url = format!("http://{}/metrics", exporter.page_address().unwrap());
    value(&get(&url, "*/*").await.unwrap().1, series)
}
