//! The real LiteLLM proxy on a run's own database.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::lab::Lab;
use super::process::{self, Process};
use super::{engine, http, lab, python, sampler, stop};
use crate::cmd;

/// LiteLLM imports for some ten seconds on two cores, four of them at once for most of a minute.
const START_LIMIT: Duration = Duration::from_mins(4);
/// The watchdog's shortest interval; the proxy refuses less.
const WATCHDOG_INTERVAL_S: &str = "5";

/// One model that answers without asking anybody.
pub(crate) const CONFIG: &str = r#"
model_list:
  - model_name: fake
    litellm_params:
      model: openai/fake
      api_key: sk-fake
      mock_response: "hello from the mock"
"#;

/// A running proxy; ended, with its engine, when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    process: Process,
    pub(crate) port: u16,
    name: String,
    log: PathBuf,
}

impl Proxy {
    /// Starts one; it is not up yet.
    pub(crate) fn start(lab: &Lab, name: &str, version: &str, database_url: &str) -> Result<Self> {
        Self::start_with(lab, name, version, database_url, |_| {})
    }

    /// The same, with a command that is changed before it is run.
    pub(crate) fn start_with(
        lab: &Lab,
        name: &str,
        version: &str,
        database_url: &str,
        change: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let folder = lab.run.path(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let config = folder.join("config.yaml");
        std::fs::write(&config, CONFIG)?;
        let log = folder.join("proxy.log");
        let output = process::log_file(&log)?;
        let port = lab::free_port()?;
        let venv = python::venv(lab, version);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(venv.join("bin/litellm"));
        command
            .args([
                "--host",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--config",
            ])
            .arg(&config)
            .current_dir(&folder)
            .env_clear()
            .env("PATH", format!("{}:{path}", venv.join("bin").display()))
            .env("HOME", &folder)
            .envs(environment(lab, database_url))
            .stdout(output.try_clone()?)
            .stderr(output);
        change(&mut command);
        let process =
            Process::start(name, &mut command)?.ends_by(Signal::TERM, Duration::from_secs(5));
        Ok(Self {
            process,
            port,
            name: name.to_owned(),
            log,
        })
    }

    /// Waits until it answers and has its database.
    pub(crate) fn wait_until_up(&mut self) -> Result<()> {
        let up = stop::wait_for(START_LIMIT, Duration::from_millis(250), || {
            self.check()?;
            Ok(self.is_ready().then_some(()))
        })?;
        up.with_context(|| {
            format!(
                "{} is not ready within {START_LIMIT:?}; its log ends with:\n{}",
                self.name,
                self.said()
            )
        })
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.process.status()? {
            bail!(
                "{} ended ({status}); its log ends with:\n{}",
                self.name,
                self.said()
            );
        }
        Ok(())
    }

    /// Whether it says that it is connected, and answers a request that needs the database.
    pub(crate) fn is_ready(&self) -> bool {
        http::get(
            http::local(self.port),
            "/health/readiness",
            Duration::from_secs(3),
        )
        .is_ok_and(|answer| answer.is_success() && answer.body.contains("\"connected\""))
            && http::get_with_key(self.port, "/key/list", Duration::from_secs(5))
                .is_ok_and(|answer| answer.is_success())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The engines it has now.
    pub(crate) fn engines(&self) -> Vec<process::Descendant> {
        sampler::engines(self.pid())
    }

    fn said(&self) -> String {
        cmd::tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }
}

/// What a proxy is told by its environment, wherever it runs.
pub(crate) fn environment(lab: &Lab, database_url: &str) -> [(&'static str, String); 15] {
    let home = python::prisma_home(lab);
    let shown = |path: &Path| path.display().to_string();
    let interval = || WATCHDOG_INTERVAL_S.to_owned();
    [
        ("LANG", "C.UTF-8".into()),
        ("PYTHONUNBUFFERED", "1".into()),
        ("DATABASE_URL", database_url.into()),
        ("LITELLM_MASTER_KEY", http::MASTER_KEY.into()),
        ("PRISMA_HOME_DIR", shown(&home)),
        ("PRISMA_QUERY_ENGINE_BINARY", shown(&engine::path(lab))),
        ("PRISMA_HEALTH_WATCHDOG_INTERVAL_SECONDS", interval()),
        ("PRISMA_RECONNECT_COOLDOWN_SECONDS", interval()),
        ("STANDIN_CLOSE_MAX_S", "30".into()),
        ("DISABLE_SCHEMA_UPDATE", "true".into()),
        ("LITELLM_LOG", "INFO".into()),
        // Nothing of a run goes beyond the machine. A comparison of schemas at the start would fetch an engine of its own.
        ("PRISMA_SCHEMA_ENGINE_BINARY", shown(&python::stub(&home))),
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True".into()),
        ("LITELLM_TELEMETRY", "False".into()),
        ("NO_DOCS", "True".into()),
    ]
}
