// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that end: theirs is what is open until they have closed it.

use std::fs;

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Scene, is_of, scene};
use crate::wait::{self, PATIENCE};

pub fn tests() -> Vec<Trial> {
    vec![scene("killed_after_leader_exit", killed)]
}

/// Few enough to end while the memory is given back.
const SESSIONS: usize = 4;

/// MiB of memory, whose return takes some milliseconds.
const BURDEN: usize = 256;

/// The first thread has ended, the last one is killed and gives its memory back before it closes its files. What the
/// peers end meanwhile is still the process's.
fn killed(scene: &mut Scene, host: &str) -> Result<()> {
    let life = scene.watch("tcplife", &[])?;
    let states = scene.watch("tcpstates", &["--old", "FIN_WAIT2"])?;
    let thread = scene.s.number("leave server")?;
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| scene.session(host))
        .collect::<Result<_>>()?;
    for session in &sessions {
        scene.s.run(&format!("shutdown {} wr", session.s))?;
        scene.c.run(&format!("eof {}", session.c))?;
    }
    scene.s.run(&format!("burden {BURDEN}"))?;
    let server = scene.s.pid();
    kill(Pid::from_raw(server as i32), Signal::SIGKILL)?;
    let memory = format!("/proc/{server}/task/{thread}/statm");
    wait::until("the end of the memory", PATIENCE, || {
        let text = fs::read_to_string(&memory).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default();
        Ok(matches!(first, "" | "0").then_some(()))
    })?;
    for session in &sessions {
        scene.c.run(&format!("close {}", session.c))?;
    }
    scene.net.quiet()?;
    for tool in [life, states] {
        let rows = tool.stop()?.rows()?;
        for session in &sessions {
            let row = rows.iter().find(|row| row["lport"] == session.port);
            is_of(row.context("no row")?, server, "server")?;
        }
    }
    Ok(())
}
