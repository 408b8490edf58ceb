// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cgroups of a test's own.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    scratch::Scratch,
    wait::{self, PATIENCE},
};

/// How far below: containers in containers make some.
const LEVELS: usize = 12;

/// A cgroup (v2) and one deep below it, by their paths; removed when their processes are gone.
pub struct Groups {
    pub above: String,
    pub below: String,
}

impl Groups {
    pub fn new() -> Result<Self> {
        let name = Scratch::path("cgroup");
        let name = name.file_name().context("a name")?.display();
        let above = format!("{}/{name}", root()?);
        let below = format!("{above}{}", "/below".repeat(LEVELS));
        fs::create_dir_all(&below)?;
        Ok(Self { above, below })
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // A cgroup with a zombie in it stays busy; it is empty and harmless then.
        let all = Path::new(&self.below).ancestors();
        for path in all.take(LEVELS + 1) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// A cgroup (v2) of a test's own, whose name nobody else has.
pub struct Tree {
    /// Its name.
    pub name: String,
    top: String,
}

impl Tree {
    pub fn new() -> Result<Self> {
        let name = Scratch::path("tree");
        let name = name.file_name().context("a name")?.display().to_string();
        let top = format!("{}/{name}", root()?);
        fs::create_dir(&top)?;
        Ok(Self { name, top })
    }

    /// Makes a cgroup below it, with all above it, and returns its directory.
    pub fn make(&self, below: impl AsRef<Path>) -> Result<PathBuf> {
        let path = Path::new(&self.top).join(below);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Removes a cgroup that has no process any more.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let gone = || match fs::remove_dir(path) {
            Ok(()) => Ok(Some(())),
            Err(e) if e.kind() == ErrorKind::ResourceBusy => Ok(None),
            Err(e) => Err(e.into()),
        };
        wait::until("the end of a cgroup", PATIENCE, gone)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        remove_below(Path::new(&self.top));
    }
}

fn remove_below(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// Where the v2 hierarchy is mounted.
pub fn root() -> Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    Ok(mount.context("no cgroup2 is mounted here")?[1].to_owned())
}
