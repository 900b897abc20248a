//! Where things are: what is heavy is made once and kept in the cache; what a run writes goes to a folder of its own.
//!
//! Makers hold one lock, so two runs side by side never make the same part twice.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::run_dir::RunDir;
use super::{clock, cluster, engine, python};
use crate::setup;

/// The proxy with the incident.
pub(crate) const BEFORE_FIX: &str = "1.83.7";
/// The first proxy with its own fix.
pub(crate) const OWN_FIX: &str = "1.84.0";

/// Ports are taken from below the range that the kernel gives to outgoing connections, which probes use up by the thousand.
const PORTS: std::ops::Range<u16> = 16_000..32_000;

/// Everything a run needs, made.
#[derive(Debug)]
pub(crate) struct Lab {
    cache: PathBuf,
    pub(crate) run: RunDir,
}

impl Lab {
    /// Makes what is missing. The first time takes some minutes and needs the registries of Python, npm and Rust.
    pub(crate) fn prepare() -> Result<Self> {
        let cache = setup::cache_dir()?.join("litellm");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let lab = Self {
            run: RunDir::create()?,
            cache,
        };
        let lock =
            File::create(lab.cache.join("lock")).context("cannot create the lock of the cache")?;
        lock.lock().context("cannot lock the cache")?;
        cluster::need_programs()?;
        clock::need_library()?;
        engine::build(&lab)?;
        python::prepare(&lab)?;
        lab.part(
            "schema",
            &format!("litellm {OWN_FIX}, PostgreSQL 15"),
            |kept| {
                let data = lab.run.path("schema");
                cluster::create(&data, |cluster| python::migrate(&lab, cluster))?;
                cluster::copy(&data, kept)
            },
        )?;
        Ok(lab)
    }

    /// A part of the cache, made by `make` unless it is there and made from the same recipe.
    pub(crate) fn part(
        &self,
        name: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        setup::part(&self.cache, name, recipe, make)
    }

    /// Where a part is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    use std::hash::{BuildHasher as _, RandomState};
    for _ in 0..200 {
        // The standard library's only randomness: a hasher's seed.
        let random = RandomState::new().hash_one(0);
        let span = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random % span)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!(
        "no free port found between {} and {} after 200 tries",
        PORTS.start,
        PORTS.end
    )
}
