// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--active`: what `ss` and /proc/net/tcp say of the same sockets, and what the test did to them.

mod ports;
mod runs;
mod sockets;
mod times;

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::fixture::Fixture;
use crate::{net::Netns, tool, trial, trial_apart, wait, wait::PATIENCE};

/// The servers of the two families.
const HOSTS: [(&str, &str); 2] = [("10.9.0.2:0", "10.9.0.2"), ("[fd09::2]:0", "[fd09::2]")];

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::now::every_state", sockets::every_state),
        trial("tcpstates::now::owners", sockets::owners),
        trial("tcpstates::now::many", sockets::many),
        trial_apart(
            "tcpstates::now::in_dead_namespace",
            sockets::in_dead_namespace,
        ),
        trial("tcpstates::now::exact_times", times::exact),
        trial("tcpstates::now::least_times", times::least),
        trial("tcpstates::now::seen_times", times::seen),
        trial("tcpstates::now::filters", runs::filters),
        trial("tcpstates::now::intervals", runs::intervals),
        trial("tcpstates::now::table", runs::table),
        trial("tcpstates::now::refused", runs::refused),
        trial("tcpstates::now::without_btf", runs::without_btf),
        trial("tcpstates::now::ports", ports::exhausted),
        trial("tcpstates::now::summary", ports::summary),
    ]
}

/// The rows of one look.
fn look(fixture: &Fixture, args: &[&str]) -> Result<Vec<Value>> {
    let inodes = fixture.net.inodes();
    let all = ["--active", "--json", "--netns", &inodes];
    tool::run("tcpstates", &[&all, args].concat())?.rows()
}

/// A socket as `ss` names it: its namespace, state, queues and ends; and how many are the same.
type Named = BTreeMap<(u64, String, [u64; 2], [String; 2]), usize>;

/// `ss -Htan`.
fn ss(ns: &Netns, into: &mut Named) -> Result<()> {
    let text = ns.feed(&["ss", "-HtanO"], "")?;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [state, rqueue, wqueue, local, remote, ..] = words[..] else {
            anyhow::bail!("ss: {line}");
        };
        let state = match state {
            "ESTAB" => "ESTABLISHED".into(),
            "FIN-WAIT-1" => "FIN_WAIT1".into(),
            "FIN-WAIT-2" => "FIN_WAIT2".into(),
            other => other.replace('-', "_"),
        };
        let queues = [rqueue.parse()?, wqueue.parse()?];
        let ends = [local, remote].map(str::to_owned);
        *into.entry((ns.inode, state, queues, ends)).or_default() += 1;
    }
    Ok(())
}

/// The same of rows. A small socket has no queues, which `ss` shows as empty ones.
fn named(rows: &[Value]) -> Result<Named> {
    let mut all = Named::new();
    for row in rows {
        ensure!(row["event"] == "active", "{row}");
        let end = |addr: &str, port: &str| {
            let (addr, port) = (row[addr].as_str()?, row[port].as_u64()?);
            let port = if port == 0 {
                "*".into()
            } else {
                port.to_string()
            };
            Some(match row["family"].as_u64()? {
                4 => format!("{addr}:{port}"),
                _ => format!("[{addr}]:{port}"),
            })
        };
        let number = |key: &str| row[key].as_u64();
        let queues = [
            number("rqueue_bytes").or(number("accept_queue")),
            number("wqueue_bytes").or(number("accept_queue_max")),
        ];
        let name = (
            number("netns").context("a namespace")?,
            row["state"].as_str().context("a state")?.to_owned(),
            queues.map(Option::unwrap_or_default),
            [
                end("laddr", "lport").context("an end")?,
                end("raddr", "rport").context("an end")?,
            ],
        );
        *all.entry(name).or_default() += 1;
    }
    Ok(all)
}

/// How many sockets of a namespace are in each state, by its number: /proc/net/tcp and /proc/net/tcp6.
fn proc_states(ns: &Netns) -> Result<BTreeMap<String, usize>> {
    const NAMES: [&str; 13] = [
        "",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    let text = ns.inside(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
        Ok(v4 + &fs::read_to_string("/proc/thread-self/net/tcp6")?)
    })?;
    let mut states = BTreeMap::new();
    for line in text.lines().filter(|line| !line.contains("local_address")) {
        let state = line.split_whitespace().nth(3).context("a state")?;
        let name = NAMES[usize::from_str_radix(state, 16)?];
        *states.entry(name.to_owned()).or_default() += 1;
    }
    Ok(states)
}

/// Where a server of some sockets listens, and a client that it did not accept.
#[derive(Clone, Debug)]
struct Stage {
    to: String,
    waiting: u64,
}

fn port(at: &str) -> Result<u64> {
    Ok(at.rsplit_once(':').context("a port")?.1.parse()?)
}

/// A client that does not wait.
fn knock(fixture: &mut Fixture, at: &str) -> Result<u64> {
    let fd = fixture.c.open(at)?;
    fixture.c.run(&format!("nonblock {fd}"))?;
    fixture
        .c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    Ok(fd)
}

fn until_state(ns: &Netns, state: &str, count: usize) -> Result<()> {
    wait::until(state, PATIENCE, || {
        let states = proc_states(ns)?;
        Ok((states.get(state).copied().unwrap_or(0) == count).then_some(()))
    })
}

/// Packets to and from these ports of the server's are lost from now on.
fn cut(fixture: &Fixture, ports: &[u64]) -> Result<()> {
    let ports: Vec<_> = ports.iter().map(u64::to_string).collect();
    let rules = |end: &str| {
        format!(
            "add table inet cut\nadd chain inet cut in {{ type filter hook input priority 0; }}\n\
             add rule inet cut in tcp {end} {{ {} }} drop\n",
            ports.join(",")
        )
    };
    fixture.net.a.nft(&rules("sport"))?;
    fixture.net.b.nft(&rules("dport"))
}

/// SYN/ACKs from these ports are lost: the server has requests.
fn ignore_answers(fixture: &Fixture, ports: &[u64]) -> Result<()> {
    let ports: Vec<_> = ports.iter().map(u64::to_string).collect();
    fixture.net.a.nft(&format!(
        "add table inet deaf\nadd chain inet deaf in {{ type filter hook input priority 0; }}\n\
         add rule inet deaf in tcp sport {{ {} }} tcp flags & (syn | ack) == syn | ack drop\n",
        ports.join(",")
    ))
}

/// Sockets in the states that last, in both families; nothing moves afterwards.
fn stages(fixture: &mut Fixture) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for (n, host) in HOSTS.into_iter().enumerate() {
        let (listener, to) = fixture.listen(host)?;
        fixture.connect(listener, &to)?;
        let half = fixture.connect(listener, &to)?;
        fixture.half_close(half)?;
        // TIME_WAIT.
        let over = fixture.connect(listener, &to)?;
        fixture.close(over)?;
        until_state(&fixture.net.a, "TIME_WAIT", n + 1)?;
        // FIN_WAIT2 that no process holds, and CLOSE_WAIT.
        let left = fixture.connect(listener, &to)?;
        fixture.c.run(&format!("close {}", left.c))?;
        fixture.s.run(&format!("eof {}", left.s))?;
        let waiting = fixture.c.open(&to)?;
        fixture.c.run(&format!("connect {waiting} {to}"))?;
        stages.push(Stage { to, waiting });
    }
    until_state(&fixture.net.a, "FIN_WAIT2", 4)?;
    until_state(&fixture.net.b, "ESTABLISHED", 4)?;
    Ok(stages)
}

/// Those that take a firewall, too: SYN_SENT, SYN_RECV, FIN_WAIT1 and LAST_ACK.
fn stuck(fixture: &mut Fixture) -> Result<()> {
    let mut sessions = Vec::new();
    let (mut deaf, mut lost) = (Vec::new(), Vec::new());
    for host in HOSTS {
        let (_, at) = fixture.listen(host)?;
        deaf.push(at);
        let (listener, to) = fixture.listen(host)?;
        let ends = [
            fixture.connect(listener, &to)?,
            fixture.connect(listener, &to)?,
        ];
        fixture.half_close(ends[1])?;
        sessions.push(ends);
        lost.push(to);
    }
    let ports = |all: &[String]| all.iter().map(|at| port(at)).collect::<Result<Vec<_>>>();
    ignore_answers(fixture, &ports(&deaf)?)?;
    cut(fixture, &ports(&lost)?)?;
    for [first, second] in sessions {
        fixture.c.run(&format!("close {}", first.c))?;
        fixture.s.run(&format!("close {}", second.s))?;
    }
    for at in deaf.iter().chain(&lost) {
        knock(fixture, at)?;
    }
    until_state(&fixture.net.b, "SYN_RECV", 2)?;
    until_state(&fixture.net.b, "LAST_ACK", 2)?;
    until_state(&fixture.net.a, "FIN_WAIT1", 2)
}
