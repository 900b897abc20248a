//! What a labelled stall is: the program that makes it, what the harness adds, and what may be said of it.

/// The words of the contract for a cause, in its order. They are repeated here because this test must not agree with the agent
/// by sharing its code.
pub(super) const KINDS: [&str; 13] = [
    "child_wait",
    "lock_wait",
    "gil_wait",
    "network_wait",
    "pipe_wait",
    "disk_wait",
    "file_lock",
    "sleep",
    "cpu_busy",
    "cpu_starved",
    "memory_stall",
    "stopped",
    "unknown",
];

/// What runs the event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runtime {
    Asyncio,
    Uvloop,
    Node,
    Native,
}

impl Runtime {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Asyncio => "asyncio",
            Self::Uvloop => "uvloop",
            Self::Node => "node",
            Self::Native => "c",
        }
    }

    pub(super) const fn is_python(self) -> bool {
        matches!(self, Self::Asyncio | Self::Uvloop)
    }
}

/// What the harness does around the stall, because the program cannot do it to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Nothing,
    /// A FUSE file system that answers late, at `slow` in the program's folder.
    SlowFiles,
    /// A loop device whose file is on such a file system; its path is in the file `device`.
    SlowDevice,
    /// `/etc/resolv.conf` names an address of loopback.
    OwnNameServer,
    /// A quota of 3 % of a processor.
    Quota {
        period_ms: u64,
    },
    /// A limit a little above what the group uses, at which the kernel makes it wait.
    MemoryLimit,
    /// SIGSTOP, then SIGCONT.
    Stop,
    /// The cgroup freezer.
    Freeze,
}

/// What else may run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// It waits: several such rows side by side do not disturb each other.
    Light,
    /// It is about processors: nothing else runs.
    Alone,
}

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Environment {
    Open,
    /// In a PID namespace with its own `/proc`.
    Pid,
    /// In mount and PID namespaces, with a root of its own, in cgroups of its own.
    Root,
}

impl Environment {
    pub(super) const ALL: [Self; 3] = [Self::Open, Self::Pid, Self::Root];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Pid => "pid",
            Self::Root => "root",
        }
    }
}

/// One labelled stall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The name of the case in its program.
    pub(super) case: &'static str,
    /// The label.
    pub(super) kind: &'static str,
    pub(super) runtime: Runtime,
    pub(super) stage: Stage,
    pub(super) load: Load,
    /// System calls that may be named; none: it is not in one, or it does not matter.
    pub(super) calls: &'static [&'static str],
    /// The short form runs it in all environments.
    pub(super) everywhere: bool,
}

impl Row {
    pub(super) const fn new(
        kind: &'static str,
        runtime: Runtime,
        case: &'static str,
        calls: &'static [&'static str],
    ) -> Self {
        Self {
            case,
            kind,
            runtime,
            stage: Stage::Nothing,
            load: Load::Light,
            calls,
            everywhere: false,
        }
    }

    pub(super) const fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    pub(super) const fn alone(mut self) -> Self {
        self.load = Load::Alone;
        self
    }

    pub(super) const fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    pub(super) fn name(&self) -> String {
        format!("{} ({})", self.case, self.runtime.name())
    }

    /// Whether it has to get all the processor time that it wants, whoever else is on the machine.
    pub(super) fn is_favoured(&self) -> bool {
        matches!(self.kind, "cpu_busy" | "gil_wait")
            || self.load == Load::Alone && self.kind == "lock_wait"
    }

    /// Whether it runs in cgroups of its own.
    pub(super) const fn needs_cgroup(&self) -> bool {
        matches!(
            self.stage,
            Stage::Quota { .. } | Stage::MemoryLimit | Stage::Freeze
        )
    }
}
