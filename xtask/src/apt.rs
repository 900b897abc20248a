//! apt with sources, lists and state of its own inside the cache: the machine's sources are neither changed nor needed, and a package's
//! signature is still checked against Debian's keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;

const MIRROR: &str = "http://deb.debian.org";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a world of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    suite: String,
}

impl Apt {
    pub(crate) fn new(suite: &str, folder: PathBuf) -> Result<Self> {
        for below in ["lists/partial", "archives/partial"] {
            let path = folder.join(below);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let mut sources = format!("deb [signed-by={KEYRING}] {MIRROR}/debian {suite} main\n");
        // What is not released yet has no security updates of its own.
        if suite != "sid" {
            let security = format!("{MIRROR}/debian-security {suite}-security main");
            sources.extend(["deb [signed-by=", KEYRING, "] ", &security, "\n"]);
        }
        let file = folder.join("sources.list");
        std::fs::write(&file, sources)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self {
            folder,
            suite: suite.to_owned(),
        })
    }

    /// Where its lists and downloads are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self) -> Result<()> {
        cmd::output(self.command("apt-get").arg("update"))
            .map(drop)
            .with_context(|| {
                format!(
                    "cannot fetch the package lists of {} from {MIRROR}",
                    self.suite
                )
            })
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new(program);
        command
            .arg(format!("-oDir::Etc::SourceList={folder}/sources.list"))
            .arg(format!("-oDir::State::Lists={folder}/lists"))
            .arg(format!("-oDir::Cache={folder}"))
            .args([
                "-oDir::Etc::SourceParts=/dev/null",
                "-oDir::State::Status=/dev/null",
            ])
            .args([
                "-oAPT::Architecture=amd64",
                "-oAPT::Architectures=amd64",
                "-oAPT::Sandbox::User=",
            ])
            .args([
                "-oAPT::Update::Error-Mode=any",
                "-oAcquire::Languages=none",
                "-oAcquire::Retries=3",
            ])
            // Neither the descriptions for software centres nor the machine's own hooks are of use here.
            .args([
                "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
                "-oAPT::Update::Post-Invoke::=",
            ]);
        command
    }
}
