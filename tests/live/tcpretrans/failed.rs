// SPDX-License-Identifier: MIT OR Apache-2.0
//! Retransmissions that fail in this host: those that the kernel counts as sent are shown and counted, the others only on
//! request. And SYN/ACKs that a listener repeats although the client has answered.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    missing::needs_failed_retransmissions,
    net::{Netns, Side},
    pair::{Pair, filter, pass, trials},
    tcpretrans::refused_locally,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpretrans", &[], name, play);
    [
        all("failed::by_firewall_rule", by_firewall_rule),
        all("failed::by_queue_limit", by_queue_limit),
        all("failed::not_made", not_made),
        trials("tcpretrans", &["--count"], "failed::in_counts", in_sums),
        trials("tcpretrans", &["--summary"], "failed::in_totals", in_sums),
        all("hint::defer_accept", defer_accept),
        all("hint::accept_queue_full", accept_queue_full),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn until(ns: &Netns, counter: &str, least: u64) -> Result<()> {
    wait::until(counter, PATIENCE, || {
        Ok((ns.counters()?[counter] >= least).then_some(()))
    })
}

/// The rows of the client are what the kernel counts; those with an error are of this one.
fn agree(pair: Pair, errno: Option<u8>, name: &str) -> Result<()> {
    let (rows, sides) = pair.finish()?;
    let sum = |is_it: fn(&Value) -> bool| -> u64 {
        let here = rows.iter().filter(|row| sides[0].is(row) && is_it(row));
        here.filter_map(|row| row["segs"].as_u64()).sum()
    };
    let (all, failed) = (sum(|_| true), sum(|row| !row["error"].is_null()));
    let kernel = (
        sides[0].counter("Tcp.RetransSegs")?,
        sides[0].counter("TcpExt.TCPRetransFail")?,
    );
    ensure!(
        (all, failed) == kernel,
        "the kernel has {kernel:?}: {rows:#?}"
    );
    ensure!(failed >= 2, "{rows:#?}");
    for row in rows.iter().filter(|row| !row["error"].is_null()) {
        ensure!(
            row["errno"] == json!(errno) && row["error"] == name && row["counted"] == true,
            "{row}"
        );
    }
    Ok(())
}

/// The way is free again, and everything arrives.
fn recover(pair: &mut Pair, c: u64, s: u64) -> Result<()> {
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}")).map(drop)
}

/// A rule in the sender's own output.
fn by_firewall_rule(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = refused_locally(&mut pair, host)?;
    until(&pair.net.a, "TcpExt.TCPRetransFail", 2)?;
    pass(&pair.net.a)?;
    recover(&mut pair, c, s)?;
    agree(pair, Some(1), "EPERM")
}

/// The queue of its interface, which takes nothing.
fn by_queue_limit(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    pair.net.a.nft(
        "table netdev full {\n chain e {\n type filter hook egress device v0 priority 0;\n meta l4proto tcp drop\n }\n}\n",
    )?;
    until(&pair.net.a, "TcpExt.TCPRetransFail", 2)?;
    pair.net.a.nft("delete table netdev full\n")?;
    recover(&mut pair, c, s)?;
    agree(pair, None, "NET_XMIT_DROP")
}

/// The segment still waits in this host: nothing is made, and nothing is counted or shown.
fn not_made(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.net.hold(Side::A)?;
    pair.c.run(&format!("send {c} 700"))?;
    until(&pair.net.a, "TcpExt.TCPSpuriousRtxHostQueues", 1)?;
    pair.net.release(Side::A)?;
    pair.s.run(&format!("recv {s} 700"))?;
    let (rows, sides) = pair.finish()?;
    let segs: u64 = rows.iter().filter_map(|row| row["segs"].as_u64()).sum();
    ensure!(segs == sides[0].counter("Tcp.RetransSegs")?, "{rows:?}");
    ensure!(rows.iter().all(|row| row["error"].is_null()), "{rows:?}");
    Ok(())
}

/// Counts and totals have them, too. Each event is one segment here.
fn in_sums(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = refused_locally(&mut pair, host)?;
    until(&pair.net.a, "TcpExt.TCPRetransFail", 2)?;
    pass(&pair.net.a)?;
    recover(&mut pair, c, s)?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    let sum: u64 = rows
        .iter()
        .filter_map(|row| row.get("count").or(row.get("retrans_segs"))?.as_u64())
        .sum();
    ensure!(sum == kernel, "RetransSegs is {kernel}: {rows:?}");
    Ok(())
}

/// The listener waits for data, which the client does not send: its ACK has come.
fn defer_accept(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    pair.s
        .option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1)?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("connect {fd} {at}"))?;
    let row = pair.row("a SYN/ACK", |row| row["kind"] == "synack")?;
    ensure!(
        row["hint"] == "defer_accept" && row["counted"] == true,
        "{row}"
    );
    Ok(())
}

/// The client's ACK has come, and there was no room; with no ACK nothing is said.
fn accept_queue_full(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    pair.s.run(&format!("listen {listener} 2"))?;
    // Two wait, there is room for one more, and two are on their way.
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
    for fd in clients {
        pair.c.run(&format!("send {fd} 10"))?;
    }
    let row = pair.row("a SYN/ACK with a hint", |row| {
        row["kind"] == "synack" && !row["hint"].is_null()
    })?;
    ensure!(row["hint"] == "accept_queue_full", "{row}");
    let (_, quiet) = pair.s.listen(host)?;
    filter(
        &pair.net.a,
        "input",
        "tcp flags & (syn|ack) == (syn|ack) drop",
    )?;
    let fd = pair.c.open(&quiet)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {quiet}"), libc::EINPROGRESS)?;
    let lport = quiet.parse::<std::net::SocketAddr>()?.port();
    let row = pair.row("another SYN/ACK", |row| {
        row["kind"] == "synack" && row["lport"] == lport
    })?;
    ensure!(row["hint"].is_null(), "{row}");
    Ok(())
}
