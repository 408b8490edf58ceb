// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpstates from records alone.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{scene::Scene, trials};
use crate::tool;

/// What every record has.
const TOLD: [&str; 9] = [
    "family",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "old_state",
    "new_state",
    "skaddr",
    "in_state_us",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpstates::sequences", sequences),
        trials("tcpstates::existing_sockets", existing_sockets),
        trials("tcpstates::filters", filters),
        trials("tcpstates::refusals", refusals),
    ])
}

/// Every way to end a session, over every kind of address; the counters agree, and owners are known.
fn sequences(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpstates", &["--skaddr"])?;
    let before = scene.net.a.counters()?["Tcp.ActiveOpens"];
    for host in scene.hosts() {
        for end in [client_first, server_first, reset, refused] {
            end(&mut scene, &host)?;
        }
    }
    scene.net.quiet()?;
    let opens = scene.net.a.counters()?["Tcp.ActiveOpens"] - before;
    let accepted = scene.net.b.counters()?["Tcp.PassiveOpens"];
    let rows = both.agree(&["skaddr"], &TOLD)?;
    let to = |state: &str| rows.iter().filter(|row| row["new_state"] == state).count() as u64;
    ensure!(
        to("SYN_SENT") == opens,
        "{opens} active opens, {} rows",
        to("SYN_SENT")
    );
    ensure!(
        to("SYN_RECV") == accepted,
        "{accepted} passive opens, {} rows",
        to("SYN_RECV")
    );
    owners(&scene, &rows)?;
    for row in &rows {
        ensure!(row["netns"].is_null() && row["cookie"].is_null() && row["uid"].is_null());
    }
    Ok(())
}

pub fn client_first(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    scene.exchange(session, 3000)?;
    scene.close(session)
}

pub fn server_first(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    scene.s.run(&format!("close {}", session.s))?;
    scene.c.run(&format!("eof {}", session.c))?;
    scene.c.run(&format!("close {}", session.c)).map(drop)
}

pub fn reset(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    scene.c.run(&format!("linger0 {}", session.c))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene
        .s
        .fails(&format!("recv {} 1", session.s), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", session.s)).map(drop)
}

/// Twice with the same socket.
pub fn refused(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let to = format!("{}:9", host.1);
    let fd = scene.c.open(&to)?;
    for _ in 0..2 {
        scene
            .c
            .fails(&format!("connect {fd} {to}"), libc::ECONNREFUSED)?;
    }
    scene.c.run(&format!("close {fd}")).map(drop)
}

/// Sockets from before the start: /proc has their owners, for a child as for its listener.
fn existing_sockets(mut scene: Scene) -> Result<()> {
    let mut sessions = Vec::new();
    let mut listeners = Vec::new();
    for host in scene.hosts() {
        let (listener, to) = scene.listen(&host)?;
        sessions.push(scene.connect(listener, &to)?);
        listeners.push((listener, to));
    }
    let both = scene.watch("tcpstates", &["--skaddr"])?;
    for (listener, to) in &listeners {
        sessions.push(scene.connect(*listener, to)?);
    }
    for session in sessions {
        scene.close(session)?;
    }
    for (listener, _) in listeners {
        scene.s.run(&format!("close {listener}"))?;
    }
    scene.net.quiet()?;
    let rows = both.agree(&["skaddr"], &[&TOLD[..], &["pid", "comm"]].concat())?;
    let sources = ["scan", "listener", "socket"];
    for source in sources {
        let some = rows.iter().any(|row| row["pid_source"] == source);
        ensure!(some, "no owner is known by {source}: {rows:?}");
    }
    Ok(())
}

/// Filters of ports, which are not known when a socket begins, and of owners; and of what happened.
fn filters(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let (listener, to) = scene.listen(&host)?;
    let port = to.rsplit_once(':').map_or("", |(_, port)| port).to_owned();
    let pid = scene.c.pid().to_string();
    let lists: [&[&str]; 7] = [
        &["-L", &port],
        &["-L", &format!("!{port}")],
        &["--port", &port],
        &["-D", &format!("!{port}")],
        &["-p", &pid],
        &["--comm", "!client"],
        &["--old", "ESTABLISHED,CLOSE", "--new", "!CLOSE"],
    ];
    let watches: Result<Vec<_>> = lists
        .iter()
        .map(|args| scene.watch("tcpstates", &[&["--skaddr"], *args].concat()))
        .collect();
    let session = scene.connect(listener, &to)?;
    scene.exchange(session, 100)?;
    scene.close(session)?;
    scene.s.run(&format!("close {listener}"))?;
    scene.net.quiet()?;
    for (both, args) in watches?.into_iter().zip(lists) {
        let rows = both.agree(&["skaddr"], &TOLD)?;
        ensure!(!rows.is_empty(), "{args:?}: no row");
    }
    Ok(())
}

/// Flags that need what no record has are rejected: one sentence, and the exit code of a wrong argument.
fn refusals(scene: Scene) -> Result<()> {
    let refused: [&[&str]; 4] = [
        &["--netns", "self"],
        &["--uid", "0"],
        &["--cgroup", "id:1"],
        &["--summary"],
    ];
    for args in refused {
        let run = tool::run_without(scene.without, "tcpstates", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
        let sentence = run.stderr.trim_end();
        let right = sentence.starts_with(&format!(
            "tcpstates: {}: this kernel has no type information",
            args[0]
        ));
        ensure!(right && sentence.lines().count() == 1, "{sentence}");
    }
    Ok(())
}

/// For the other commands' tests: sockets by their two ends.
pub fn ends() -> [&'static str; 4] {
    ["laddr", "lport", "raddr", "rport"]
}

/// The rows' process ids must be their sides'.
pub fn owners(scene: &Scene, rows: &[Value]) -> Result<()> {
    for row in rows {
        let client = row["laddr"].as_str().is_some_and(|a| a.ends_with('1'));
        let pid = if client { scene.c.pid() } else { scene.s.pid() };
        ensure!(row["pid"] == pid, "the owner is {pid}: {row}");
    }
    Ok(())
}
