//! The real LiteLLM proxy on a run's own database.

use std::path::PathBuf;
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

const CONFIG: &str = r#"
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
            .env("LANG", "C.UTF-8")
            .env("PYTHONUNBUFFERED", "1")
            .env("DATABASE_URL", database_url)
            .env("LITELLM_MASTER_KEY", http::MASTER_KEY)
            .env("PRISMA_HOME_DIR", python::prisma_home(lab))
            .env("PRISMA_QUERY_ENGINE_BINARY", engine::path(lab))
            .env(
                "PRISMA_HEALTH_WATCHDOG_INTERVAL_SECONDS",
                WATCHDOG_INTERVAL_S,
            )
            .env("PRISMA_RECONNECT_COOLDOWN_SECONDS", WATCHDOG_INTERVAL_S)
            .env("STANDIN_CLOSE_MAX_S", "30")
            .env("DISABLE_SCHEMA_UPDATE", "true")
            .env("LITELLM_LOG", "INFO")
            // Nothing of a run goes beyond loopback. A comparison of schemas at the start would fetch an engine of its own.
            .env(
                "PRISMA_SCHEMA_ENGINE_BINARY",
                python::stub(&python::prisma_home(lab)),
            )
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_TELEMETRY", "False")
            .env("NO_DOCS", "True")
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
        http::get(self.port, "/health/readiness", Duration::from_secs(3))
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
