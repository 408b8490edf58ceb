// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that pass from process to process.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{Scene, is_of, only, scene, state};
use crate::{
    missing,
    scratch::Scratch,
    tool::{self, Tool},
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("first_reader_exited", first_reader_exited),
        scene("daemonised_client", daemonised_client),
        scene("daemonised_client_scanned", daemonised_client_scanned),
        scene("inherited_by_lower_pid", inherited_by_lower_pid),
        scene("passed_and_idle", passed_and_idle),
        scene("passed_and_read", passed_and_read),
        scene("closed_by_another", closed_by_another),
        scene("shut_down_by_another", shut_down_by_another),
        scene("renamed", renamed),
        scene("reset_after_exit", reset_after_exit),
        scene("visited", visited),
    ]
}

/// A child reads the greeting and ends, as sshd's does before authentication; its parent has the session.
fn first_reader_exited(scene: &mut Scene, host: &str) -> Result<()> {
    let parent = scene.s.pid();
    let watch = |scene: &Scene, name, args: &[&str]| scene.watch(name, args);
    let pid = parent.to_string();
    let life = watch(scene, "tcplife", &["-p", &pid])?;
    let info = watch(scene, "tcpinfo", &["-p", &pid])?;
    let active = watch(scene, "tcplife", &["--active"])?;
    let states = watch(scene, "tcpstates", &["--summary", "--old", "ESTABLISHED"])?;
    let session = scene.session(host)?;
    scene.s.fork(&[])?;
    scene.s.comm("preauth")?;
    scene.send(&session, 10)?;
    scene.s.exit_child()?;

    is_of(
        only(&active.stop()?.rows()?, "active", session.port)?,
        parent,
        "server",
    )?;
    let rows = states.stop()?.rows()?;
    let row = state(&rows, "ESTABLISHED")?;
    let clients = scene.c.pid();
    let owners = [row["most_pid"].clone(), row["oldest_pid"].clone()];
    ensure!(
        owners.iter().all(|p| *p == parent || *p == clients),
        "{row}"
    );

    scene.send(&session, 1000)?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.net.quiet()?;
    is_of(
        only(&life.stop()?.rows()?, "session", session.port)?,
        parent,
        "server",
    )?;
    is_of(
        only(&info.stop()?.rows()?, "connection", session.port)?,
        parent,
        "server",
    )
}

/// Connects, forks, ends: the child has the connection, and keeps it in CLOSE_WAIT.
fn daemonised_client(scene: &mut Scene, host: &str) -> Result<()> {
    let changes = scene.watch("tcpstates", &["--new", "CLOSE_WAIT"])?;
    let life = scene.watch("tcplife", &[])?;
    daemonise(scene, host, || Ok(()))?;
    // Nobody is blamed for the peer's FIN but who has the socket.
    let row = changes.stop()?.rows()?;
    ensure!(row.len() == 1, "{row:?}");
    ensure!(row[0]["pid"].is_null(), "{row:?}");
    let daemon = scene.c.pid();
    let rows = life.stop()?.rows()?;
    let row = rows.iter().find(|row| row["pid"] == daemon);
    ensure!(
        row.is_some_and(|row| row["comm"] == "daemon" && row["close_reason"] == "fin_remote"),
        "{rows:?}"
    );
    Ok(())
}

/// Likewise, but the commands start after the first process has exited.
fn daemonised_client_scanned(scene: &mut Scene, host: &str) -> Result<()> {
    let inodes = scene.net.inodes();
    let mut changes = None;
    daemonise(scene, host, || {
        let args = ["--json", "--netns", &inodes, "--new", "CLOSE_WAIT"];
        changes = Some(Tool::start("tcpstates", &args)?);
        Ok(())
    })?;
    let daemon = scene.c.pid();
    let rows = changes.expect("started").stop()?.rows()?;
    ensure!(rows.len() == 1 && rows[0]["pid"] == daemon, "{rows:?}");
    Ok(())
}

/// PIDs have come around: a child that has got all descriptors, and does nothing with them, has the lower one.
fn inherited_by_lower_pid(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let session = scene.connect(listener, &at)?;
    for agent in [&mut scene.c, &mut scene.s] {
        let child = agent.fork_below()?;
        ensure!(child < agent.pid(), "{child}, {}", agent.pid());
    }
    let (client, server) = (scene.c.pid(), scene.s.pid());
    for features in ["", "btf"] {
        let rows = look(scene, features, "tcpaccept", "--listeners")?;
        let row = rows.iter().find(|row| row["lport"] == session.port);
        is_of(row.context("no row")?, server, "server").context(features)?;
    }
    missing::needs_programs()?;
    for features in ["", "table", "map_elements"] {
        let rows = look(scene, features, "tcplife", "--active")?;
        let row = rows.iter().find(|row| row["rport"] == session.port);
        is_of(row.context("no row")?, client, "client").context(features)?;
    }
    Ok(())
}

fn look(scene: &Scene, features: &str, tool: &str, how: &str) -> Result<Vec<Value>> {
    let args = ["--json", "--netns", &scene.net.inodes(), how, "-d", "1ms"];
    tool::run_without(features, tool, &args)?.rows()
}

/// `orphaned`: after the launcher has exited. On return the connection is over.
fn daemonise(
    scene: &mut Scene,
    host: &str,
    mut orphaned: impl FnMut() -> Result<()>,
) -> Result<()> {
    let session = scene.session(host)?;
    let launcher = scene.c.pid();
    let daemon = scene.c.daemonise()?;
    scene.c.comm("daemon")?;
    ensure!(daemon != launcher);
    orphaned()?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.c.run(&format!("peek {}", session.c))?;
    let states = scene.watch("tcpstates", &["--summary", "--old", "CLOSE_WAIT"])?;
    let active = scene.watch("tcplife", &["--active"])?;
    let rows = states.stop()?.rows()?;
    let row = state(&rows, "CLOSE_WAIT")?;
    ensure!(
        row["most_pid"] == daemon && row["oldest_pid"] == daemon,
        "{row}"
    );
    let rows = active.stop()?.rows()?;
    let row = rows.iter().find(|row| row["state"] == "CLOSE_WAIT");
    ensure!(row.is_some_and(|row| row["pid"] == daemon), "{rows:?}");
    scene.c.run(&format!("close {}", session.c))?;
    scene.net.quiet()
}

/// Accepted, read from, and handed over with SCM_RIGHTS: the receiver has not touched it, but has it.
fn passed_and_idle(scene: &mut Scene, host: &str) -> Result<()> {
    let active = scene.watch("tcplife", &["--active"])?;
    let (session, receiver, _) = pass(scene, host)?;
    is_of(
        only(&active.stop()?.rows()?, "active", session.port)?,
        receiver.pid(),
        "receiver",
    )
}

/// The receiver reads: events are its from then on, though the first one lives.
fn passed_and_read(scene: &mut Scene, host: &str) -> Result<()> {
    let reads = scene.watch("tcprcvspace", &[])?;
    let (session, mut receiver, fd) = pass(scene, host)?;
    scene.c.run(&format!("send {} 1000", session.c))?;
    receiver.run(&format!("recv {fd} 1000"))?;
    let pid = receiver.pid();
    let resets = scene.watch("tcpreset", &[])?;
    scene.c.run(&format!("linger0 {}", session.c))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.net.b.quiet()?;
    let rows = reads.stop()?.rows()?;
    let of_server: Vec<_> = rows.iter().filter(|r| r["lport"] == session.port).collect();
    ensure!(
        of_server.last().is_some_and(|row| row["pid"] == pid),
        "{rows:?}"
    );
    let rows = resets.stop()?.rows()?;
    let received = rows.iter().find(|row| row["direction"] == "received");
    ensure!(received.is_some_and(|row| row["pid"] == pid), "{rows:?}");
    Ok(())
}

/// A session that the server has read from, and given away; its new owner and its descriptor there.
fn pass(scene: &mut Scene, host: &str) -> Result<(super::Session, crate::peer::Agent, u64)> {
    let mut receiver = scene.net.b.agent()?;
    receiver.comm("receiver")?;
    let mailbox = Scratch::path("mailbox");
    receiver.run(&format!("mailbox {}", mailbox.text()))?;
    let session = scene.session(host)?;
    scene.send(&session, 10)?;
    scene
        .s
        .run(&format!("give {} {}", session.s, mailbox.text()))?;
    scene.s.run(&format!("close {}", session.s))?;
    let fd = receiver.number("take")?;
    Ok((session, receiver, fd))
}

/// A child closes what its parent has read from. The one that closes is always known.
fn closed_by_another(scene: &mut Scene, host: &str) -> Result<()> {
    let session = scene.session(host)?;
    scene.send(&session, 10)?;
    let child = scene.s.fork(&[session.s])?;
    scene.s.comm("child")?;
    let pid = child.to_string();
    let life = scene.watch("tcplife", &["-p", &pid])?;
    let comm = scene.watch("tcplife", &["--comm", "server"])?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.s.exit_child()?;
    scene.c.run(&format!("eof {}", session.c))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.net.quiet()?;
    is_of(
        only(&life.stop()?.rows()?, "session", session.port)?,
        child,
        "child",
    )?;
    ensure!(comm.stop()?.rows()?.is_empty(), "no longer the server's");
    Ok(())
}

/// The parent shuts down, the child closes when the peer has finished.
fn shut_down_by_another(scene: &mut Scene, host: &str) -> Result<()> {
    let life = scene.watch("tcplife", &[])?;
    let session = scene.session(host)?;
    let (listener, at) = scene.s.listen(host)?;
    let second = scene.connect(listener, &at)?;
    scene.s.run(&format!("shutdown {} wr", session.s))?;
    scene.s.run(&format!("shutdown {} wr", second.s))?;
    let parent = scene.s.pid();
    let child = scene.s.fork(&[session.s])?;
    scene.s.comm("child")?;
    scene.c.run(&format!("eof {}", session.c))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.s.exit_child()?;
    scene.c.run(&format!("close {}", second.c))?;
    scene.s.run(&format!("close {}", second.s))?;
    scene.net.quiet()?;
    let rows = life.stop()?.rows()?;
    let row = only(&rows, "session", session.port)?;
    // The peer's FIN may cause the change to CLOSE before the child acts.
    ensure!(row["pid"] == child || row["pid"] == parent, "{row}");
    is_of(only(&rows, "session", second.port)?, parent, "server")
}

/// After exec the same process has another name, before it does anything.
fn renamed(scene: &mut Scene, host: &str) -> Result<()> {
    let active = scene.watch("tcplife", &["--active"])?;
    let session = scene.session(host)?;
    scene.send(&session, 10)?;
    scene.s.run(&format!("exec renamed {}", session.s))?;
    let pid = scene.s.pid();
    is_of(
        only(&active.stop()?.rows()?, "active", session.port)?,
        pid,
        "renamed",
    )
}

/// The first process has exited, and the peer resets: no exited process is named.
fn reset_after_exit(scene: &mut Scene, host: &str) -> Result<()> {
    let resets = scene.watch("tcpreset", &[])?;
    let life = scene.watch("tcplife", &[])?;
    let session = scene.session(host)?;
    scene.s.fork(&[])?;
    let child = scene.s.pid();
    scene.send(&session, 10)?;
    scene.s.exit_child()?;
    scene.c.run(&format!("linger0 {}", session.c))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.net.b.quiet()?;
    let rows = [resets.stop()?.rows()?, life.stop()?.rows()?].concat();
    let of_server: Vec<_> = rows.iter().filter(|r| r["lport"] == session.port).collect();
    ensure!(of_server.len() == 2, "{rows:?}");
    ensure!(of_server.iter().all(|row| row["pid"] != child), "{rows:?}");
    Ok(())
}

/// A command that visits sockets holds their locks for moments; it never is their owner.
fn visited(scene: &mut Scene, host: &str) -> Result<()> {
    let active = scene.watch("tcplife", &["--active=200ms"])?;
    let session = scene.session(host)?;
    wait::until("some visits", PATIENCE, || {
        scene.send(&session, 20_000)?;
        Ok((active.seen()?.len() >= 6).then_some(()))
    })?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.net.quiet()?;
    let ours = [scene.c.pid(), scene.s.pid()];
    let rows = active.stop()?.rows()?;
    let wrong = rows
        .iter()
        .find(|row| !row["pid"].is_null() && ours.iter().all(|pid| row["pid"] != *pid));
    ensure!(wrong.is_none(), "{wrong:?}");
    Ok(())
}
