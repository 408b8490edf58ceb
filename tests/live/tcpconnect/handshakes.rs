// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens other than by SYN, SYN/ACK and ACK: simultaneous, fast open, none at all.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::libc;
use serde_json::{Value, json};

use super::{PORT, Play, client_at, server_at, unconnected};
use crate::{
    net::Side,
    wait::{self, PATIENCE},
};

/// Two sockets that connect to each other; the first one's SYN waits until the second one's is sent.
fn crossing(play: &mut Play, host: &str) -> Result<(u64, u64, Value, Value)> {
    let (c_at, s_at) = (client_at(host, 7777), server_at(host, 7777));
    let (c, c_row) = unconnected(&mut play.scene.c, &play.scene.net.a, &s_at, &c_at)?;
    let (s, s_row) = unconnected(&mut play.scene.s, &play.scene.net.b, &c_at, &s_at)?;
    play.scene.c.run(&format!("nonblock {c}"))?;
    play.scene.s.run(&format!("nonblock {s}"))?;
    play.scene.net.hold(Side::A)?;
    play.scene
        .c
        .fails(&format!("connect {c} {s_at}"), libc::EINPROGRESS)?;
    play.scene
        .s
        .fails(&format!("connect {s} {c_at}"), libc::EINPROGRESS)?;
    // The second SYN has come when the first socket is in SYN_RECV (3 in /proc/net/tcp and in tcp_info).
    wait::until("SYN_RECV", PATIENCE, || {
        Ok((play.scene.c.info(c)?["state"] == 3).then_some(()))
    })?;
    Ok((c, s, c_row, s_row))
}

/// Both ends open at once: two active opens, and no passive one.
pub fn simultaneous(play: &mut Play, host: &str) -> Result<()> {
    let passive = play.scene.net.a.counters()?["Tcp.PassiveOpens"];
    let (c, s, c_row, s_row) = crossing(play, host)?;
    play.scene.net.release(Side::A)?;
    wait::until("ESTABLISHED", PATIENCE, || {
        let both = play.scene.c.info(c)?["state"] == 1 && play.scene.s.info(s)?["state"] == 1;
        Ok(both.then_some(()))
    })?;
    play.close(c, s)?;
    play.want(&c_row, json!({"outcome": "established"}));
    play.want(&s_row, json!({"outcome": "established"}));
    ensure!(play.scene.net.a.counters()?["Tcp.PassiveOpens"] == passive);
    Ok(())
}

/// The other end has closed when the answer to its SYN arrives, and sends a reset.
pub fn reset(play: &mut Play, host: &str) -> Result<()> {
    let (c, s, c_row, s_row) = crossing(play, host)?;
    play.scene.s.run(&format!("close {s}"))?;
    play.scene.net.release(Side::A)?;
    wait::until("the reset", PATIENCE, || {
        Ok((play.scene.c.info(c)?["state"] == 7).then_some(()))
    })?;
    play.scene.c.run(&format!("close {c}"))?;
    play.want(
        &c_row,
        json!({"outcome": "reset", "errno": libc::ECONNRESET}),
    );
    play.want(&s_row, json!({"outcome": "aborted"}));
    Ok(())
}

fn fast_open_server(play: &mut Play, host: &str) -> Result<(u64, String)> {
    for side in [Side::A, Side::B] {
        play.scene.net.side(side).sysctl("ipv4/tcp_fastopen", "3")?;
    }
    let (listener, at) = play.scene.s.listen(host)?;
    play.scene
        .s
        .option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
    Ok((listener, at))
}

/// The first open asks for a cookie, the second one's SYN carries data.
pub fn fast_open(play: &mut Play, host: &str) -> Result<()> {
    let (listener, at) = fast_open_server(play, host)?;
    for _ in 0..2 {
        let (fd, row) = unconnected(
            &mut play.scene.c,
            &play.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        play.scene.c.run(&format!("fastopen {fd} {at} 100"))?;
        let s = play.scene.s.number(&format!("accept {listener}"))?;
        play.scene.s.run(&format!("recv {s} 100"))?;
        play.scene.c.run(&format!("drained {fd}"))?;
        play.close(fd, s)?;
        play.want(&row, json!({"outcome": "established"}));
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// TCP_FASTOPEN_CONNECT with a cookie: connect() sends nothing, so nothing is pending, and the wait for the first write
/// is not latency.
pub fn deferred(play: &mut Play, host: &str) -> Result<()> {
    const FASTOPEN_CONNECT: i32 = 30;
    let (listener, at) = fast_open_server(play, host)?;
    for _ in 0..2 {
        let (fd, row) = unconnected(
            &mut play.scene.c,
            &play.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        play.scene
            .c
            .option(fd, libc::IPPROTO_TCP, FASTOPEN_CONNECT, 1)?;
        play.scene.c.run(&format!("connect {fd} {at}"))?;
        // Much longer than --pending: only a SYN that is sent can be without an answer.
        thread::sleep(Duration::from_millis(250));
        let asked = Instant::now();
        play.scene.c.run(&format!("send {fd} 10"))?;
        let s = play.scene.s.number(&format!("accept {listener}"))?;
        play.scene.s.run(&format!("recv {s} 10"))?;
        play.scene.c.run(&format!("drained {fd}"))?;
        let at_most = asked.elapsed().as_micros() as u64;
        play.close(fd, s)?;
        play.want(
            &row,
            json!({"outcome": "established", "at_most_us": at_most}),
        );
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// A connection that is restored sends no SYN: no open, and no row.
pub fn repair(play: &mut Play, host: &str) -> Result<()> {
    let active = play.scene.net.a.counters()?["Tcp.ActiveOpens"];
    let fd = play.scene.c.open(host)?;
    play.scene
        .c
        .option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)?;
    play.scene
        .c
        .run(&format!("connect {fd} {}", server_at(host, PORT)))?;
    play.scene.c.run(&format!("close {fd}"))?;
    ensure!(play.scene.net.a.counters()?["Tcp.ActiveOpens"] == active);
    Ok(())
}
