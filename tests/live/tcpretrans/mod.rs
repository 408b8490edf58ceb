// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpretrans against losses that the test makes, and the kernel's own counters.

mod failed;
mod handshakes;
mod sums;
mod why;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

pub use handshakes::busy;

use crate::{
    missing::needs_failed_retransmissions,
    pair::{Pair, Side, filter, pass, trials},
    peer::Agent,
};

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpretrans", &["--failed"], name, play);
    [
        all("random_loss", random_loss),
        all("tail_loss", tail_loss),
        all("lost_syn", handshakes::lost_syn),
        all("lost_synack", handshakes::lost_synack),
        all("full_listen_queue", handshakes::full_listen_queue),
        all("interface_down", interface_down),
        all("queued_in_host", queued_in_host),
        all("rejected_by_local_rule", rejected_by_local_rule),
        all("listener_handed_over", handshakes::listener_handed_over),
        all("fast_open_not_taken", handshakes::fast_open_not_taken),
        trials(
            "tcpretrans",
            &["--summary", "--by", "flow"],
            "totals",
            sums::totals,
        ),
        trials(
            "tcpretrans",
            &["--summary", "--by", "raddr", "--top", "0"],
            "totals_of_many",
            sums::totals_of_many,
        ),
        trials(
            "tcpretrans",
            &["--summary", "--by", "flow"],
            "in_vain",
            sums::in_vain,
        ),
        trials("tcpretrans", &["--count"], "counts", sums::counts),
        trials(
            "tcpretrans",
            &["-c=100ms"],
            "counts_at_an_interval",
            sums::counts_at_an_interval,
        ),
        trials("tcpretrans", &["--stack"], "stacks", sums::stacks),
        failed::tests(),
        why::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Segments of the rows that are so.
fn segs(rows: &[Value], side: &Side, is_it: impl Fn(&Value) -> bool) -> u64 {
    let mine = rows.iter().filter(|row| side.is(row) && is_it(row));
    mine.map(|row| row["segs"].as_u64().unwrap_or_default())
        .sum()
}

/// The rows of each side against its counters.
fn agree(rows: &[Value], sides: &[Side; 2]) -> Result<()> {
    for side in sides {
        let sent = |row: &Value| row["counted"] == true;
        let kind =
            |kind: &'static str| move |row: &Value| row["error"].is_null() && row["kind"] == kind;
        let later = |row: &Value| {
            row["error"].is_null() && row["ca_state"] == "loss" && row["by_timer"] == false
        };
        let timer = |row: &Value| row["by_timer"] == true;
        for (counter, rows, exact) in [
            ("Tcp.RetransSegs", segs(rows, side, sent), true),
            (
                "TcpExt.TCPSynRetrans",
                segs(rows, side, kind("syn")) + segs(rows, side, kind("synack")),
                true,
            ),
            (
                "TcpExt.TCPFastRetrans",
                segs(rows, side, kind("fast")),
                true,
            ),
            ("TcpExt.TCPSlowStartRetrans", segs(rows, side, later), true),
            ("TcpExt.TCPLossProbes", segs(rows, side, kind("tlp")), false),
            ("TcpExt.TCPTimeouts", segs(rows, side, timer), false),
        ] {
            let kernel = side.counter(counter)?;
            let good = if exact {
                rows == kernel
            } else {
                rows <= kernel
            };
            ensure!(
                good,
                "pid {}: {counter} is {kernel}, the rows have {rows}",
                side.pid
            );
        }
    }
    Ok(())
}

/// Both ways, and enough for fast recoveries and timeouts.
fn random_loss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    for side in [&pair.net.a, &pair.net.b] {
        // Small trains of segments: enough of them to lose some, and rows of more than one segment all the same.
        side.ip("link set v0 gso_max_segs 4")?;
        filter(
            side,
            "prerouting",
            "meta l4proto tcp numgen random mod 100 < 3 drop",
        )?;
    }
    transfer(&mut pair.c, c, &mut pair.s, s)?;
    transfer(&mut pair.s, s, &mut pair.c, c)?;
    pass(&pair.net.a)?;
    pass(&pair.net.b)?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    for side in &sides {
        ensure!(
            segs(&rows, side, |row| row["kind"] == "fast") > 0,
            "no fast retransmission"
        );
        let owned = |row: &Value| row["pid"] == side.pid && row["pid_source"] == "socket";
        ensure!(
            rows.iter().filter(|row| side.is(row)).all(owned),
            "an owner is missing: {rows:?}"
        );
    }
    agree(&rows, &sides)
}

fn transfer(sender: &mut Agent, from: u64, receiver: &mut Agent, to: u64) -> Result<()> {
    sender.begin(&format!("send {from} 4000000"))?;
    receiver.run(&format!("recv {to} 4000000"))?;
    ensure!(sender.finish()?.is_ok());
    sender.run(&format!("drained {from}")).map(drop)
}

/// The last segment is lost: a probe, then the timer.
fn tail_loss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.c.run(&format!("send {c} 300"))?;
    pair.s.run(&format!("recv {s} 300"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let cookie = pair.c.number(&format!("cookie {c}"))?;
    let rto = pair.row("a second timeout", |row| {
        row["attempt"] == 2 && row["kind"] == "rto"
    })?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    // On a busy host the handshake may take longer than the timeout of a SYN.
    let tail: Vec<_> = rows.iter().filter(|row| row["len_bytes"] == 700).collect();
    let kinds: Vec<_> = tail.iter().take(3).map(|row| row["kind"].clone()).collect();
    ensure!(kinds == ["tlp", "rto", "rto"], "{rows:?}");
    for row in &tail[..3] {
        ensure!(row["cookie"] == cookie, "{row}");
        ensure!(
            row["state"] == "ESTABLISHED" && row["tcp_flags"] == "PSH|ACK",
            "{row}"
        );
        ensure!(
            row["in_flight_bytes"] == 700 && row["pid"] == sides[0].pid,
            "{row}"
        );
        ensure!(row["seq"] == tail[0]["seq"], "{row}");
    }
    ensure!(
        rto["ca_state"] == "loss" && rto["by_timer"] == true && rto["snd_cwnd"] == 1,
        "{rto}"
    );
    let doubled = tail[2]["rto_us"].as_u64() == tail[1]["rto_us"].as_u64().map(|us| us * 2);
    ensure!(doubled, "the timeout doubles: {rows:?}");
    agree(&rows, &sides)
}

fn same(row: &Value, want: &Value) -> Result<()> {
    for (key, value) in want.as_object().into_iter().flatten() {
        ensure!(row[key] == *value, "{key} is not {value}: {row}");
    }
    Ok(())
}

/// Nothing can be sent: attempts fail, and are no retransmissions.
fn interface_down(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    pair.net.a.ip("link set v0 down")?;
    let row = pair.row("an attempt that failed", |row| !row["error"].is_null())?;
    for (agent, fd) in [(&mut pair.c, c), (&mut pair.s, s)] {
        agent.run(&format!("linger0 {fd}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    ensure!(
        row["errno"] == 113 && row["error"] == "EHOSTUNREACH",
        "{row}"
    );
    ensure!(row["pid"] == sides[0].pid, "{row}");
    agree(&rows, &sides)
}

/// The segment still waits in this host: sending it again is put off.
fn queued_in_host(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = pair.session(host)?;
    pair.net.hold(crate::net::Side::A)?;
    pair.c.run(&format!("send {c} 700"))?;
    let row = pair.row("an attempt that failed", |row| !row["error"].is_null())?;
    pair.net.release(crate::net::Side::A)?;
    pair.s.run(&format!("recv {s} 700"))?;
    let (rows, sides) = pair.finish()?;
    ensure!(row["errno"] == 16 && row["error"] == "EBUSY", "{row}");
    agree(&rows, &sides)
}

/// What is sent is lost there, and nothing more leaves from here.
pub fn refused_locally(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    filter(&pair.net.a, "output", "meta l4proto tcp drop")?;
    Ok((c, s))
}

/// A rule in the sender's own output: the kernel counts such a segment in RetransSegs, and in TCPRetransFail.
fn rejected_by_local_rule(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = refused_locally(&mut pair, host)?;
    pair.row("two attempts that failed", |row| {
        row["error"] == "EPERM" && row["attempt"] == 2
    })?;
    pass(&pair.net.a)?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    let (rows, sides) = pair.finish()?;
    let failed = segs(&rows, &sides[0], |row| row["errno"] == 1);
    let sent = segs(&rows, &sides[0], |row| row["error"].is_null());
    let kernel = (
        sides[0].counter("Tcp.RetransSegs")?,
        sides[0].counter("TcpExt.TCPRetransFail")?,
    );
    ensure!(
        (sent + failed, failed) == kernel,
        "{kernel:?}, the rows: {sent} sent, {failed} failed"
    );
    Ok(())
}
