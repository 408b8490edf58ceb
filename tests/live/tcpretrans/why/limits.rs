// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `--why` cannot say yes or no: rows of several segments, and more drops than are remembered.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{DATA, agrees, arrives, deafen, found, headers, lose, needs_reasons, so_far};
use crate::{
    net::{Netns, Side},
    pair::Pair,
    wait::{self, PATIENCE},
};

/// Nothing but the timer sends anything again, and that not before 2 seconds have passed; with these options of routes.
fn by_timer_only(pair: &Pair, options: &str) -> Result<()> {
    for side in [Side::A, Side::B] {
        let ns = pair.net.side(side);
        ns.sysctl("ipv4/tcp_early_retrans", "0")?;
        ns.sysctl("ipv4/tcp_congestion_control", "reno")?;
        ns.ip(&format!(
            "route change 10.9.0.0/24 dev v0 scope link rto_min 2s {options}\n\
             route change fd09::/64 dev v0 metric 256 rto_min 2s {options}"
        ))?;
    }
    Ok(())
}

fn dropped_packets(ns: &Netns, count: u64) -> Result<()> {
    let mut packets = 0;
    wait::until("drops by the rule", PATIENCE, || {
        packets = so_far(ns, "inet")?.packets;
        Ok((packets >= count).then_some(()))
    })
    .with_context(|| format!("{packets} of {count}"))
}

/// The first two of ten segments are dropped, and nobody says that the others have arrived. The timer sends the first one
/// again, its acknowledgement the second one and some of the others, as one.
pub fn part(mut pair: Pair, host: &str) -> Result<()> {
    needs_reasons()?;
    by_timer_only(&pair, "")?;
    for side in [Side::A, Side::B] {
        pair.net.side(side).sysctl("ipv4/tcp_sack", "0")?;
        pair.net.side(side).sysctl("ipv4/tcp_frto", "0")?;
    }
    let (c, s) = pair.session(host)?;
    deafen(&pair.net.a)?;
    lose(
        &pair.net.b,
        "prerouting",
        &format!("{DATA} numgen inc mod 1000 < 2"),
    )?;
    // The segments of one write are counted one by one.
    pair.net.a.ip("link set v0 gso_max_segs 1")?;
    let bytes = 10 * mss(host);
    pair.c.run(&format!("send {c} {bytes}"))?;
    dropped_packets(&pair.net.b, 2)?;
    ensure!(found(&pair.net.b, "inet")?.packets == 2);
    pair.net.a.nft("delete table inet deaf\n")?;
    arrives(&mut pair, c, s, bytes)?;
    let row = pair.row("a row of several segments", |row| {
        row["segs"].as_u64() > Some(1)
    })?;
    agrees(
        &row,
        &json!({"dropped_here": null, "drop_unknown": "part", "drop_bytes": mss(host),
            "drop_reason": "NETFILTER_DROP", "drop_netns": pair.net.b.inode}),
    )
}

/// What a segment carries: headers, and a timestamp, in 1500 bytes.
fn mss(host: &str) -> u64 {
    1500 - headers(host)
}

/// Segments of one flight, 64 KiB of which have more drops than are remembered of them.
const FLIGHT: u64 = 120;

/// Every other segment of a flight is dropped, more than are remembered. None of them is said not to have been.
pub fn forgotten(mut pair: Pair, host: &str) -> Result<()> {
    needs_reasons()?;
    let many = 2 * FLIGHT;
    by_timer_only(&pair, &format!("initcwnd {many} initrwnd {many}"))?;
    pair.net.a.ip("link set v0 gso_max_segs 1")?;
    pair.net.b.sysctl("ipv4/tcp_rmem", "4096 2000000 6000000")?;
    let (c, s) = pair.session(host)?;
    deafen(&pair.net.a)?;
    lose(
        &pair.net.b,
        "input",
        &format!("{DATA} numgen inc mod 2 < 1"),
    )?;
    let mss = mss(host);
    pair.c.begin(&format!("send {c} {}", mss * FLIGHT))?;
    dropped_packets(&pair.net.b, FLIGHT / 2)?;
    found(&pair.net.b, "inet")?;
    pair.net.a.nft("delete table inet deaf\n")?;
    pair.s.run(&format!("recv {s} {}", mss * FLIGHT))?;
    ensure!(pair.c.finish()?.is_ok());
    pair.c.run(&format!("drained {c}"))?;
    let (rows, _) = pair.finish()?;
    let seq = |row: &Value| row["seq"].as_u64().context("seq");
    let first = seq(rows.first().context("rows")?)?;
    let is_unknown = |row: &&Value| row["drop_unknown"] == "forgotten";
    for row in rows.iter().filter(|row| row["attempt"] == 1) {
        let index = (seq(row)?.wrapping_sub(first) & 0xffff_ffff) / mss;
        ensure!(index % 2 == 1 || row["dropped_here"] != false, "{row:#}");
    }
    for row in rows.iter().filter(is_unknown) {
        let none = json!({"dropped_here": null, "drop_reason": null, "drop_bytes": null});
        agrees(row, &none)?;
    }
    let forgotten = rows.iter().filter(is_unknown).count();
    ensure!(forgotten > 4, "{forgotten} of {} rows", rows.len());
    let known = rows.iter().filter(|row| row["dropped_here"] == true);
    ensure!(known.count() > 16, "{rows:#?}");
    Ok(())
}
