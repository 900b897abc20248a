//! Facts about this kernel, then the plan, then loading and attaching. Refused hooks cost their feature, not the agent.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::{FEntry, FExit, Iter, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use loopwarden_abi::{Offsets, RegisterFacts, Settings, SocketFacts, names};

use super::error::KernelError;
use super::offsets::KernelTypes;
use super::plan::{Facts, POLL_CALLS, Plan, RAW_TRACEPOINTS, Verdict, WAIT_CALLS, Way, choose};
use super::registers::{self, RegisterReader};
use super::tracefs::{Tracefs, TracepointLink, attach};
use crate::pipeline::Pid;
use crate::proc;

/// The kernel half as it was committed; `LOOPWARDEN_BPF_OBJECT` names another one (for tests of a fresh build).
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/loopwarden.bpf.o");

/// The kernel half, loaded and attached for as long as this lives. Nothing is pinned: it goes with the agent.
#[derive(Debug)]
pub struct Loaded {
    /// Programs and maps.
    pub ebpf: Ebpf,
    /// What was attached and what was not.
    pub plan: Plan,
    /// Where tracepoint ids came from, if they were needed.
    pub tracefs: Option<&'static str>,
    /// Reads where threads are; whoever needs it takes it.
    pub registers: Option<RegisterReader>,
    links: Vec<TracepointLink>,
}

/// What came out: the kernel half, or the reasons why only sampling is left.
#[derive(Debug)]
pub enum Outcome {
    /// BPF works.
    Loaded(Box<Loaded>),
    /// Only procfs is left; the plan has the reasons.
    Refused(Plan),
}

/// Probes this kernel, chooses and attaches.
#[must_use]
pub fn load(settings: Settings) -> Outcome {
    let mut facts = Facts {
        wanted: wanted(),
        ..Facts::default()
    };
    if facts.wanted == Some(Way::Sampling) {
        return Outcome::Refused(choose(&facts));
    }
    match probe(&mut facts, settings) {
        Ok((mut ebpf, btf, tracefs)) => loop {
            let plan = choose(&facts);
            if plan.way == Way::Sampling {
                return Outcome::Refused(plan);
            }
            match attach_all(&mut ebpf, &btf, tracefs.as_ref(), &plan) {
                Ok((mut verdicts, links)) => {
                    let (registers, verdict) = RegisterReader::new(&mut ebpf, &btf);
                    verdicts.insert("hook.registers".to_owned(), verdict);
                    let verdict = match &facts.connections_refused {
                        Some(error) => Verdict::Unsupported(error.clone()),
                        None => match load_connections(&mut ebpf) {
                            Ok(()) => Verdict::Ok,
                            Err(error) => Verdict::Broken(error.to_string()),
                        },
                    };
                    verdicts.insert(format!("hook.{CONNECTION_TRACEPOINT}"), verdict);
                    let verdict = match &facts.connections_refused {
                        Some(error) => Verdict::Unsupported(error.clone()),
                        None => match load_raw(&mut ebpf, names::BYTES_TAKEN) {
                            Ok(()) => Verdict::Ok,
                            Err(error) => Verdict::Broken(error.to_string()),
                        },
                    };
                    verdicts.insert(format!("hook.{READ_TRACEPOINT}"), verdict);
                    let plan = Plan { verdicts, ..plan };
                    let tracefs = tracefs.map(|found| found.origin);
                    return Outcome::Loaded(Box::new(Loaded {
                        ebpf,
                        plan,
                        tracefs,
                        registers: Some(registers),
                        links,
                    }));
                }
                // The way looked possible and is not: note why, and choose again.
                Err(error) if plan.way == Way::Fentry => {
                    facts.fentry_refused = Some(error.to_string());
                }
                Err(error) => facts.tracefs_refused = Some(error.to_string()),
            }
        },
        Err(error) => {
            facts.bpf_refused = Some(error.to_string());
            Outcome::Refused(choose(&facts))
        }
    }
}

impl Loaded {
    /// How many hooks hang on tracepoints.
    #[must_use]
    pub fn tracepoint_links(&self) -> usize {
        self.links.len()
    }
}

fn wanted() -> Option<Way> {
    let word = std::env::var("LOOPWARDEN_PLAN").ok()?;
    let way = Way::parse(&word);
    if way.is_none() && word != "auto" {
        log::warn!(
            "LOOPWARDEN_PLAN is `{word}`; allowed are auto, fentry, tracepoint and sampling. Using auto"
        );
    }
    way
}

fn probe(
    facts: &mut Facts,
    settings: Settings,
) -> Result<(Ebpf, Btf, Option<Tracefs>), KernelError> {
    if !super::namespace::is_initial() {
        return Err(KernelError::PidNamespace);
    }
    let types = KernelTypes::read()?;
    let offsets = types.offsets()?;
    let calls = || POLL_CALLS.into_iter().chain(WAIT_CALLS);
    facts.functions = calls()
        .filter(|call| types.has_function(&function_of(call)))
        .collect();
    let tracefs = match Tracefs::open() {
        Ok(tracefs) => {
            facts.tracepoints = calls()
                .filter(|call| tracefs.id("syscalls", &format!("sys_enter_{call}")).is_ok())
                .collect();
            Some(tracefs)
        }
        Err(error) => {
            facts.tracefs_refused = Some(error.to_string());
            None
        }
    };
    let btf = Btf::from_sys_fs().map_err(|error| KernelError::Load(error.to_string()))?;
    let sockets = types.socket_facts().unwrap_or_else(|error| {
        facts.connections_refused = Some(error.to_string());
        SocketFacts::default()
    });
    let ebpf = open_object(&btf, offsets, registers::facts(&types), sockets, settings)?;
    Ok((ebpf, btf, tracefs))
}

/// The kernel's own function behind a system call.
fn function_of(call: &str) -> String {
    let prefix = if cfg!(target_arch = "aarch64") {
        "__arm64"
    } else {
        "__x64"
    };
    format!("{prefix}_sys_{call}")
}

fn open_object(
    btf: &Btf,
    offsets: Offsets,
    registers: RegisterFacts,
    sockets: SocketFacts,
    settings: Settings,
) -> Result<Ebpf, KernelError> {
    let path = std::env::var_os("LOOPWARDEN_BPF_OBJECT");
    let fresh =
        match &path {
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                KernelError::Load(format!("{}: {error}", path.to_string_lossy()))
            })?),
            None => None,
        };
    let offsets = super::plain::bytes_of(&offsets).to_vec();
    let registers = super::plain::bytes_of(&registers).to_vec();
    let sockets = super::plain::bytes_of(&sockets).to_vec();
    let settings = Settings {
        node_netns: node_netns(),
        ..settings
    };
    let settings = super::plain::bytes_of(&settings).to_vec();
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global(names::OFFSETS, offsets.as_slice(), true)
        .override_global(names::REGISTER_FACTS, registers.as_slice(), true)
        .override_global(names::SOCKET_FACTS, sockets.as_slice(), true)
        .override_global(names::SETTINGS, settings.as_slice(), true)
        .override_global(aya_log::LEVEL, &log_level(), false)
        .load(fresh.as_deref().unwrap_or(OBJECT))
        .map_err(|error| KernelError::Load(explain(&error)))
}

/// The node's network namespace: the one of its first process, or else, in a container without the node's processes, the own.
fn node_netns() -> u32 {
    let first = proc::network_namespace(Pid(1));
    let found = first.or_else(|_| proc::network_namespace(Pid(std::process::id())));
    found.unwrap_or(0)
}

/// What the kernel side may say: nothing is formatted in the kernel that nobody would read.
fn log_level() -> u8 {
    u8::try_from(log::max_level() as usize).unwrap_or(0)
}

/// The whole chain of an error in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    // The verifier's log runs to pages: it is for who debugs the programs.
    if let Some((short, long)) = text.split_once(" Verifier output:") {
        log::debug!("verifier: {long}");
        return short.trim_end_matches('.').to_owned();
    }
    text
}

/// Where connections change their state.
const CONNECTION_TRACEPOINT: &str = "inet_sock_set_state";
/// Where a process has taken bytes out of a TCP connection.
const READ_TRACEPOINT: &str = "tcp_rcv_space_adjust";

/// Loads what sees connections. It is attached when there is a port to watch: a machine changes many connections.
fn load_connections(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    load_raw(ebpf, names::CONNECTION_CHANGED)
}

fn load_raw(ebpf: &mut Ebpf, name: &str) -> Result<(), KernelError> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program
        .load()
        .map_err(|error| program_error("load", name, &error))
}

/// Attaches it, until the link is dropped.
pub(super) fn attach_connections(ebpf: &mut Ebpf) -> Result<RawTracePointLink, KernelError> {
    attach_link(ebpf, names::CONNECTION_CHANGED, CONNECTION_TRACEPOINT)
}

/// Attaches what sees the first bytes that a process takes out of a connection, until the link is dropped.
pub(super) fn attach_reads(ebpf: &mut Ebpf) -> Result<RawTracePointLink, KernelError> {
    attach_link(ebpf, names::BYTES_TAKEN, READ_TRACEPOINT)
}

fn attach_link(
    ebpf: &mut Ebpf,
    name: &str,
    tracepoint: &str,
) -> Result<RawTracePointLink, KernelError> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program
        .attach(tracepoint)
        .and_then(|id| program.take_link(id))
        .map_err(|error| program_error("attach", name, &error))
}

type Attached = (BTreeMap<String, Verdict>, Vec<TracepointLink>);

fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    tracefs: Option<&Tracefs>,
    plan: &Plan,
) -> Result<Attached, KernelError> {
    let mut verdicts = plan.verdicts.clone();
    let mut links = Vec::new();
    for call in &plan.calls {
        let result = match (plan.way, tracefs) {
            (Way::Fentry, _) => attach_function(ebpf, btf, call),
            (_, Some(tracefs)) => attach_tracepoints(ebpf, tracefs, call, &mut links),
            (_, None) => Err(KernelError::Tracefs("not open".into())),
        };
        let verdict = match result {
            Ok(()) => Verdict::Ok,
            // Without these two the way is of no use; the caller takes the next one.
            Err(error) if matches!(*call, "epoll_pwait" | "wait4") => return Err(error),
            Err(error) => Verdict::Broken(error.to_string()),
        };
        verdicts.insert(format!("hook.{call}"), verdict);
    }
    for (tracepoint, program) in RAW_TRACEPOINTS {
        let verdict = match attach_raw(ebpf, tracepoint, program) {
            Ok(()) => Verdict::Ok,
            Err(error) => Verdict::Broken(error.to_string()),
        };
        verdicts.insert(format!("hook.{tracepoint}"), verdict);
    }
    let verdict = match load_iterator(ebpf, btf) {
        Ok(()) => Verdict::Ok,
        Err(error) => Verdict::Unsupported(error.to_string()),
    };
    verdicts.insert("hook.task_iterator".to_owned(), verdict);
    Ok((verdicts, links))
}

pub(super) fn program_error(
    step: &'static str,
    program: &str,
    error: &dyn std::error::Error,
) -> KernelError {
    KernelError::Program {
        step,
        program: program.to_owned(),
        error: explain(error),
    }
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<P, KernelError>
where
    P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let missing = || KernelError::Load(format!("the object has no program `{name}`"));
    P::try_from(ebpf.program_mut(name).ok_or_else(missing)?)
        .map_err(|error| program_error("find", name, &error))
}

fn attach_function(ebpf: &mut Ebpf, btf: &Btf, call: &str) -> Result<(), KernelError> {
    let function = function_of(call);
    let name = format!("fentry_{call}");
    let entry: &mut FEntry = program(ebpf, &name)?;
    entry
        .load(&function, btf)
        .map_err(|error| program_error("load", &name, &error))?;
    entry
        .attach()
        .map_err(|error| program_error("attach", &name, &error))?;
    let name = format!("fexit_{call}");
    let exit: &mut FExit = program(ebpf, &name)?;
    exit.load(&function, btf)
        .map_err(|error| program_error("load", &name, &error))?;
    exit.attach()
        .map_err(|error| program_error("attach", &name, &error))?;
    Ok(())
}

fn attach_tracepoints(
    ebpf: &mut Ebpf,
    tracefs: &Tracefs,
    call: &str,
    links: &mut Vec<TracepointLink>,
) -> Result<(), KernelError> {
    for (name, event) in [
        (format!("enter_{call}"), format!("sys_enter_{call}")),
        (format!("exit_{call}"), format!("sys_exit_{call}")),
    ] {
        let hook: &mut TracePoint = program(ebpf, &name)?;
        hook.load()
            .map_err(|error| program_error("load", &name, &error))?;
        let id = tracefs
            .id("syscalls", &event)
            .map_err(|error| program_error("find the tracepoint of", &name, &error))?;
        let fd = hook
            .fd()
            .map_err(|error| program_error("load", &name, &error))?;
        links.push(attach(fd.as_fd(), id).map_err(|error| program_error("attach", &name, &error))?);
    }
    Ok(())
}

fn attach_raw(ebpf: &mut Ebpf, tracepoint: &str, name: &str) -> Result<(), KernelError> {
    let hook: &mut RawTracePoint = program(ebpf, name)?;
    hook.load()
        .map_err(|error| program_error("load", name, &error))?;
    hook.attach(tracepoint)
        .map_err(|error| program_error("attach", name, &error))?;
    Ok(())
}

fn load_iterator(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), KernelError> {
    let iterator: &mut Iter = program(ebpf, "list_tasks")?;
    iterator
        .load("task", btf)
        .map_err(|error| program_error("load", "list_tasks", &error))
}
