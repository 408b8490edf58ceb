// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each thing that can be wrong with a listener, made for real.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Listener, is, knock, listen, port, rate, rows, ss, until_counted, until_waiting, watch,
};
use crate::{
    net::{Netns, Side},
    scene::Scene,
    tool,
};

/// One waits since before the command, and then nobody does.
pub fn not_accepting(scene: &mut Scene, host: &str) -> Result<()> {
    let listener = listen(&mut scene.s, host, 16)?;
    let begin = Instant::now();
    knock(scene, &listener.at, 1)?;
    until_waiting(&mut scene.s, &listener, 1)?;
    let connected = Instant::now();
    let tool = watch(scene, &[])?;
    let before = begin.elapsed();
    let row = &rows(scene, tool)?[&listener.cookie];
    let waited = row["oldest_wait_us"].as_u64().context("a time")?;
    let us = |time: Duration| time.as_micros() as u64;
    // To a jiffy of each clock.
    let longest = us(begin.elapsed()) + 20_000;
    let least = us(before.saturating_sub(connected - begin)).saturating_sub(20_000);
    ensure!(
        (least..=longest).contains(&waited),
        "{least} to {longest} us: {row}"
    );
    is(
        row,
        json!({"verdict": "not accepting", "accept_queue": 1, "accept_queue_max": 16, "accepts": 0, "drops_per_s": 0.0,
               "pid": scene.s.pid(), "comm": "server", "lport": port(&listener.at)?}),
    )?;

    let tool = watch(scene, &[])?;
    scene.s.number(&format!("accept {}", listener.fd))?;
    let row = &rows(scene, tool)?[&listener.cookie];
    is(
        row,
        json!({"verdict": null, "accept_queue": 0, "oldest_wait_us": null}),
    )
}

/// The queue takes one more than the limit; what comes then is dropped and counted, by the listener and its namespace.
pub fn full(scene: &mut Scene, host: &str) -> Result<()> {
    let listener = listen(&mut scene.s, host, 1)?;
    let other = listen(&mut scene.s, host, 0)?;
    let tool = watch(scene, &[])?;
    knock(scene, &listener.at, 2)?;
    until_waiting(&mut scene.s, &listener, 2)?;
    knock(scene, &listener.at, 2)?;
    knock(scene, &other.at, 1)?;
    until_waiting(&mut scene.s, &other, 1)?;
    until_counted(&scene.net.b, "TcpExt.ListenOverflows", 2)?;
    // No more is sent meanwhile.
    scene.net.hold(Side::A)?;
    let rows = rows(scene, tool)?;
    let overflows = scene.net.b.counters()?["TcpExt.ListenOverflows"];
    let row = &rows[&listener.cookie];
    is(
        row,
        json!({"verdict": "full", "accept_queue": 2, "accept_queue_high": 2, "accept_queue_max": 1,
               "accepts": 2, "drops": overflows, "pid": scene.s.pid()}),
    )?;
    rate(row, "drops_per_s", overflows)?;
    rate(row, "accepts_per_s", 2)?;
    let full = json!({"verdict": "full", "accept_queue": 1, "accept_queue_max": 0, "drops": 0});
    is(&rows[&other.cookie], full)
}

/// The queue was full before the command started, and is not any more.
pub fn dropping(scene: &mut Scene, host: &str) -> Result<()> {
    let listener = listen(&mut scene.s, host, 1)?;
    knock(scene, &listener.at, 2)?;
    until_waiting(&mut scene.s, &listener, 2)?;
    knock(scene, &listener.at, 1)?;
    until_counted(&scene.net.b, "TcpExt.ListenOverflows", 1)?;
    let tool = watch(scene, &[])?;
    let before = ss(&scene.net.b)?[&listener.cookie].drops;
    until_counted(&scene.net.b, "TcpExt.ListenOverflows", before + 1)?;
    scene.net.hold(Side::A)?;
    scene.s.number(&format!("accept {}", listener.fd))?;
    let overflows = scene.net.b.counters()?["TcpExt.ListenOverflows"];
    let row = &rows(scene, tool)?[&listener.cookie];
    is(
        row,
        json!({"verdict": "dropping", "accept_queue": 1, "drops": overflows, "accepts": 0}),
    )
}

/// Answers to SYNs do not arrive, so that the SYN queue fills; how many wait tells the namespace's list of them.
fn flood(scene: &mut Scene, host: &str, syncookies: &str) -> Result<Listener> {
    scene.net.b.sysctl("ipv4/tcp_syncookies", syncookies)?;
    let listener = listen(&mut scene.s, host, 2)?;
    scene.net.hold(Side::B)?;
    Ok(listener)
}

/// Requests that are in the SYN queue, of /proc/net/tcp: those without an inode in SYN_RECV.
fn syn_queue(ns: &Netns) -> Result<u64> {
    let text = ns.inside(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
        Ok(v4 + &fs::read_to_string("/proc/thread-self/net/tcp6")?)
    })?;
    let state = |line: &&str| line.split_whitespace().nth(3) == Some("03");
    Ok(text.lines().filter(state).count() as u64)
}

pub fn syn_cookies(scene: &mut Scene, host: &str) -> Result<()> {
    let listener = flood(scene, host, "1")?;
    let tool = watch(scene, &[])?;
    knock(scene, &listener.at, 8)?;
    until_counted(&scene.net.b, "TcpExt.SyncookiesSent", 1)?;
    // No more is sent meanwhile.
    scene.net.hold(Side::A)?;
    let requests = syn_queue(&scene.net.b)?;
    let row = &rows(scene, tool)?[&listener.cookie];
    is(
        row,
        json!({"verdict": "SYN cookies", "syn_queue": requests, "syn_queue_max": 2, "drops": 0}),
    )?;
    ensure!(
        requests >= 2 && row["syn_cookie_us"].is_u64(),
        "{requests}: {row}"
    );
    // At the start they were sent already.
    let run = tool::run(
        "tcpaccept",
        &[
            "--listeners",
            "--json",
            "-d",
            "100ms",
            "--netns",
            &scene.net.b.inode.to_string(),
        ],
    )?;
    ensure!(run.rows()?[0]["syn_cookie_us"].is_u64(), "{run:?}");
    Ok(())
}

pub fn without_syn_cookies(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.b.sysctl("ipv4/tcp_max_syn_backlog", "8")?;
    let large = listen(&mut scene.s, host, 100)?;
    let listener = flood(scene, host, "0")?;
    let tool = watch(scene, &[])?;
    knock(scene, &listener.at, 8)?;
    until_counted(&scene.net.b, "TcpExt.ListenDrops", 3)?;
    scene.net.hold(Side::A)?;
    let requests = syn_queue(&scene.net.b)?;
    let rows = rows(scene, tool)?;
    let row = &rows[&listener.cookie];
    is(
        row,
        json!({"verdict": "full", "syn_queue": requests, "syn_queue_max": 2, "syn_cookie_us": null, "accept_queue": 0}),
    )?;
    // Three quarters of net.ipv4.tcp_max_syn_backlog.
    is(
        &rows[&large.cookie],
        json!({"verdict": null, "syn_queue_max": 6}),
    )
}
