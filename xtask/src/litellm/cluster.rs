//! A PostgreSQL of the run's own, on loopback, that can be frozen: every one of its processes is stopped, as `docker pause` does.
//!
//! A cluster that holds LiteLLM's schema is made once and kept; each run works on a copy. The system's own clusters are not touched.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::process::{self, Process};
use super::{lab, stop};
use crate::{cmd, setup};

/// The version the incidents were replayed with.
const BIN: &str = "/usr/lib/postgresql/15/bin";
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running cluster; thawed and stopped when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Declared before the process: what is frozen has to be thawed before it can end.
    frozen: Frozen,
    server: Process,
    port: u16,
    log: PathBuf,
}

/// Thaws on drop.
#[derive(Debug, Default)]
struct Frozen(Option<u32>);

impl Cluster {
    /// Starts a cluster from the folder `data`, which `create` or `copy` has made.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        Self::listen(data, "127.0.0.1")
    }

    /// Starts one that listens on another address, too, and trusts who is in the same network.
    pub(crate) fn start_on(data: &Path, address: &str) -> Result<Self> {
        let rules = data.join("pg_hba.conf");
        let text = fs::read_to_string(&rules)
            .with_context(|| format!("cannot read {}", rules.display()))?;
        fs::write(&rules, text + "host all all samenet trust\n")?;
        Self::listen(data, &format!("127.0.0.1,{address}"))
    }

    fn listen(data: &Path, addresses: &str) -> Result<Self> {
        let port = lab::free_port()?;
        let log = data.with_extension("log");
        let output = process::log_file(&log)?;
        let mut command = server_command("postgres")?;
        command.arg("-D").arg(data).current_dir(data);
        let addresses = format!("listen_addresses={addresses}");
        for setting in [
            addresses.as_str(),
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=200",
            "shared_buffers=32MB",
            // Every query, when it is done: `wait_for_query` reads it.
            "log_min_duration_statement=0",
        ] {
            command.args(["-c", setting]);
        }
        command
            .args(["-p", &port.to_string()])
            .stdout(output.try_clone()?)
            .stderr(output);
        // SIGINT asks for a fast shutdown: sessions are ended, not waited for.
        let server = Process::start("PostgreSQL", &mut command)?
            .ends_by(Signal::INT, Duration::from_secs(15));
        let mut cluster = Self {
            frozen: Frozen::default(),
            server,
            port,
            log,
        };
        let up = stop::wait_for(START_LIMIT, Duration::from_millis(100), || {
            if let Some(status) = cluster.server.status()? {
                let said = fs::read_to_string(&cluster.log).unwrap_or_default();
                bail!(
                    "PostgreSQL ended at its start ({status}):\n{}",
                    cmd::tail(&said, 10)
                );
            }
            Ok(cluster.sql("postgres", "SELECT 1").ok())
        })?;
        up.with_context(|| {
            format!("PostgreSQL does not answer on port {port} within {START_LIMIT:?}")
        })?;
        Ok(cluster)
    }

    /// What clients connect to.
    pub(crate) fn url(&self) -> String {
        self.url_on("127.0.0.1")
    }

    /// What clients connect to on another address.
    pub(crate) fn url_on(&self, address: &str) -> String {
        format!("postgresql://llm:llm@{address}:{}/litellm", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL as the administrator.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let url = format!(
            "postgresql://postgres@127.0.0.1:{}/{database}?connect_timeout=5",
            self.port
        );
        cmd::output(Command::new(Path::new(BIN).join("psql")).args(["-qXAt", &url, "-c", sql]))
    }

    /// Runs a file of SQL; statements that fail are left out. Returns what psql said about them.
    pub(crate) fn sql_file(&self, file: &Path) -> Result<String> {
        let out = Command::new(Path::new(BIN).join("psql"))
            .args(["-qX", &self.url(), "-f"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .context("cannot start psql")?;
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Waits until a query that holds these words has been answered.
    pub(crate) fn wait_for_query(&self, words: &str, limit: Duration) -> Result<()> {
        let mut log = fs::File::open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        log.seek(SeekFrom::End(0))?;
        let mut text = String::new();
        let seen = stop::wait_for(limit, Duration::from_millis(5), || {
            log.read_to_string(&mut text)?;
            let lines = text.rfind('\n').map_or(0, |end| end + 1);
            let found = text[..lines]
                .lines()
                .any(|line| line.contains(words) && line.contains("execute"));
            text.drain(..lines);
            Ok(found.then_some(()))
        })?;
        seen.with_context(|| format!("no query with {words:?} came within {limit:?}"))
    }

    /// Stops every process of the cluster; returns how many.
    pub(crate) fn freeze(&mut self) -> Result<usize> {
        let server = self.server.pid();
        self.frozen = Frozen(Some(server));
        // The server first: stopped, it neither starts nor reaps a child.
        process::signal(server, Signal::STOP)?;
        let children = process::children(server);
        for child in &children {
            child.signal(Signal::STOP);
        }
        Ok(children.len() + 1)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self) {
        self.frozen = Frozen::default();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(server) = self.0 {
            for child in process::children(server) {
                child.signal(Signal::CONT);
            }
            let _ = process::signal(server, Signal::CONT);
        }
    }
}

/// Installs PostgreSQL if there is none.
pub(crate) fn need_programs() -> Result<()> {
    if Path::new(BIN).join("postgres").is_file() {
        return Ok(());
    }
    setup::need(&["postgresql-15", "postgresql-client-15"])
}

/// Makes an empty cluster with LiteLLM's role and database in `data`, and fills it by `fill`.
pub(crate) fn create(data: &Path, fill: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    give_to_server_user(data)?;
    cmd::output(
        server_command("initdb")?
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(data)
            .current_dir(data),
    )?;
    let cluster = Cluster::start(data)?;
    cluster.sql("postgres", "CREATE ROLE llm LOGIN SUPERUSER PASSWORD 'llm'")?;
    cluster.sql("postgres", "CREATE DATABASE litellm OWNER llm")?;
    fill(&cluster)
}

/// Copies the files of a stopped cluster.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    cmd::run(
        Command::new("cp")
            .args(["-a", "--reflink=auto", "-T"])
            .arg(from)
            .arg(to),
    )?;
    give_to_server_user(to)
}

fn give_to_server_user(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let Some((uid, gid)) = server_user()? else {
        return Ok(());
    };
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        chown(&folder, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to postgres", folder.display()))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid))?;
            }
        }
    }
    Ok(())
}

/// PostgreSQL refuses to run as root; there it runs as its own user.
fn server_command(program: &str) -> Result<Command> {
    let mut command = Command::new(Path::new(BIN).join(program));
    if let Some((uid, gid)) = server_user()? {
        command.uid(uid).gid(gid);
    }
    command
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin");
    Ok(command)
}

fn server_user() -> Result<Option<(u32, u32)>> {
    if !setup::is_root()? {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let user = user_in(&users, "postgres")
        .context("there is no user postgres, which Debian's postgresql-15 makes")?;
    Ok(Some(user))
}

fn user_in(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?
        .skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name() {
        let users =
            "root:x:0:0::/root:/bin/sh\npostgres:x:106:114:x:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(user_in(users, "postgres"), Some((106, 114)));
        assert_eq!(user_in(users, "post"), None);
    }
}
