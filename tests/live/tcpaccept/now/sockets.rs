// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listeners with nothing wrong, and those of every kind.

use std::{fs, net::TcpListener};

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::json;

use super::{is, knock, listen, port, rows, until_counted, watch};
use crate::{missing, net::Netns, scene::Scene, scratch::Scratch, tool};

/// What comes is accepted at once.
pub fn healthy(scene: &mut Scene, host: &str) -> Result<()> {
    let listener = listen(&mut scene.s, host, 16)?;
    let idle = listen(&mut scene.s, host, 16)?;
    let tool = watch(scene, &[])?;
    for _ in 0..3 {
        scene.connect(&listener.at, listener.fd)?;
    }
    let rows = rows(scene, tool)?;
    is(
        &rows[&listener.cookie],
        json!({"verdict": null, "accept_queue": 0, "accepts": 3, "syn_queue": 0, "syn_queue_max": 16,
               "fastopen_queue": null, "fastopen_queue_max": null}),
    )?;
    is(
        &rows[&idle.cookie],
        json!({"verdict": null, "accepts": 0, "accept_queue_high": 0}),
    )
}

/// Listeners of one address know of each other.
pub fn group(scene: &mut Scene, host: &str) -> Result<()> {
    let first = listen(&mut scene.s, host, 16)?;
    let mut other = scene.net.b.agent()?;
    let second = listen(&mut other, &first.at, 16)?;
    let alone = scene.s.listen(host)?.0;
    let alone = scene.s.number(&format!("cookie {alone}"))?;
    let tool = watch(scene, &[])?;
    let rows = rows(scene, tool)?;
    let lowest = first.cookie.min(second.cookie);
    for (listener, pid) in [(&first, scene.s.pid()), (&second, other.pid())] {
        let fields = json!({"reuseport": 2, "reuseport_group": lowest, "pid": pid});
        is(&rows[&listener.cookie], fields)?;
    }
    is(
        &rows[&alone],
        json!({"reuseport": null, "reuseport_group": null}),
    )
}

pub fn fast_open(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.b.sysctl("ipv4/tcp_fastopen", "3")?;
    let listener = listen(&mut scene.s, host, 16)?;
    scene
        .s
        .option(listener.fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 7)?;
    let tool = watch(scene, &[])?;
    let row = &rows(scene, tool)?[&listener.cookie];
    is(
        row,
        json!({"fastopen_queue": 0, "fastopen_queue_max": 7, "verdict": null}),
    )
}

/// An MPTCP listener is its TCP listener, which has the queue.
pub fn mptcp(scene: &mut Scene, host: &str) -> Result<()> {
    missing::needs_mptcp()?;
    let family = if host.starts_with('[') { 6 } else { 4 };
    let fd = scene.s.number(&format!("socket {family} mptcp"))?;
    scene.s.run(&format!("bind {fd} {host}"))?;
    scene.s.run(&format!("listen {fd} 16"))?;
    let at = scene.s.run(&format!("local {fd}"))?;
    knock(scene, &at, 1)?;
    until_counted(&scene.net.b, "Tcp.PassiveOpens", 1)?;
    let tool = watch(scene, &[])?;
    let rows = rows(scene, tool)?;
    let row = rows.values().next().context("a row")?;
    is(
        row,
        json!({"verdict": "not accepting", "accept_queue": 1, "accept_queue_max": 16, "pid": scene.s.pid(), "lport": port(&at)?}),
    )
}

/// It is in a message that nobody has received, when the command starts: no process has it open.
pub fn in_nobodys_hands(scene: &mut Scene, host: &str) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    scene.s.fork(&[])?;
    let listener = listen(&mut scene.s, host, 16)?;
    scene
        .s
        .run(&format!("give {} {}", listener.fd, mailbox.text()))?;
    scene.s.exit_child()?;
    knock(scene, &listener.at, 1)?;
    until_counted(&scene.net.b, "Tcp.PassiveOpens", 1)?;
    for args in [&[][..], &["--no-scan"]] {
        let tool = watch(scene, args)?;
        let row = &rows(scene, tool)?[&listener.cookie];
        is(
            row,
            json!({"verdict": "not accepting", "accept_queue": 1, "pid": null, "comm": null}),
        )?;
    }
    let heir = scene.s.number("take")?;
    let tool = watch(scene, &[])?;
    let row = &rows(scene, tool)?[&listener.cookie];
    is(row, json!({"pid": scene.s.pid(), "comm": "server"}))?;
    scene.s.run(&format!("close {heir}")).map(drop)
}

/// Its namespace has no process and no name any more: only a process elsewhere has it open.
pub fn in_dead_namespace(_: &mut Scene, host: &str) -> Result<()> {
    missing::needs_map_elements()?;
    let at = if host.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let ns = Netns::new()?;
    let listener = ns.inside(|| Ok(TcpListener::bind(at)?))?;
    let inode = ns.inode.to_string();
    drop(ns);
    let args = ["--listeners", "-d", "100ms", "--json", "--netns", &inode];
    let rows = tool::run("tcpaccept", &args)?.rows()?;
    ensure!(rows.len() == 1, "{rows:#?}");
    let port = listener.local_addr()?.port();
    // Its number may be that of another test's child, which has the listener open until it runs a program.
    let comm = fs::read_to_string("/proc/self/comm")?;
    is(
        &rows[0],
        json!({"comm": comm.trim_end(), "lport": port, "verdict": null, "accept_queue": 0}),
    )
}

/// More than the kernel's iterators have room for at once: each listener has one row.
pub fn many(scene: &mut Scene, host: &str) -> Result<()> {
    let mut fds = Vec::new();
    for _ in 0..300 {
        fds.push(scene.s.listen(host)?.0);
    }
    let tool = watch(scene, &[])?;
    let gone = fds.split_off(290);
    for fd in gone {
        scene.s.run(&format!("close {fd}"))?;
    }
    ensure!(rows(scene, tool)?.len() == 290);
    Ok(())
}
