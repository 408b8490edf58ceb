// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cgroups of a test's own.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::scratch::Scratch;

/// How far below: containers in containers make some.
const LEVELS: usize = 20;

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

fn root() -> Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    Ok(mount.context("no cgroup2 is mounted here")?[1].to_owned())
}
