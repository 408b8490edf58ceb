// SPDX-License-Identifier: MIT OR Apache-2.0
//! However a command that runs others ends, they end with it.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::tcptools;
use crate::{
    missing, procfs,
    scratch::Scratch,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("front::ends_without_cap_kill", without_cap_kill),
        trial("front::ends_when_killed", killed),
    ]
}

/// The commands become another user, to whom root may send no signal without CAP_KILL.
fn without_cap_kill() -> Result<()> {
    missing::needs_programs()?;
    let begun = Instant::now();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-kill", "--inh-caps", "-all"])
        .arg(tcptools())
        .args(["triage", "--duration", "1s", "--json"])
        .output()?;
    let summary = String::from_utf8_lossy(&output.stdout);
    ensure!(summary.contains("\"event\":\"summary\""), "{output:?}");
    // Each that has to be killed takes ten seconds.
    ensure!(begun.elapsed() < Duration::from_secs(60), "{begun:?}");
    Ok(())
}

/// It has no time to end them: its own end does.
fn killed() -> Result<()> {
    missing::needs_programs()?;
    let ready = Scratch::path("ends");
    let mut triage = Command::new(tcptools())
        .args(["triage", "--duration", "1h", "--ready-file"])
        .arg(ready.text())
        .stdout(Stdio::null())
        .spawn()?;
    wait::until("the commands look", PATIENCE, || {
        Ok(ready.exists().then_some(()))
    })?;
    let commands = children(triage.id())?;
    ensure!(commands.len() > 5, "{commands:?}");
    triage.kill()?;
    triage.wait()?;
    wait::until("the commands end", PATIENCE, || {
        let left = commands
            .iter()
            .any(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true));
        Ok((!left).then_some(()))
    })
}

fn children(of: u32) -> Result<Vec<u32>> {
    let lists = procfs::each(&format!("/proc/{of}/task"), |task| {
        fs::read_to_string(task.join("children"))
    })?;
    let lists = lists.iter().flat_map(|list| list.split_whitespace());
    Ok(lists.filter_map(|pid| pid.parse().ok()).collect())
}
