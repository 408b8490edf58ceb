// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of sockets: where it has no room, rows and owners are the same.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{Scene, is_of, scene};
use crate::{missing, peer::Agent, tool::Tool};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("table_too_small", too_small),
        scene("table_reuseport", reuseport),
        scene("table_two_addresses", two_addresses),
        scene("table_reconnect", reconnect),
        scene("table_reclaimed", reclaimed),
    ]
}

/// Open at once: more than four slots have room for.
const SESSIONS: usize = 12;

/// A command with room for four sockets, and one with the usual table.
///
/// Without storage, a table is all there is: what finds no room in it is not followed.
fn twice(scene: &Scene, name: &str, args: &[&str]) -> Result<[Tool; 2]> {
    missing::needs_storage()?;
    let small = scene.watch(name, &[args, &["--sockets", "1"]].concat())?;
    Ok([small, scene.watch(name, args)?])
}

/// What does not depend on when a command looked.
fn facts(rows: &[Value]) -> BTreeSet<String> {
    let keys = [
        "event",
        "cookie",
        "lport",
        "rport",
        "pid",
        "comm",
        "pid_source",
        "state",
        "old_state",
        "new_state",
        "tx_bytes",
        "rx_bytes",
        "close_reason",
        "partial",
        "listener_cookie",
        "uses",
        "bytes_acked",
        "segs_out",
        "direction",
    ];
    rows.iter()
        .map(|row| keys.map(|key| row[key].to_string()).join(" "))
        .collect()
}

fn agree(tools: [Tool; 2]) -> Result<Vec<Value>> {
    let [small, usual] = tools;
    let (small, usual) = (small.stop()?.rows()?, usual.stop()?.rows()?);
    let (found, wanted) = (facts(&small), facts(&usual));
    let differ: Vec<_> = found.symmetric_difference(&wanted).collect();
    ensure!(
        small.len() == usual.len() && differ.is_empty(),
        "{differ:#?}"
    );
    ensure!(!usual.is_empty(), "no rows");
    Ok(usual)
}

fn too_small(scene: &mut Scene, host: &str) -> Result<()> {
    let (early, at) = scene.s.listen(host)?;
    let late = scene.connect(early, &at)?;
    let names = [
        "tcplife",
        "tcpstates",
        "tcpaccept",
        "tcpconnect",
        "tcpinfo",
        "tcpreset",
    ];
    let tools: Vec<_> = names.iter().map(|name| twice(scene, name, &[])).collect();
    let (listener, at) = scene.s.listen(host)?;
    let mut open = vec![late];
    for _ in 0..SESSIONS {
        open.push(scene.connect(listener, &at)?);
    }
    let active = twice(scene, "tcplife", &["--active"])?;
    for (index, session) in open.iter().enumerate() {
        scene.send(session, 100 + index as u64)?;
        if index % 3 == 0 {
            scene.c.run(&format!("linger0 {}", session.c))?;
        }
        scene.c.run(&format!("close {}", session.c))?;
        if index % 3 != 0 {
            scene.s.run(&format!("eof {}", session.s))?;
        }
        scene.s.run(&format!("close {}", session.s))?;
    }
    scene.net.quiet()?;
    for (name, tools) in names.iter().zip(tools) {
        agree(tools?).with_context(|| (*name).to_owned())?;
    }
    agree(active).map(drop).context("tcplife --active")
}

/// A listener of this process on a port that it shares.
fn listen_shared(agent: &mut Agent, at: &str) -> Result<(u64, String)> {
    let fd = agent.open(at)?;
    agent.option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    agent.run(&format!("bind {fd} {at}"))?;
    agent.run(&format!("listen {fd} 64"))?;
    Ok((fd, agent.run(&format!("local {fd}"))?))
}

/// Each connection is of the process whose listener got it.
fn reuseport(scene: &mut Scene, host: &str) -> Result<()> {
    let mut second = scene.net.b.agent()?;
    second.comm("second")?;
    let tools = twice(scene, "tcpaccept", &[])?;
    let (first_fd, at) = listen_shared(&mut scene.s, host)?;
    let (second_fd, _) = listen_shared(&mut second, &at)?;
    let cookies = [
        (
            scene.s.number(&format!("cookie {first_fd}"))?,
            scene.s.pid(),
        ),
        (second.number(&format!("cookie {second_fd}"))?, second.pid()),
    ];
    for _ in 0..SESSIONS {
        let c = scene.c.open(&at)?;
        scene.c.run(&format!("connect {c} {at}"))?;
    }
    let rows = agree(tools)?;
    ensure!(rows.len() == SESSIONS, "{rows:?}");
    for row in &rows {
        let owner = cookies
            .iter()
            .find(|(cookie, _)| row["listener_cookie"] == *cookie);
        let (_, pid) = owner.with_context(|| format!("whose listener? {row}"))?;
        ensure!(row["pid"] == *pid, "not {pid}: {row}");
    }
    Ok(())
}

/// One port, an address each, and a process each.
fn two_addresses(scene: &mut Scene, host: &str) -> Result<()> {
    let mut second = scene.net.b.agent()?;
    second.comm("second")?;
    let tools = twice(scene, "tcpaccept", &[])?;
    let (_, at) = scene.s.listen(host)?;
    let port = at.rsplit_once(':').context("no port")?.1;
    let local = if host.starts_with('[') {
        "[::1]"
    } else {
        "127.0.0.1"
    };
    let (_, inner) = second.listen(&format!("{local}:{port}"))?;
    let mut neighbour = scene.net.b.agent()?;
    for _ in 0..3 {
        let c = scene.c.open(&at)?;
        scene.c.run(&format!("connect {c} {at}"))?;
        let c = neighbour.open(&inner)?;
        neighbour.run(&format!("connect {c} {inner}"))?;
    }
    let rows = agree(tools)?;
    ensure!(rows.len() == 6, "{rows:?}");
    for row in &rows {
        let inside = row["laddr"] == local.trim_matches(['[', ']']);
        match inside {
            true => is_of(row, second.pid(), "second")?,
            false => is_of(row, scene.s.pid(), "server")?,
        }
    }
    Ok(())
}

/// The same socket connects again, after it was disconnected, and after it was refused.
fn reconnect(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let lives = twice(scene, "tcplife", &[])?;
    let infos = twice(scene, "tcpinfo", &[])?;
    let opens = twice(scene, "tcpconnect", &[])?;
    let c = scene.c.open(&at)?;
    for _ in 0..3 {
        scene.c.run(&format!("connect {c} {at}"))?;
        let s = scene.s.number(&format!("accept {listener}"))?;
        scene.c.run(&format!("send {c} 10"))?;
        scene.s.run(&format!("recv {s} 10"))?;
        scene.c.run(&format!("disconnect {c}"))?;
        scene.s.run(&format!("close {s}"))?;
    }
    scene.s.run(&format!("close {listener}"))?;
    scene
        .c
        .fails(&format!("connect {c} {at}"), libc::ECONNREFUSED)?;
    scene.c.run(&format!("close {c}"))?;
    scene.net.quiet()?;
    let client = scene.c.pid();
    let rows = agree(lives).context("tcplife")?;
    let ours: Vec<_> = rows.iter().filter(|row| row["pid"] == client).collect();
    ensure!(ours.len() == 4, "three sessions and an attempt: {rows:?}");
    agree(infos).context("tcpinfo")?;
    let rows = agree(opens).context("tcpconnect")?;
    ensure!(
        rows.len() == 4 && rows.iter().all(|row| row["pid"] == client),
        "{rows:?}"
    );
    Ok(())
}

/// Sessions one after the other find room in four slots, however they end: those of sockets that are gone are taken.
fn reclaimed(scene: &mut Scene, host: &str) -> Result<()> {
    missing::needs_storage()?;
    let args = ["--sockets", "1", "--stats", "--no-scan"];
    let life = scene.watch("tcplife", &args)?;
    let (listener, at) = scene.s.listen(host)?;
    for index in 0..20 {
        let session = scene.connect(listener, &at)?;
        if index % 2 == 0 {
            scene.c.run(&format!("linger0 {}", session.c))?;
            scene.c.run(&format!("close {}", session.c))?;
        } else {
            scene.c.run(&format!("close {}", session.c))?;
            scene.s.run(&format!("eof {}", session.s))?;
        }
        scene.s.run(&format!("close {}", session.s))?;
        scene.net.quiet()?;
        // They take the memory of those that have ended, so that the next session's is elsewhere.
        for _ in 0..8 {
            scene.c.open(&at)?;
            scene.s.open(&at)?;
        }
    }
    let run = life.stop()?;
    ensure!(run.rows()?.len() == 40, "two ends each: {run:?}");
    let records = run.records()?;
    let summary = records.last().context("no summary")?;
    missing::needs_table(summary)?;
    ensure!(summary["table_sockets"] == 4, "{summary}");
    ensure!(summary["table_missed"] == 0, "{summary}");
    Ok(())
}
