// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each reason, made for real, and every value against ss and TCP_INFO.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{
    IPPROTO_TCP, SO_KEEPALIVE, SO_MAX_PACING_RATE, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, TCP_CORK,
};
use serde_json::Value;

use super::{Play, is, ss::compare};

use crate::{
    missing,
    net::{Netns, Side},
    pair::{self, Pair, filter, pass},
    peer::Agent,
    wait::{self, PATIENCE},
};

pub(super) const OFTEN: &[&str] = &["--stalled", "--interval", "100ms"];

pub fn tests() -> Vec<Trial> {
    let tests: [(&str, Play); 10] = [
        ("zero_window", zero_window),
        ("orphan", orphan),
        ("no_ack", no_ack),
        ("syn", syn),
        ("keepalive", keepalive),
        ("retransmitting", retransmitting),
        ("nagle", nagle),
        ("cork", cork),
        ("sndbuf", sndbuf),
        ("rwnd", rwnd),
    ];
    let all = tests
        .into_iter()
        .flat_map(|(name, play)| pair::trials("tcptop", OFTEN, &format!("stalled::{name}"), play));
    all.collect()
}

pub(super) fn words(row: &Value) -> Vec<&str> {
    row["why"].as_str().unwrap_or_default().split(' ').collect()
}

/// Waits for a row of this socket with this reason among its own.
pub(super) fn told(pair: &Pair, cookie: &str, reason: &str) -> Result<Value> {
    let row = pair.row(reason, |row| {
        is(row, cookie) && words(row).contains(&reason)
    });
    row.with_context(|| {
        let seen = pair.tool.seen().map(|seen| {
            let own = seen.iter().filter(|row| is(row, cookie));
            own.map(|row| row["why"].to_string()).collect::<Vec<_>>()
        });
        format!("it said {seen:?}")
    })
}

pub(super) fn cookies(pair: &mut Pair, fd: u64, accepted: u64) -> Result<[String; 2]> {
    Ok([
        pair.c.run(&format!("cookie {fd}"))?,
        pair.s.run(&format!("cookie {accepted}"))?,
    ])
}

/// Timeouts come after ten seconds: what a test holds up stays as it is meanwhile.
fn late_timeouts(ns: &Netns) -> Result<()> {
    ns.ip("route change 10.9.0.0/24 dev v0 rto_min 10s\n\
         route add fd09::/64 dev v0 metric 1 rto_min 10s")
}

/// Fills everything between the two ends.
pub(super) fn fill(agent: &mut Agent, fd: u64) -> Result<()> {
    wait::until("a full send buffer", PATIENCE, || {
        while agent.attempt(&format!("offer {fd} 1000000"))?.is_ok() {}
        let info = agent.info(fd)?;
        Ok((info["rwnd_limited"] > 0 && info["unacked"] == 0).then_some(()))
    })
}

fn zero_window(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, server] = cookies(&mut pair, fd, accepted)?;
    let (lport, rport) = pair.ports(fd)?;
    fill(&mut pair.c, fd)?;
    let row = told(&pair, &client, "zero_window")?;
    let later = pair.row("half a second of it", |row| {
        is(row, &client) && row["why_us"].as_u64() > Some(500_000)
    })?;
    let info = pair.c.info(fd)?;
    let limited = info["rwnd_limited"];
    ensure!(
        later["why_us"].as_u64() <= Some(limited),
        "{limited} {later}"
    );
    ensure!(
        later["why"] == "zero_window" && row["closed"] == false,
        "{later}"
    );
    ensure!(later["snd_wnd_bytes"] == info["snd_wnd"], "{later}");
    ensure!(later["wqueue_bytes"].as_u64() > later["packets_out"].as_u64());
    let row = told(&pair, &server, "unread")?;
    ensure!(row["rqueue_bytes"] == row["bytes_received"], "{row}");
    compare(&pair, &pair.net.a, lport)?;
    compare(&pair, &pair.net.b, rport)?;
    // Once it is read nothing is in the way.
    pair.s.begin(&format!("eof {accepted}"))?;
    pair.c.run(&format!("drained {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    pair.s.finish()?.ok();
    pair.s.run(&format!("close {accepted}"))?;
    pair.net.quiet()?;
    pair.finish().map(drop)
}

fn orphan(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    let (lport, _) = pair.ports(fd)?;
    fill(&mut pair.c, fd)?;
    pair.c.run(&format!("close {fd}"))?;
    let row = told(&pair, &client, "orphan")?;
    ensure!(words(&row) == ["zero_window", "orphan"], "{row}");
    ensure!(
        row["state"] == "FIN_WAIT1" && row["orphan"] == true,
        "{row}"
    );
    compare(&pair, &pair.net.a, lport)?;
    pair.finish().map(drop)
}

fn no_ack(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    let (lport, _) = pair.ports(fd)?;
    pair.c.run(&format!("send {fd} 10"))?;
    pair.s.run(&format!("recv {accepted} 10"))?;
    pair.c.run(&format!("drained {fd}"))?;
    filter(&pair.net.b, "input", "drop")?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    pair.c.run(&format!("send {fd} 700"))?;
    let sent = std::time::Instant::now();
    let row = told(&pair, &client, "no_ack")?;
    let most = sent.elapsed().as_micros() as u64 + 50_000;
    let us = row["why_us"].as_u64().context("a time")?;
    ensure!((1_000_000..=most).contains(&us), "{us} of {most}");
    pair.row("three timeouts", |row| {
        is(row, &client) && row["retransmits"].as_u64() >= Some(3)
    })?;
    compare(&pair, &pair.net.a, lport)?;
    let info = pair.c.info(fd)?;
    let last = pair.row("as many", |row| {
        is(row, &client) && row["retransmits"] == info["retransmits"]
    })?;
    ensure!(
        last["backoff"] == info["backoff"] && last["wqueue_bytes"] == 700,
        "{last}"
    );
    ensure!(
        last["timer"] == "retransmit" && last["timer_us"].as_u64() <= last["rto_us"].as_u64(),
        "{last}"
    );
    pass(&pair.net.b)?;
    pair.s.run(&format!("recv {accepted} 700"))?;
    pair.finish().map(drop)
}

/// Nobody answers the SYN.
fn syn(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (_, at) = pair.s.listen(host)?;
    filter(&pair.net.b, "input", "drop")?;
    let fd = pair.c.open(host)?;
    let cookie = pair.c.run(&format!("cookie {fd}"))?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), nix::libc::EINPROGRESS)?;
    let row = told(&pair, &cookie, "no_ack")?;
    ensure!(
        row["state"] == "SYN_SENT" && row["why_us"].as_u64() >= Some(1_000_000),
        "{row}"
    );
    pair.finish().map(drop)
}

/// Keepalives that nobody answers.
fn keepalive(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    /// TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT of include/uapi/linux/tcp.h.
    const TIMES: [(i32, i32); 3] = [(4, 1), (5, 1), (6, 100)];
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    for (name, value) in TIMES {
        pair.c.option(fd, IPPROTO_TCP, name, value)?;
    }
    pair.c.option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)?;
    filter(&pair.net.b, "input", "drop")?;
    let row = told(&pair, &client, "no_ack")?;
    ensure!(
        row["timer"] == "keepalive" && row["probes"].as_u64() >= Some(1),
        "{row}"
    );
    ensure!(
        row["keepalive"] == true && row["wqueue_bytes"] == 0,
        "{row}"
    );
    pair.finish().map(drop)
}

fn retransmitting(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    filter(&pair.net.b, "input", "numgen random mod 100 < 15 drop")?;
    pair.c.begin(&format!("send {fd} 400000000"))?;
    pair.s.begin(&format!("eof {accepted}"))?;
    let row = told(&pair, &client, "retransmitting")?;
    ensure!(row["total_retrans"].as_u64() > Some(0), "{row}");
    pass(&pair.net.b)?;
    let rows = pair.tool.stop()?.rows()?;
    ensure!(
        rows.iter()
            .any(|row| row["retrans_segs"].as_u64() > Some(0))
    );
    Ok(())
}

fn nagle(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    late_timeouts(&pair.net.a)?;
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    let (lport, _) = pair.ports(fd)?;
    // The other end's ACKs are late.
    pair.net.hold(Side::B)?;
    pair.c.run(&format!("send {fd} 100"))?;
    pair.c.run(&format!("send {fd} 60"))?;
    let row = told(&pair, &client, "nagle")?;
    let found = ["wqueue_bytes", "notsent_bytes", "packets_out"].map(|key| row[key].as_u64());
    ensure!(
        found == [Some(160), Some(60), Some(1)] && row["nodelay"] == false,
        "{row}"
    );
    compare(&pair, &pair.net.a, lport)?;
    pair.net.release(Side::B)?;
    pair.s.run(&format!("recv {accepted} 160"))?;
    pair.finish().map(drop)
}

fn cork(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    pair.c.option(fd, IPPROTO_TCP, TCP_CORK, 1)?;
    // The kernel sends what is corked after 200 ms.
    let row = wait::until("a row in between", PATIENCE, || {
        pair.c.run(&format!("send {fd} 60"))?;
        std::thread::sleep(std::time::Duration::from_millis(150));
        let seen = pair.tool.seen()?;
        let own = |row: &&Value| is(row, &client);
        Ok(seen
            .iter()
            .filter(own)
            .find(|row| row["why"] == "cork")
            .cloned())
    })?;
    ensure!(
        row["packets_out"] == 0 && row["notsent_bytes"].as_u64() >= Some(60),
        "{row}"
    );
    pair.finish().map(drop)
}

/// A send buffer that is much smaller than what the network takes until the ACK comes.
fn sndbuf(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    late_timeouts(&pair.net.a)?;
    let (fd, accepted) = pair.session(host)?;
    pair.c.option(fd, SOL_SOCKET, SO_SNDBUF, 8192)?;
    // The last of the buffer is sent while its writer waits already.
    pair.c
        .option(fd, SOL_SOCKET, SO_MAX_PACING_RATE, 2_000_000)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    pair.c.begin(&format!("send {fd} 400000000"))?;
    pair.s.begin(&format!("eof {accepted}"))?;
    let limited = |row: &&Value| is(row, &client) && words(row).contains(&"sndbuf");
    let row = wait::until("a row while ACKs are late", PATIENCE, || {
        pair.net.hold(Side::B)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        pair.net.release(Side::B)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(pair.tool.seen()?.iter().find(limited).cloned())
    })?;
    ensure!(
        row["sndbuf_limited_us"].as_u64() >= row["why_us"].as_u64(),
        "{row}"
    );
    let half = row["interval_us"].as_u64().map(|us| us * 2 / 5);
    ensure!(row["why_us"].as_u64() > half, "{row}");
    pair.tool.stop()?.rows().map(drop)
}

/// A receive window that is much smaller than that.
fn rwnd(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    late_timeouts(&pair.net.a)?;
    let listener = pair.s.open(host)?;
    pair.s.option(listener, SOL_SOCKET, SO_RCVBUF, 4096)?;
    pair.s.run(&format!("bind {listener} {host}"))?;
    pair.s.run(&format!("listen {listener} 1"))?;
    let at = pair.s.run(&format!("local {listener}"))?;
    let (fd, accepted) = pair.connect(&at, listener)?;
    let [client, _] = cookies(&mut pair, fd, accepted)?;
    pair.net.hold(Side::B)?;
    pair.c.begin(&format!("send {fd} 50000"))?;
    let row = told(&pair, &client, "rwnd")?;
    ensure!(
        row["rwnd_limited_us"].as_u64() >= row["why_us"].as_u64(),
        "{row}"
    );
    ensure!(
        row["notsent_bytes"].as_u64() > Some(0) && row["packets_out"].as_u64() > Some(0),
        "{row}"
    );
    pair.net.release(Side::B)?;
    pair.s.run(&format!("recv {accepted} 50000"))?;
    pair.c.finish()?.ok();
    pair.finish().map(drop)
}
