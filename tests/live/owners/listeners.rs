// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listeners that pass to other processes, and those of MPTCP, which a file has one layer above.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{Scene, only, scene, state};
use crate::missing;

pub fn tests() -> Vec<Trial> {
    vec![
        scene("inherited_listener", inherited_listener),
        scene("inherited_listener_scanned", inherited_listener_scanned),
        scene("mptcp_listener_scanned", mptcp_listener_scanned),
        scene("mptcp_client_scanned", mptcp_client_scanned),
    ]
}

/// Whoever listened has ended; a child of it has the listener. Rows do not know it, a summary looks.
fn inherited_listener(scene: &mut Scene, host: &str) -> Result<()> {
    let rows = scene.watch("tcpaccept", &[])?;
    let summary = scene.watch("tcpaccept", &["--summary"])?;
    let states = scene.watch("tcpstates", &["--summary"])?;
    let (listener, at) = scene.s.listen(host)?;
    let worker = scene.s.daemonise()?;
    let session = scene.connect(listener, &at)?;
    let row = rows.stop()?.rows()?;
    let row = only(&row, "accept", session.port)?;
    ensure!(row["pid"].is_null() && row["accept_queue"] == 1, "{row}");
    let row = summary.stop()?.rows()?;
    ensure!(
        only(&row, "listener", session.port)?["pid"] == worker,
        "{row:?}"
    );
    let row = states.stop()?.rows()?;
    ensure!(state(&row, "LISTEN")?["most_pid"] == worker, "{row:?}");
    Ok(())
}

/// The commands start after the first process has exited: the child is known.
fn inherited_listener_scanned(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let worker = scene.s.daemonise()?;
    known(scene, listener, &at, worker)
}

/// Go's servers listen so. Clients may be of either kind.
fn mptcp_listener_scanned(scene: &mut Scene, host: &str) -> Result<()> {
    missing::needs_mptcp()?;
    let listener = scene.s.number(&format!("socket {} mptcp", family(host)))?;
    scene.s.run(&format!("bind {listener} {host}"))?;
    scene.s.run(&format!("listen {listener} 16"))?;
    let at = scene.s.run(&format!("local {listener}"))?;
    let server = scene.s.pid();
    known(scene, listener, &at, server)
}

fn family(host: &str) -> u8 {
    if host.starts_with('[') { 6 } else { 4 }
}

/// A listener from before the start: rows, filter, queue, summaries; and of its sessions, one that nobody accepts.
fn known(scene: &mut Scene, listener: u64, at: &str, owner: u32) -> Result<()> {
    let pid = owner.to_string();
    let rows = scene.watch("tcpaccept", &["-p", &pid])?;
    let summary = scene.watch("tcpaccept", &["--summary"])?;
    let states = scene.watch("tcpstates", &["--summary"])?;
    let resets = scene.watch("tcpreset", &["-p", &pid])?;
    let lives = scene.watch("tcplife", &["-p", &pid])?;
    let session = scene.connect(listener, at)?;
    let row = summary.stop()?.rows()?;
    ensure!(
        only(&row, "listener", session.port)?["pid"] == owner,
        "{row:?}"
    );
    let row = states.stop()?.rows()?;
    let listen = state(&row, "LISTEN")?;
    ensure!(listen["now"] == 1 && listen["most_pid"] == owner, "{row:?}");
    let unaccepted = scene.c.open(at)?;
    scene.c.run(&format!("connect {unaccepted} {at}"))?;
    scene.c.run(&format!("send {unaccepted} 10"))?;
    scene.c.run(&format!("drained {unaccepted}"))?;
    scene.s.run(&format!("close {listener}"))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.net.b.quiet()?;
    let rows = rows.stop()?.rows()?;
    let told = |row: &Value| {
        row["pid"] == owner && row["pid_source"] == "listener" && row["accept_queue"] == 1
    };
    ensure!(rows.len() == 2 && rows.iter().all(told), "{rows:?}");
    let rows = resets.stop()?.rows()?;
    ensure!(
        rows.iter().any(|row| row["direction"] == "sent"),
        "a reset of {owner}: {rows:?}"
    );
    let rows = lives.stop()?.rows()?;
    ensure!(rows.len() == 2, "sessions of {owner}: {rows:?}");
    Ok(())
}

/// A connection of MPTCP that is open at the start.
fn mptcp_client_scanned(scene: &mut Scene, host: &str) -> Result<()> {
    missing::needs_mptcp()?;
    let listener = scene.s.number(&format!("socket {} mptcp", family(host)))?;
    scene.s.run(&format!("bind {listener} {host}"))?;
    scene.s.run(&format!("listen {listener} 16"))?;
    let at = scene.s.run(&format!("local {listener}"))?;
    let c = scene.c.number(&format!("socket {} mptcp", family(host)))?;
    scene.c.run(&format!("connect {c} {at}"))?;
    let s = scene.s.number(&format!("accept {listener}"))?;
    scene.c.run(&format!("send {c} 100"))?;
    scene.s.run(&format!("recv {s} 100"))?;
    // Who has it, too, is not whose it is.
    scene.c.fork_below()?;
    scene.s.fork_below()?;
    let active = scene.watch("tcplife", &["--active"])?;
    let rows = active.stop()?.rows()?;
    let port: u64 = at.rsplit_once(':').context("no port")?.1.parse()?;
    let client = rows.iter().find(|row| row["rport"] == port);
    let server = rows.iter().find(|row| row["lport"] == port);
    ensure!(
        client.is_some_and(|row| row["pid"] == scene.c.pid())
            && server.is_some_and(|row| row["pid"] == scene.s.pid()),
        "{rows:?}"
    );
    Ok(())
}
