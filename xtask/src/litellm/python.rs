//! The Python side: virtual environments with the real proxy, and its Prisma client, generated from its schema.
//!
//! `prisma generate` would download Prisma's engines from a host that no package registry mirrors. It only asks them for their
//! version, so it gets a stub; nothing else of it is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cluster::Cluster;
use super::lab::{BEFORE_FIX, Lab, OWN_FIX};
use crate::{cmd, setup};

const CLIENT: &str = "0.11.0";
const PRISMA: &str = "5.4.2";
/// The commit of Prisma's engines that the client library looks for.
const ENGINES: &str = "ac9d7041ed77bcc8a8dbd2ab6616b39013829574";

/// Makes everything that is missing.
pub(crate) fn prepare(lab: &Lab) -> Result<()> {
    need_programs()?;
    let python =
        cmd::output(Command::new("python3").args(["-c", "import sys; print(sys.version)"]))?;
    prisma_module(lab)?;
    for version in [BEFORE_FIX, OWN_FIX] {
        let constraints = constraints(version, python.trim());
        let recipe = format!(
            "litellm[proxy]=={version} prisma=={CLIENT} {}\n{constraints}",
            python.trim()
        );
        lab.part(&venv_name(version), &recipe, |venv| {
            install(venv, version, constraints)?;
            generate(lab, venv)
        })?;
    }
    Ok(())
}

/// The folder of a proxy's virtual environment.
pub(crate) fn venv(lab: &Lab, version: &str) -> PathBuf {
    lab.path(&venv_name(version))
}

/// Where the client library looks for its Node.js module.
pub(crate) fn prisma_home(lab: &Lab) -> PathBuf {
    lab.path("prisma-home")
}

/// Brings the schema of the newer proxy into a database: a superset of the older one's.
///
/// The migrations are written for Prisma's migrate tool, which tolerates some that repeat each other; so do we. What counts is
/// checked at the end.
pub(crate) fn migrate(lab: &Lab, cluster: &Cluster) -> Result<()> {
    let venv = venv(lab, OWN_FIX);
    let folder = site_packages(&venv)?.join("litellm_proxy_extras/migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read the migrations in {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("migration.sql")))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    let mut said = String::new();
    for file in &files {
        said += &cluster.sql_file(file)?;
    }
    for table in [
        "LiteLLM_VerificationToken",
        "LiteLLM_UserTable",
        "LiteLLM_SpendLogs",
        "LiteLLM_Config",
    ] {
        cluster
            .sql("litellm", &format!("SELECT count(*) FROM \"{table}\""))
            .with_context(|| {
                format!(
                    "the migrations made no usable table {table}:\n{}",
                    cmd::tail(&said, 20)
                )
            })?;
    }
    Ok(())
}

fn need_programs() -> Result<()> {
    let usable = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))";
    let python_works = || {
        cmd::on_path("python3")
            && Command::new("python3")
                .args(["-c", usable])
                .output()
                .is_ok_and(|out| out.status.success())
    };
    if !python_works() {
        setup::need(&["python3", "python3-venv"])?;
        if !python_works() {
            bail!(
                "python3 is older than 3.9 or lacks the modules venv and ensurepip; put a newer one first on PATH"
            );
        }
    }
    // Not the packages as such: Node.js from elsewhere brings its own npm, which Debian's package conflicts with.
    for program in ["nodejs", "npm"] {
        let found = cmd::on_path(program) || program == "nodejs" && cmd::on_path("node");
        if !found {
            setup::need(&[program])?;
        }
    }
    Ok(())
}

fn venv_name(version: &str) -> String {
    format!("venv-{version}")
}

/// The exact versions of everything else; other versions of Python may need others.
fn constraints(version: &str, python: &str) -> &'static str {
    match version {
        _ if !python.starts_with("3.11.") => "",
        BEFORE_FIX => include_str!("../../litellm/constraints-1.83.7.txt"),
        _ => include_str!("../../litellm/constraints-1.84.0.txt"),
    }
}

fn install(venv: &Path, version: &str, constraints: &str) -> Result<()> {
    cmd::output(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let file = venv.join("constraints.txt");
    fs::write(&file, constraints).with_context(|| format!("cannot write {}", file.display()))?;
    cmd::output(
        Command::new(venv.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--constraint",
            ])
            .arg(&file)
            .arg(format!("litellm[proxy]=={version}"))
            .arg(format!("prisma=={CLIENT}")),
    )?;
    Ok(())
}

/// Where the interpreter and its library are that a virtual environment was made from.
pub(crate) fn base(lab: &Lab, version: &str) -> Result<PathBuf> {
    let python = venv(lab, version).join("bin/python");
    let path =
        cmd::output(Command::new(python).args(["-c", "import sys; print(sys.base_prefix)"]))?;
    Ok(path.trim().into())
}

/// Where its modules are.
pub(crate) fn site_packages(venv: &Path) -> Result<PathBuf> {
    let ask = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let path = cmd::output(Command::new(venv.join("bin/python")).args(["-c", ask]))?;
    Ok(path.trim().into())
}

/// The Node.js module that holds Prisma's generator, without its install script, which would download engines.
fn prisma_module(lab: &Lab) -> Result<()> {
    lab.part("prisma-home", &format!("prisma@{PRISMA}"), |home| {
        let module = home.join(format!(".cache/prisma-python/binaries/{PRISMA}/{ENGINES}"));
        fs::create_dir_all(&module)?;
        let package = r#"{"name":"prisma-binaries","version":"1.0.0","private":true,"main":"node_modules/prisma/build/index.js"}"#;
        fs::write(module.join("package.json"), package)?;
        cmd::output(
            Command::new("npm")
                .args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
                .arg(format!("prisma@{PRISMA}"))
                .current_dir(&module),
        )?;
        let stub = stub(home);
        fs::write(&stub, format!("#!/bin/sh\necho 'query-engine {ENGINES}'\n"))?;
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))?;
        Ok(())
    })?;
    Ok(())
}

/// A program that does nothing but name the version of Prisma's engines.
pub(crate) fn stub(prisma_home: &Path) -> PathBuf {
    prisma_home.join("stub-engine")
}

fn generate(lab: &Lab, venv: &Path) -> Result<()> {
    let original = site_packages(venv)?.join("litellm/proxy/schema.prisma");
    let schema = fs::read_to_string(&original)
        .with_context(|| format!("cannot read {}", original.display()))?;
    let copy = venv.join("schema.prisma");
    fs::write(&copy, native_only(&schema))?;
    let home = prisma_home(lab);
    let stub = stub(&home);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(venv.join("bin/prisma"));
    for engine in [
        "QUERY_ENGINE_BINARY",
        "QUERY_ENGINE_LIBRARY",
        "SCHEMA_ENGINE_BINARY",
    ] {
        command.env(format!("PRISMA_{engine}"), &stub);
    }
    cmd::output(
        command
            .args(["generate", "--schema"])
            .arg(&copy)
            .env("PATH", format!("{}:{path}", venv.join("bin").display()))
            .env("PRISMA_HOME_DIR", &home)
            .env("PRISMA_ENGINES_CHECKSUM_IGNORE_MISSING", "1")
            .env("PRISMA_CLI_QUERY_ENGINE_TYPE", "binary")
            .env("CHECKPOINT_DISABLE", "1")
            // The schema wants one; nothing connects to it.
            .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:5/none"),
    )?;
    Ok(())
}

/// The schema for this machine alone: for every other target the generator would want an engine.
fn native_only(schema: &str) -> String {
    schema
        .lines()
        .map(|line| match line.split_once('=') {
            Some((key, _)) if key.trim() == "binaryTargets" => format!("{key}= [\"native\"]\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_targets_are_replaced() {
        assert_eq!(
            native_only(
                "generator client {\n  binaryTargets = [\"native\", \"linux-musl\"]\n  provider = \"x\"\n}"
            ),
            "generator client {\n  binaryTargets = [\"native\"]\n  provider = \"x\"\n}\n"
        );
    }
}
