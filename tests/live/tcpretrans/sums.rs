// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals, counts, and stacks.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::same;
use crate::{net::Side, pair::Pair};

/// Some retransmissions of the client: a lost tail.
fn lose_tail(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let timeouts = || Ok((pair.net.a.counters()?["Tcp.RetransSegs"] >= 3).then_some(()));
    crate::wait::until("three retransmissions", crate::wait::PATIENCE, timeouts)?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    Ok((c, s))
}

/// Of a socket that is closed, and of one that is open at the end.
pub fn totals(mut pair: Pair, host: &str) -> Result<()> {
    let (closed, peer) = lose_tail(&mut pair, host)?;
    pair.c.run(&format!("close {closed}"))?;
    pair.s.run(&format!("eof {peer}"))?;
    pair.s.run(&format!("close {peer}"))?;
    pair.net.quiet()?;
    let (open, _) = lose_tail(&mut pair, host)?;
    let (lport, _) = pair.ports(open)?;
    let inner = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    let sum: u64 = inner
        .iter()
        .filter_map(|row| row["retrans_segs"].as_u64())
        .sum();
    ensure!(
        inner.len() == 2 && sum == kernel,
        "{kernel} retransmissions: {inner:?}"
    );
    let mine = |row: &&Value| row["lport"] == lport && row["by"] == "flow";
    ensure!(inner.iter().filter(mine).count() == 1, "{inner:?}");
    for row in &inner {
        let (again, sent) = (row["retrans_segs"].as_f64(), row["segs_out"].as_f64());
        let share = again.zip(sent).map(|(again, sent)| again * 100.0 / sent);
        let shown = row["retrans_percent"].as_f64();
        ensure!(
            share.zip(shown).is_some_and(|(a, b)| (a - b).abs() < 0.001),
            "{row}"
        );
        // SYN, ACK, 700 bytes, what was sent again, and the FIN and the last ACK of the closed one.
        let own = sent.zip(again).map(|(sent, again)| sent - again);
        ensure!(own == Some(3.0) || own == Some(5.0), "{row}");
    }
    Ok(())
}

/// Of open sockets, many times as many as the kernel's iterator has room for at once.
pub fn totals_of_many(mut pair: Pair, host: &str) -> Result<()> {
    const SESSIONS: usize = 1000;
    let (listener, at) = pair.s.listen(host)?;
    for _ in 0..SESSIONS {
        pair.connect(&at, listener)?;
    }
    lose_tail(&mut pair, host)?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?;
    let (sent, again) = (kernel["Tcp.OutSegs"], kernel["Tcp.RetransSegs"]);
    let server = at
        .rsplit_once(':')
        .map(|(host, _)| host.trim_matches(['[', ']']));
    let row = rows.iter().find(|row| row["raddr"].as_str() == server);
    ensure!(
        row.is_some_and(|row| row["segs_out"] == sent + again && row["retrans_segs"] == again),
        "{sent} segments and {again} retransmissions: {rows:?}"
    );
    Ok(())
}

/// The answers come late: what was sent again has arrived twice, and the other end says so.
pub fn in_vain(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.net.hold(Side::B)?;
    pair.c.run(&format!("send {c} 700"))?;
    let until = |counter: &str, least: u64| {
        let net = &pair.net;
        crate::wait::until(counter, crate::wait::PATIENCE, move || {
            Ok((net.a.counters()?[counter] >= least).then_some(()))
        })
    };
    until("Tcp.RetransSegs", 2)?;
    pair.net.release(Side::B)?;
    until("TcpExt.TCPDSACKRecv", 1)?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    let (lport, _) = pair.ports(c)?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?;
    let row = rows.iter().find(|row| row["lport"] == lport);
    let dups = row.and_then(|row| row["dsack_dups"].as_u64());
    let told = kernel["TcpExt.TCPDSACKRecv"] + kernel["TcpExt.TCPDSACKOfoRecv"];
    ensure!(dups == Some(told), "the kernel has {told}: {rows:?}");
    ensure!(
        dups <= row.and_then(|row| row["retrans_segs"].as_u64()),
        "{rows:?}"
    );
    Ok(())
}

pub fn counts(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = lose_tail(&mut pair, host)?;
    let (lport, rport) = pair.ports(c)?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    ensure!(rows.len() == 1, "{rows:?}");
    same(
        &rows[0],
        &json!({"lport": lport, "rport": rport, "count": kernel, "event": "count"}),
    )
}

/// What was sent again is counted before the end, and once.
pub fn counts_at_an_interval(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    pair.tool.wait_lines(2)?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    let counts = rows.iter().filter_map(|row| row["count"].as_u64());
    let covered = |row: &Value| row["interval_us"].as_u64() > Some(0);
    ensure!(
        counts.sum::<u64>() == kernel && rows.iter().all(covered),
        "{kernel} retransmissions: {rows:?}"
    );
    Ok(())
}

pub fn stacks(mut pair: Pair, host: &str) -> Result<()> {
    lose_tail(&mut pair, host)?;
    let (rows, _) = pair.finish()?;
    let function = |row: &Value| row["stack"][0].as_str().unwrap_or_default().to_owned();
    for row in &rows {
        ensure!(function(row).starts_with("__tcp_retransmit_skb"), "{row}");
    }
    Ok(())
}
