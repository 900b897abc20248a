//! An agent reduced to its journal: incidents without end, and a line on stdout for what must be on the disk by now.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use loopwarden::export::journal::{Journal, JournalSender, JournalSettings, JournalState, Setup};
use loopwarden::pipeline::record::InForce;
use loopwarden::pipeline::{
    Cause, CauseKind, EndedBy, IncidentId, LoopId, LoopInfo, Mono, Notice, Pid, PidKey, StallView,
    Tid,
};

/// Names the folder, and makes this program the writer.
pub const DIR: &str = "LOOPWARDEN_TEST_JOURNAL_DIR";
/// How large the journal may be.
pub const MAX_BYTES: &str = "LOOPWARDEN_TEST_JOURNAL_BYTES";

/// How long an incident of this name lasts: to see that a record holds what belongs to it.
pub fn busy_of(name: IncidentId) -> Duration {
    Duration::from_millis(1000 + u64::try_from(name.0 % 100_000).unwrap_or(0))
}

pub fn info() -> Arc<LoopInfo> {
    Arc::new(LoopInfo {
        id: LoopId {
            process: PidKey {
                pid: Pid(42),
                start_ns: 9,
            },
            tid: Tid(42),
        },
        slot: 0,
        target: "web".into(),
        exe: "python3.11".into(),
        poller: "epoll_wait".into(),
        plan: "fentry",
        pod: None,
    })
}

pub fn view(incident: IncidentId, busy: Duration) -> StallView {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = |part: i64| u64::try_from(part).unwrap_or(0);
    StallView {
        incident,
        at: Mono(nanos(now.tv_sec) * 1_000_000_000 + nanos(now.tv_nsec)),
        busy,
        busy_is_lower_bound: false,
        cause: Cause {
            kind: CauseKind::Sleep,
            syscall: Some("clock_nanosleep".into()),
            file: Some("x".repeat(usize::try_from(incident.0 % 700).unwrap_or(0))),
            ..Cause::default()
        },
        evidence: None,
        shares: Vec::new(),
    }
}

pub fn opened(incident: IncidentId) -> Notice {
    Notice::StallOpened {
        info: info(),
        view: view(incident, Duration::from_millis(100)),
    }
}

pub fn closed(incident: IncidentId) -> Notice {
    Notice::StallClosed {
        info: info(),
        view: view(incident, busy_of(incident)),
        rescued: false,
        ended_by: EndedBy::Poll,
        liveness: None,
    }
}

/// Starts a journal whose losses are told to nobody.
pub fn journal(dir: &Path, max_bytes: u64) -> (Journal, Arc<JournalState>) {
    let settings = JournalSettings {
        dir: dir.to_owned(),
        max_bytes,
    };
    let state = Arc::new(JournalState::default());
    let setup = Setup {
        settings,
        state: state.clone(),
        in_force: Arc::new(|_: &LoopInfo| InForce::default()),
        tell: Box::new(|_| ()),
        events: None,
    };
    let (sender, inbox) = JournalSender::channel();
    let journal = Journal::start(setup, sender, inbox).expect("a thread");
    (journal, state)
}

/// Writes until it is killed.
pub fn write(dir: &Path) -> ! {
    let max_bytes = std::env::var(MAX_BYTES)
        .ok()
        .and_then(|text| text.parse().ok());
    let (journal, state) = journal(dir, max_bytes.unwrap_or(1 << 30));
    let sender = journal.sender();
    let mut out = std::io::stdout().lock();
    let mut handed = 0;
    loop {
        // Not faster than the disk: what the queue drops would never be written.
        while handed < state.written() + 200 {
            let name = IncidentId(fastrand::u128(..));
            sender.notice(&opened(name));
            sender.notice(&closed(name));
            handed += 1;
        }
        writeln!(out, "{} {}", state.written(), state.lost()).expect("a reader");
        out.flush().expect("a reader");
    }
}
