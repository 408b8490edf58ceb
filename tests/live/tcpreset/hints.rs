// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints of tcpreset where the reason alone would mislead.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::{
    missing::needs_reset_reasons,
    net::Side,
    pair::{Pair, filter, pass, trials},
};

/// `setsockopt` number that libc has no name for.
const TCP_REPAIR: i32 = 19;

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpreset", &[], name, play);
    [
        all("hint::accept_queue_full", accept_queue_full),
        all("hint::late_segment", late_segment),
        all("hint::no_listener", no_listener),
        all("hint::address_translation", address_translation),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A segment with an ACK out of nothing, from the client's side: where from.
fn stray(pair: &mut Pair, from: Side, to: &str) -> Result<SocketAddr> {
    let agent = match from {
        Side::A => &mut pair.c,
        Side::B => &mut pair.s,
    };
    let fd = agent.open(to)?;
    agent.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    agent.run(&format!("connect {fd} {to}"))?;
    agent.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 0)?;
    let local = agent.run(&format!("local {fd}"))?.parse()?;
    agent.attempt(&format!("send {fd} 10"))?.ok();
    agent.run(&format!("close {fd}"))?;
    Ok(local)
}

/// The row that the server's side sent to this port.
fn answer(pair: &Pair, rport: u16) -> Result<Value> {
    let netns = pair.net.b.inode;
    pair.row("an answer", |row| {
        row["rport"] == rport && row["netns"] == netns && row["direction"] == "sent"
    })
}

/// Of two connections that become ready one finds room; the other one is reset. A stray segment is not taken for that.
fn accept_queue_full(mut pair: Pair, host: &str) -> Result<()> {
    pair.net.b.sysctl("ipv4/tcp_abort_on_overflow", "1")?;
    let (listener, at) = pair.s.listen(host)?;
    pair.s.run(&format!("listen {listener} 2"))?;
    let early = stray(&mut pair, Side::A, &at)?;
    ensure!(answer(&pair, early.port())?["hint"].is_null());
    for _ in 0..2 {
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("connect {fd} {at}"))?;
    }
    filter(
        &pair.net.b,
        "prerouting",
        "tcp flags & (syn | ack) == ack drop",
    )?;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("connect {fd} {at}"))?;
        clients.push(fd);
    }
    pass(&pair.net.b)?;
    for fd in &clients {
        pair.c.run(&format!("send {fd} 10"))?;
    }
    pair.c
        .fails(&format!("recv {} 1", clients[1]), libc::ECONNRESET)?;
    let (lport, _) = pair.ports(clients[1]).unwrap_or_default();
    let row = pair.row("a reset by the listener", |row| {
        row["state"] == "LISTEN" && !row["hint"].is_null()
    })?;
    ensure!(
        row["hint"] == "accept_queue_full"
            && row["accept_queue"] == 3
            && row["accept_queue_max"] == 2
            && (lport == 0 || row["rport"] == lport),
        "{row}"
    );
    if crate::tcpreset::reasons() {
        // The queue is as full as it was, and yet the reason is another.
        let late = stray(&mut pair, Side::A, &at)?;
        let row = answer(&pair, late.port())?;
        ensure!(row["hint"].is_null() && row["accept_queue"] == 3, "{row}");
    }
    Ok(())
}

/// What the client had sent before it heard of the reset: a listener answers it, and where there is none, the host.
fn late_segment(mut pair: Pair, host: &str) -> Result<()> {
    for listens in [true, false] {
        if !listens {
            needs_reset_reasons()?;
        }
        let (listener, at) = pair.s.listen(host)?;
        let (c, s) = pair.connect(&at, listener)?;
        if !listens {
            pair.s.run(&format!("close {listener}"))?;
        }
        let (lport, _) = pair.ports(c)?;
        pair.net.hold(Side::A)?;
        pair.c.run(&format!("send {c} 10"))?;
        pair.s.run(&format!("linger0 {s}"))?;
        pair.s.run(&format!("close {s}"))?;
        pair.net.release(Side::A)?;
        let netns = pair.net.b.inode;
        let state = if listens {
            Value::from("LISTEN")
        } else {
            Value::Null
        };
        let row = pair.row("an answer to the late segment", |row| {
            row["rport"] == lport && row["netns"] == netns && row["state"] == state
        })?;
        ensure!(row["hint"] == "late_segment", "{row}");
        let first = pair.row("the reset before it", |row| {
            row["rport"] == lport && row["netns"] == netns && row["state"] == "ESTABLISHED"
        })?;
        ensure!(first["hint"].is_null(), "{first}");
    }
    Ok(())
}

/// A SYN, and a segment that is none.
fn no_listener(mut pair: Pair, host: &str) -> Result<()> {
    needs_reset_reasons()?;
    let (listener, at) = pair.s.listen(host)?;
    pair.s.run(&format!("close {listener}"))?;
    let fd = pair.c.open(&at)?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
    let netns = pair.net.b.inode;
    let row = pair.row("an answer to a SYN", |row| row["netns"] == netns)?;
    ensure!(
        row["trigger_flags"] == "SYN" && row["hint"] == "no_listener",
        "{row}"
    );
    let other = stray(&mut pair, Side::A, &at)?;
    ensure!(answer(&pair, other.port())?["hint"].is_null());
    Ok(())
}

/// A packet with an address that the client does not know, and a reset of the connection that it was of; in both orders.
fn address_translation(mut pair: Pair, host: &str) -> Result<()> {
    needs_reset_reasons()?;
    for stray_first in [true, false] {
        let (c, s) = pair.session(host)?;
        let local = pair.c.run(&format!("local {c}"))?;
        let lport = local.parse::<SocketAddr>()?.port();
        let mine = pair.net.a.inode;
        if stray_first {
            stray(&mut pair, Side::B, &local)?;
        }
        pair.s.run(&format!("linger0 {s}"))?;
        pair.s.run(&format!("close {s}"))?;
        pair.c.fails(&format!("recv {c} 1"), libc::ECONNRESET)?;
        let received = pair.row("a reset received", |row| {
            row["lport"] == lport && row["netns"] == mine && row["direction"] == "received"
        })?;
        if !stray_first {
            stray(&mut pair, Side::B, &local)?;
        }
        let nobodys = pair.row("an answer to the stray", |row| {
            row["lport"] == lport && row["netns"] == mine && row["state"].is_null()
        })?;
        let (first, second) = match stray_first {
            true => (nobodys, received),
            false => (received, nobodys),
        };
        ensure!(
            first["hint"].is_null() && second["hint"] == "address_translation",
            "{first} {second}"
        );
        pair.c.run(&format!("close {c}"))?;
    }
    Ok(())
}
