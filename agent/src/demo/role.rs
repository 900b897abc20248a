//! The parts this binary plays in its own demo: server, engine, and the shell around the guard.
//!
//! Each is a process of its own that dies with the process that started it. What a server tells the show goes over its
//! standard output as JSON lines ([`Report`]), what it is told comes over its standard input.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Name under which the command line knows the roles.
pub(super) const SUBCOMMAND: &str = "demo-role";

/// Which part to play. Not for people: the demo starts these itself.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// The process that starts this one: when it is gone, so is this.
    #[arg(long)]
    parent: u32,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// A single-threaded HTTP server on an epoll loop.
    Server(ServerArgs),
    /// Its engine, deaf to signals once wedged.
    Engine,
    /// Runs this binary with other arguments.
    Guard {
        /// The arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// How a server is started.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The engine's executable.
    #[arg(long)]
    pub(super) engine: PathBuf,
    /// Where to listen on 127.0.0.1; 0 takes a free port.
    #[arg(long, default_value_t = 0)]
    pub(super) port: u16,
}

/// What a server tells the show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "report")]
pub(super) enum Report {
    /// It listens and its engine runs.
    Ready {
        /// Where.
        port: u16,
        /// Process id of the engine.
        engine: u32,
    },
    /// The loop thread is about to wait for its engine.
    Frozen {
        /// When.
        mono_ns: u64,
        /// The engine it waits for.
        engine: u32,
    },
    /// The wait is over and a new engine runs: back to the loop.
    Thawed {
        /// When.
        mono_ns: u64,
        /// The new engine.
        engine: u32,
    },
}

/// Plays a role until told to end; returns the exit status.
pub fn role(args: &RoleArgs) -> Result<u8> {
    die_with(args.parent)?;
    match &args.role {
        Role::Server(server) => super::server::serve(server).map(|()| 0),
        Role::Engine => super::engine::run().map(|()| 0),
        Role::Guard { arguments } => {
            let exe = std::env::current_exe()
                .context("finding this program's own file (/proc/self/exe)")?;
            // The death signal survives exec, so the guard needs to know nothing of the demo.
            let why = Command::new(&exe).args(arguments).exec();
            Err(why).with_context(|| format!("running {}", exe.display()))
        }
    }
}

/// Asks the kernel to kill this process when its parent ends, however that happens.
fn die_with(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("asking to end with the demo (prctl PR_SET_PDEATHSIG)")?;
    // The parent may have ended before the call took effect.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != i32::try_from(parent).ok() {
        bail!("the demo that started this process (pid {parent}) is gone");
    }
    Ok(())
}
