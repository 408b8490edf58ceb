// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens that fail, are given up, or wait for an answer.

use std::{net::SocketAddr, thread};

use anyhow::{Result, ensure};
use nix::libc;
use serde_json::json;

use super::{PENDING, Play, near, server_at};
use crate::wait::{self, PATIENCE};

pub fn refused(play: &mut Play, host: &str) -> Result<()> {
    play.fails(host, libc::ECONNREFUSED, "refused")
}

pub fn refused_by_icmp(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("reject with icmpx type port-unreachable")?;
    play.fails(host, libc::ECONNREFUSED, "refused")
}

pub fn unreachable(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("reject with icmpx type host-unreachable")?;
    play.fails(host, libc::EHOSTUNREACH, "unreachable")
}

/// No way out of the host: connect() fails before it begins, and there is no row.
pub fn no_route(play: &mut Play, host: &str) -> Result<()> {
    let to = if host.starts_with('[') {
        "[fd99::1]:80"
    } else {
        "10.99.0.1:80"
    };
    let fd = play.scene.c.open(to)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ENETUNREACH)?;
    play.scene.c.run(&format!("close {fd}")).map(drop)
}

pub fn timeout(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("drop")?;
    let (fd, row, to) = near(play, host)?;
    play.scene
        .c
        .option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    play.scene.c.run(&format!("close {fd}"))?;
    play.want(
        &row,
        json!({"outcome": "timeout", "errno": libc::ETIMEDOUT}),
    );
    Ok(())
}

fn syns_again(play: &Play) -> Result<u64> {
    Ok(play.scene.net.a.counters()?["TcpExt.TCPSynRetrans"])
}

/// A black hole is visible at once, and again when the kernel gives up.
pub fn pending_then_timeout(play: &mut Play, host: &str) -> Result<()> {
    play.scene.net.a.sysctl("ipv4/tcp_syn_retries", "1")?;
    play.on_arrival("drop")?;
    let before = syns_again(play)?;
    let (fd, row, to) = near(play, host)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    play.scene.c.run(&format!("close {fd}"))?;
    let again = syns_again(play)? - before;
    ensure!(again > 0, "the SYN was not sent again");
    play.want(&row, json!({"event": "pending", "outcome": "pending"}));
    play.want(
        &row,
        json!({"outcome": "timeout", "errno": libc::ETIMEDOUT, "syn_retrans": again}),
    );
    Ok(())
}

/// The client does not want to wait any longer: once before the open is shown as pending, once after.
pub fn abandoned(play: &mut Play, host: &str) -> Result<()> {
    let (soon, row) = play.unanswered(host)?;
    play.scene.c.run(&format!("close {soon}"))?;
    play.want(&row, json!({"outcome": "aborted"}));
    let (late, row) = play.unanswered(host)?;
    // Twice the time, because that is what the test is about.
    thread::sleep(PENDING * 2);
    play.scene.c.run(&format!("close {late}"))?;
    play.want(&row, json!({"event": "pending", "outcome": "pending"}));
    play.want(&row, json!({"outcome": "aborted"}));
    Ok(())
}

/// connect() to AF_UNSPEC ends the open; the socket can be used again, and its second open is another row.
pub fn disconnected(play: &mut Play, host: &str) -> Result<()> {
    let (fd, row) = play.unanswered(host)?;
    play.scene.c.run(&format!("disconnect {fd}"))?;
    play.want(&row, json!({"outcome": "aborted"}));
    let again = server_at(host, 1);
    play.scene
        .c
        .fails(&format!("connect {fd} {again}"), libc::EINPROGRESS)?;
    wait::until("the refusal", PATIENCE, || {
        Ok((play.scene.c.info(fd)?["state"] == 7).then_some(()))
    })?;
    play.scene.c.run(&format!("close {fd}"))?;
    let (family, raddr) = (row["family"].clone(), row["raddr"].clone());
    play.wants.push(json!({
        "netns": row["netns"], "cookie": row["cookie"], "rport": 1, "outcome": "refused",
        "errno": libc::ECONNREFUSED, "family": family, "raddr": raddr,
    }));
    Ok(())
}

/// Every port to this destination is in use: no SYN leaves, and the row says why.
pub fn ports_exhausted(play: &mut Play, host: &str) -> Result<()> {
    play.scene
        .net
        .a
        .sysctl("ipv4/ip_local_port_range", "50000 50001")?;
    let (listener, at) = play.scene.s.listen(host)?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let fd = play.scene.c.open(&at)?;
        play.scene.c.run(&format!("connect {fd} {at}"))?;
        let local: SocketAddr = play.scene.c.run(&format!("local {fd}"))?.parse()?;
        let cookie = play.scene.c.number(&format!("cookie {fd}"))?;
        play.wants.push(json!({"cookie": cookie, "lport": local.port(), "outcome": "established", "syn_sent": true}));
        open.push(fd);
    }
    let fd = play.scene.c.open(&at)?;
    let cookie = play.scene.c.number(&format!("cookie {fd}"))?;
    play.scene
        .c
        .fails(&format!("connect {fd} {at}"), libc::EADDRNOTAVAIL)?;
    play.wants.push(json!({
        "cookie": cookie, "lport": 0, "outcome": "no_port", "errno": libc::EADDRNOTAVAIL, "syn_sent": false,
        "pid": play.scene.c.pid(),
    }));
    open.push(fd);
    for fd in open {
        play.scene.c.run(&format!("linger0 {fd}"))?;
        play.scene.c.run(&format!("close {fd}"))?;
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}
