//! What all runs share: the agent, the interpreters, and the programs, compiled where they have to be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::measure::agent;
use crate::{cmd, layout, setup};

const PACKAGES: &[&str] = &["uvloop==0.22.1"];
const PROGRAMS: [&str; 4] = ["stalls.py", "stalls.cjs", "slowfs.py", "enclose.sh"];
const NATIVE: &str = "stalls";

/// The laboratory; its folder goes with it.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) agent: PathBuf,
    /// Of the virtual environment.
    pub(super) python: PathBuf,
    pub(super) venv: PathBuf,
    /// Where that Python is installed, its version (`3.11`), and its file there.
    pub(super) python_home: PathBuf,
    pub(super) python_version: String,
    pub(super) python_file: PathBuf,
    pub(super) node: PathBuf,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Makes what is missing; the first time that takes a minute and needs Python's package registry.
    pub(super) fn prepare(python: &Path) -> Result<Self> {
        need_programs()?;
        let agent = agent::Lab::prepare()?.program;
        let venv = venv(python)?;
        let python = venv.join("bin/python");
        let said = cmd::output(Command::new(&python).args([
            "-c",
            "import os, sys; print(sys.base_prefix, os.path.realpath(sys.executable), '%d.%d' % sys.version_info[:2], sep='\\n')",
        ]))?;
        let mut said = said.lines().map(str::to_owned);
        let mut next = || said.next().context("Python does not say where it is");
        let (python_home, python_file, python_version) = (next()?.into(), next()?.into(), next()?);
        let node = cmd::output(Command::new("node").args(["-p", "process.execPath"]))?;
        let folder = tempfile::Builder::new()
            .prefix("accuracy-")
            .tempdir_in(layout::target())
            .context("cannot make a folder in cargo's target folder")?;
        let lab = Self {
            agent,
            python,
            venv,
            python_home,
            python_version,
            python_file,
            node: node.trim().into(),
            folder,
        };
        lab.make_programs()?;
        Ok(lab)
    }

    /// A file that the runs share.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder for one run, with the programs in it.
    pub(super) fn run_folder(&self, number: usize) -> Result<PathBuf> {
        let folder = self.folder.path().join(format!("run-{number}"));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for name in PROGRAMS.into_iter().chain([NATIVE]) {
            fs::hard_link(self.program(name), folder.join(name))
                .with_context(|| format!("cannot link {name} into {}", folder.display()))?;
        }
        Ok(folder)
    }

    fn make_programs(&self) -> Result<()> {
        let sources = layout::root().join("xtask/accuracy");
        for name in PROGRAMS {
            fs::copy(sources.join(name), self.program(name))
                .with_context(|| format!("cannot copy {name} from {}", sources.display()))?;
        }
        // Optimised as a release is, without frame pointers: that is what a distribution ships.
        cmd::run(
            Command::new("cc")
                .args(["-O1", "-g", "-fno-inline", "-Wall", "-pthread", "-o"])
                .arg(self.program(NATIVE))
                .arg(sources.join("stalls.c")),
        )
    }
}

fn need_programs() -> Result<()> {
    for (program, package) in [
        ("python3", "python3-venv"),
        ("node", "nodejs"),
        ("cc", "gcc"),
        ("losetup", "mount"),
    ] {
        if !cmd::on_path(program) {
            setup::need(&[package])?;
        }
    }
    Ok(())
}

/// The virtual environment, made once for each version of Python.
fn venv(python: &Path) -> Result<PathBuf> {
    let cache = setup::cache_dir()?.join("accuracy");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("cannot create the lock of the cache")?;
    lock.lock().context("cannot lock the cache")?;
    let version = cmd::output(Command::new(python).args(["-c", "import sys; print(sys.version)"]))?;
    let recipe = format!("{} {}", version.trim(), PACKAGES.join(" "));
    let name = version.split_whitespace().next().unwrap_or("unknown");
    setup::part(&cache, &format!("venv-{name}"), &recipe, |venv| {
        install(python, venv)
    })
}

fn install(python: &Path, venv: &Path) -> Result<()> {
    cmd::output(Command::new(python).args(["-m", "venv"]).arg(venv))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    cmd::output(
        Command::new(venv.join("bin/python"))
            .args(pip)
            .args(PACKAGES),
    )?;
    Ok(())
}
