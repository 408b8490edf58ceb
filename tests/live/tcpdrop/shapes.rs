// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is shown, and how: harmless reasons, chosen ones, sums, stacks, filters.

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::json;

use super::{
    agrees, gives_reasons, knows, needs_drops_of_connections, of, reason, session, settled,
};
use crate::{
    missing,
    pair::{Pair, filter},
    wait::{self, PATIENCE},
};

/// Sessions that end in every way.
fn sessions(pair: &mut Pair, host: &str) -> Result<()> {
    for ending in ["client", "server", "reset"] {
        let (c, s) = pair.session(host)?;
        pair.c.run(&format!("send {c} 5000"))?;
        pair.s.run(&format!("recv {s} 5000"))?;
        pair.s.run(&format!("send {s} 200000"))?;
        pair.c.run(&format!("recv {c} 200000"))?;
        pair.s.run(&format!("drained {s}"))?;
        match ending {
            "client" => {
                pair.c.run(&format!("close {c}"))?;
                pair.s.run(&format!("eof {s}"))?;
                pair.s.run(&format!("close {s}"))?;
            }
            "server" => {
                pair.s.run(&format!("close {s}"))?;
                pair.c.run(&format!("eof {c}"))?;
                pair.c.run(&format!("close {c}"))?;
            }
            _ => {
                pair.c.run(&format!("linger0 {c}"))?;
                pair.c.run(&format!("close {c}"))?;
                pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
                pair.s.run(&format!("close {s}"))?;
            }
        }
    }
    pair.net.quiet()
}

/// Where nothing is wrong, nothing is shown.
pub fn healthy(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_drop_reasons()?;
    sessions(&mut pair, host)?;
    let (rows, _) = pair.finish()?;
    ensure!(rows.is_empty(), "{rows:#?}");
    Ok(())
}

/// With --all, keepalive probes are shown, too: they come from before what is acknowledged.
pub fn harmless(mut pair: Pair, host: &str) -> Result<()> {
    needs_drops_of_connections()?;
    let (c, _) = pair.session(host)?;
    pair.c.option(c, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1)?;
    pair.c.option(c, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let name = match knows("TCP_OLD_SEQUENCE") {
        true => "TCP_OLD_SEQUENCE",
        false => "TCP_INVALID_SEQUENCE",
    };
    wait::until("a keepalive probe", PATIENCE, || {
        Ok((!of(&pair.tool.seen()?, &pair.net.b, name).is_empty()).then_some(()))
    })?;
    for row in of(&pair.tool.seen()?, &pair.net.b, name) {
        agrees(
            row,
            &json!({"direction": "received", "flags": "ACK", "len_bytes": 0}),
        )?;
    }
    pair.finish().map(drop)
}

fn refused(pair: &mut Pair, host: &str) -> Result<()> {
    let at = host.replace(":0", ":9");
    let fd = pair.c.open(&at)?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)
}

/// Only the reason that was asked for.
pub fn chosen(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = session(&mut pair, host)?;
    filter(&pair.net.b, "input", "tcp flags & psh == psh drop")?;
    pair.c.run(&format!("send {c} 100"))?;
    refused(&mut pair, host)?;
    settled(&pair, &pair.net.b, "NO_SOCKET", 1, || Ok(1))?;
    let (rows, _) = pair.finish()?;
    ensure!(rows.len() == 1, "{rows:#?}");
    Ok(())
}

/// Counts by reason and place.
pub fn sums(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = session(&mut pair, host)?;
    for _ in 0..2 {
        refused(&mut pair, host)?;
    }
    pair.s.run(&format!("drop {s}"))?;
    for _ in 0..3 {
        pair.c.run(&format!("send {c} 10"))?;
    }
    let rows = pair.tool.stop()?.rows()?;
    let count = |name: &str, place: &str| {
        let is = |row: &&serde_json::Value| row["reason"] == reason(name) && row["where"] == place;
        let row = rows
            .iter()
            .find(is)
            .with_context(|| format!("{name} {place}: {rows:#?}"));
        row.and_then(|row| row["count"].as_u64().context("a count"))
    };
    let receive = match host.starts_with('[') {
        true => "tcp_v6_rcv",
        false => "tcp_v4_rcv",
    };
    if gives_reasons() {
        ensure!(count("NO_SOCKET", receive)? == 2, "{rows:#?}");
        // A loss probe may send one of them again.
        ensure!(count("SOCKET_FILTER", receive)? >= 3, "{rows:#?}");
    }
    ensure!(
        rows.iter().all(|row| row["by"] == "reason,where"),
        "{rows:#?}"
    );
    Ok(())
}

/// The innermost call is the place.
pub fn stacks(mut pair: Pair, host: &str) -> Result<()> {
    refused(&mut pair, host)?;
    let rows = settled(&pair, &pair.net.b, "NO_SOCKET", 1, || Ok(1))?;
    let stack = rows[0]["stack"].as_array().context("a stack")?;
    let place = format!("{}+", rows[0]["where"].as_str().context("a place")?);
    let is = |frame: &&serde_json::Value| frame.as_str().is_some_and(|f| f.starts_with(&place));
    ensure!(stack.iter().take(3).any(|frame| is(&frame)), "{}", rows[0]);
    pair.finish().map(drop)
}

/// What no process owns does not pass a filter on its name.
pub fn filtered(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = session(&mut pair, host)?;
    refused(&mut pair, host)?;
    filter(&pair.net.b, "input", "tcp flags & psh == psh drop")?;
    pair.c.run(&format!("send {c} 100"))?;
    let rows = settled(&pair, &pair.net.b, "NETFILTER_DROP", 1, || Ok(1))?;
    agrees(&rows[0], &json!({"comm": "server"}))?;
    let (rows, _) = pair.finish()?;
    ensure!(rows.len() == 1, "{rows:#?}");
    Ok(())
}
