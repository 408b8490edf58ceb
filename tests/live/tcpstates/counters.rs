// SPDX-License-Identifier: MIT OR Apache-2.0
//! Thousands of opens at the same time, against the kernel's own counters of the namespace.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt::Linger},
};
use serde_json::Value;

use crate::{missing::needs_cookies, net::Netns, tool::Tool, trial};

const WORKERS: usize = 4;
const ROUNDS: usize = 700;

/// The states in which RFC 4022 counts a connection as current.
const CURRENT: [&str; 2] = ["ESTABLISHED", "CLOSE_WAIT"];

pub fn tests() -> Vec<Trial> {
    vec![trial("tcpstates::counters::thousands", thousands)]
}

/// Four clients and servers at once: closed by FIN, by reset, refused; the last ones stay open.
fn thousands() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let tool = Tool::start(
        "tcpstates",
        &["--json", "--netns", &inode, "--buffer", "16384"],
    )?;
    let before = ns.counters()?;
    let open = ns.inside(|| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| thread::spawn(move || work(n)))
            .collect();
        let ends = workers.into_iter().map(|w| w.join().expect("no panic"));
        ends.collect::<Result<Vec<_>>>()
    })?;
    ensure!(open.iter().map(Vec::len).sum::<usize>() == WORKERS * 2 * 10);
    // The last resets may still be under way, to sockets whose end then counts.
    let ports = |stream: &TcpStream| -> Result<_> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        Ok((local.port().into(), remote.port().into()))
    };
    let ports: Result<Vec<_>> = open.iter().flatten().map(ports).collect();
    ns.none_but(&ports?)?;
    let after = ns.counters()?;
    let rows = tool.stop()?.rows()?;
    let grown = |name: &str| after[name] - before[name];
    let passes = |old: &[&str], new: &[&str]| {
        let is = |row: &Value, key: &str, names: &[&str]| names.iter().any(|n| row[key] == *n);
        let found = |row: &&Value| is(row, "old_state", old) && is(row, "new_state", new);
        rows.iter().filter(found).count() as u64
    };
    let opens = (WORKERS * (2 * ROUNDS + 10)) as u64;
    for (name, rows, at_least) in [
        ("Tcp.ActiveOpens", passes(&["CLOSE"], &["SYN_SENT"]), opens),
        (
            "Tcp.PassiveOpens",
            passes(&["SYN_RECV"], &["ESTABLISHED"]),
            opens - (WORKERS * ROUNDS) as u64,
        ),
        (
            "Tcp.EstabResets",
            passes(&CURRENT, &["CLOSE"]),
            (WORKERS * ROUNDS / 4) as u64,
        ),
        (
            "Tcp.AttemptFails",
            passes(&["SYN_SENT", "SYN_RECV"], &["CLOSE", "LISTEN"]),
            (WORKERS * ROUNDS) as u64,
        ),
    ] {
        ensure!(
            rows == grown(name),
            "{name} grew by {}, rows say {rows}",
            grown(name)
        );
        ensure!(rows >= at_least, "{name}: only {rows}");
    }
    ensure!(
        passes(&["SYN_SENT"], &["ESTABLISHED"]) + grown("Tcp.AttemptFails")
            == grown("Tcp.ActiveOpens")
    );
    let is_current = |row: &Value, key: &str| i64::from(CURRENT.iter().any(|s| row[key] == *s));
    let current: i64 = rows
        .iter()
        .map(|row| is_current(row, "new_state") - is_current(row, "old_state"))
        .sum();
    ensure!(current == 80 && after["Tcp.CurrEstab"] == 80, "{current}");
    needs_cookies()?;
    chained(&rows)
}

/// A listener and its client in one thread; returns the sessions that stay open.
fn work(seed: usize) -> Result<Vec<TcpStream>> {
    let any_port = ["127.0.0.1:0", "[::1]:0"][seed % 2];
    let listener = TcpListener::bind(any_port)?;
    let to = listener.local_addr()?;
    let refused = SocketAddr::new(to.ip(), 9);
    let mut open = Vec::new();
    for round in 0..ROUNDS + 10 {
        let client = TcpStream::connect(to)?;
        let (server, _) = listener.accept()?;
        if round >= ROUNDS {
            open.extend([client, server]);
            continue;
        }
        if round % 4 == 0 {
            let abort = linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&client.as_fd(), Linger, &abort)?;
        }
        match round % 3 {
            0 => drop((client, server)),
            _ => drop((server, client)),
        }
        ensure!(TcpStream::connect(refused).is_err(), "somebody listens");
    }
    Ok(open)
}

/// No row of any socket is missing: each begins where the one before it ended.
fn chained(rows: &[Value]) -> Result<()> {
    let mut last: HashMap<u64, &Value> = HashMap::new();
    for row in rows {
        if let Some(before) = last.insert(row["cookie"].as_u64().unwrap_or(0), row) {
            ensure!(
                before["new_state"] == row["old_state"],
                "{row} after {before}"
            );
            ensure!(row["in_state_us"].is_u64(), "{row} after {before}");
        }
    }
    Ok(())
}
