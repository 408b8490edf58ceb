// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that arrive, and that no socket takes.

use std::fs;

use anyhow::{Result, ensure};
use nix::libc::{self, SO_RCVBUF, SOL_SOCKET};
use serde_json::json;

use super::{agrees, gives_sockets, of, owned, session, settled, told};
use crate::{
    missing,
    net::{Netns, Side},
    pair::Pair,
    wait::{self, PATIENCE},
};

/// Handshakes that wait for the client's ACK.
fn half_open(ns: &Netns) -> Result<usize> {
    let tables = ns.inside(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
        Ok(v4 + &fs::read_to_string("/proc/thread-self/net/tcp6")?)
    })?;
    let is = |line: &&str| line.split_whitespace().nth(3) == Some("03");
    Ok(tables.lines().filter(is).count())
}

/// Two handshakes at once, for a listener that has room for one more connection: the other one's ACK is thrown away.
pub fn listen_overflow(mut pair: Pair, host: &str) -> Result<()> {
    let listener = pair.s.open(host)?;
    pair.s.run(&format!("bind {listener} {host}"))?;
    pair.s.run(&format!("listen {listener} 2"))?;
    let at = pair.s.run(&format!("local {listener}"))?;
    for _ in 0..2 {
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("connect {fd} {at}"))?;
    }
    pair.net.hold(Side::B)?;
    for _ in 0..2 {
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("nonblock {fd}"))?;
        pair.c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    }
    wait::until("two handshakes", PATIENCE, || {
        Ok((half_open(&pair.net.b)? == 2).then_some(()))
    })?;
    pair.net.release(Side::B)?;
    let name = "TCP_LISTEN_OVERFLOW";
    let counted = || Ok(pair.net.b.counters()?["TcpExt.ListenOverflows"]);
    let rows = settled(&pair, &pair.net.b, name, 1, counted)?;
    let drops = pair.net.b.counters()?["TcpExt.ListenDrops"];
    ensure!(drops >= rows.len() as u64, "{drops} {rows:#?}");
    for row in &rows {
        agrees(
            row,
            &json!({"direction": "received", "flags": "ACK", "len_bytes": 0}),
        )?;
        ensure!(at.ends_with(&format!(":{}", row["lport"])), "{at} {row}");
        if gives_sockets() {
            agrees(
                row,
                &json!({"pid": pair.s.pid(), "pid_source": "listener", "state": "LISTEN"}),
            )?;
        }
    }
    pair.finish().map(drop)
}

/// Nobody listens.
pub fn no_socket(mut pair: Pair, host: &str) -> Result<()> {
    let at = host.replace(":0", ":9");
    for _ in 0..2 {
        let fd = pair.c.open(&at)?;
        pair.c
            .fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
    }
    let counted = || Ok(pair.net.b.counters()?["Tcp.OutRsts"]);
    let rows = settled(&pair, &pair.net.b, "NO_SOCKET", 2, counted)?;
    for row in &rows {
        agrees(
            row,
            &json!({"direction": "received", "flags": "SYN", "lport": 9, "pid": null, "uid": null, "state": null,
                "ifname": "v0"}),
        )?;
    }
    let (rows, _) = pair.finish()?;
    ensure!(rows.len() == 2, "the RSTs are harmless: {rows:#?}");
    Ok(())
}

/// The reader holds the socket, and what arrives meanwhile finds no room in its backlog.
pub fn backlog(mut pair: Pair, host: &str) -> Result<()> {
    // It has neither a device nor a route any more: only its socket tells the namespace.
    missing::needs_drop_sockets()?;
    let to = host.trim_end_matches(":0").trim_matches(['[', ']']);
    pair.net
        .a
        .ip(&format!("route add {to} dev v0 initcwnd 400"))?;
    let listener = pair.s.open(host)?;
    pair.s.option(listener, SOL_SOCKET, SO_RCVBUF, 4096)?;
    pair.s.run(&format!("bind {listener} {host}"))?;
    pair.s.run(&format!("listen {listener} 1"))?;
    let at = pair.s.run(&format!("local {listener}"))?;
    let (c, s) = pair.connect(&at, listener)?;
    pair.c.option(c, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    pair.c.run(&format!("dribble {c} 1 1"))?;
    pair.s.run(&format!("peek {s}"))?;
    pair.s.run(&format!("hold {s}"))?;
    pair.c.run(&format!("dribble {c} 1 400"))?;
    let counted = || Ok(pair.net.b.counters()?["TcpExt.TCPBacklogDrop"]);
    let rows = settled(&pair, &pair.net.b, "SOCKET_BACKLOG", 1, counted)?;
    let owned = told(owned(&mut pair, c, true)?);
    for row in &rows {
        agrees(row, &owned)?;
        agrees(row, &json!({"direction": "received", "len_bytes": 1}))?;
    }
    pair.finish().map(drop)
}

/// A filter of the socket's own.
pub fn socket_filter(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = session(&mut pair, host)?;
    pair.s.run(&format!("drop {s}"))?;
    for _ in 0..3 {
        pair.c.run(&format!("send {c} 10"))?;
    }
    // Nothing but the rows counts them.
    let name = "SOCKET_FILTER";
    let counted = || Ok(of(&pair.tool.seen()?, &pair.net.b, name).len() as u64);
    let rows = settled(&pair, &pair.net.b, name, 3, counted)?;
    let owned = told(owned(&mut pair, c, true)?);
    for row in &rows {
        agrees(row, &owned)?;
        agrees(row, &json!({"direction": "received", "len_bytes": 10}))?;
    }
    pair.finish().map(drop)
}
