// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect against opens whose outcome and duration the client knows.

mod errors;
mod failures;
mod filters;
mod handshakes;
mod opens;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    net::{Netns, Side},
    peer::Agent,
    scene::{HOSTS, Scene, compare, merged},
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

const PORT: u16 = 9999;
/// `--pending` of the tests that look at it.
const PENDING: Duration = Duration::from_millis(300);

pub fn tests() -> Vec<Trial> {
    let mut all = vec![
        play("established", &[], established),
        play("mapped", &[], mapped),
        play("refused", &[], failures::refused),
        play(
            "refused_by_icmp",
            &["--no-pending"],
            failures::refused_by_icmp,
        ),
        play("unreachable", &["--no-pending"], failures::unreachable),
        play("no_route", &[], failures::no_route),
        play("timeout", &["--no-pending"], failures::timeout),
        play(
            "pending_then_timeout",
            &["--pending", "300ms"],
            failures::pending_then_timeout,
        ),
        play("abandoned", &["--pending", "300ms"], failures::abandoned),
        play("disconnected", &[], failures::disconnected),
        play("ports_exhausted", &[], failures::ports_exhausted),
        play("simultaneous", &[], handshakes::simultaneous),
        play("reset", &[], handshakes::reset),
        play("fast_open", &[], handshakes::fast_open),
        play("deferred", &["--pending", "50ms"], handshakes::deferred),
        play("repair", &[], handshakes::repair),
        play("latency", &[], latency),
        play("other_process", &[], other_process),
        play("failed_only", &["--failed"], filters::failed_only),
        play("remote_port", &["-P", "9999"], filters::remote_port),
        play("slow_only", &["--min-ms", "50"], filters::slow_only),
        trial("tcpconnect::connecting_at_start", connecting_at_start),
        trial("tcpconnect::names", filters::names),
        trial("tcpconnect::arguments", filters::arguments),
    ];
    all.extend(errors::tests());
    all.extend(opens::tests());
    all
}

struct Play {
    scene: Scene,
    wants: Vec<Value>,
}

/// A test that is played over IPv4 and then over IPv6, while tcpconnect runs with these arguments.
fn play(
    name: &str,
    args: &'static [&'static str],
    body: fn(&mut Play, &str) -> Result<()>,
) -> Trial {
    trial(format!("tcpconnect::{name}"), move || {
        let mut play = Play {
            scene: Scene::new()?,
            wants: Vec::new(),
        };
        let tool = watch(&play.scene, args)?;
        for host in HOSTS {
            body(&mut play, host).with_context(|| host.to_owned())?;
        }
        play.scene.net.quiet()?;
        compare(&tool.stop()?.rows()?, &play.wants)
    })
}

fn watch(scene: &Scene, args: &[&str]) -> Result<Tool> {
    let inodes = scene.net.inodes();
    Tool::start(
        "tcpconnect",
        &[&["--json", "--netns", &inodes], args].concat(),
    )
}

/// A socket that has not connected yet, bound so that its port is known; where it is to connect to; and its row.
fn unconnected(agent: &mut Agent, ns: &Netns, to: &str, local: &str) -> Result<(u64, Value)> {
    let fd = agent.open(to)?;
    agent.run(&format!("bind {fd} {local}"))?;
    let local: SocketAddr = agent.run(&format!("local {fd}"))?.parse()?;
    let remote: SocketAddr = to.parse()?;
    let row = json!({
        "tool": "tcpconnect", "event": "connect", "netns": ns.inode,
        "cookie": agent.number(&format!("cookie {fd}"))?,
        "family": if local.is_ipv4() { 4 } else { 6 },
        "laddr": local.ip().to_string(), "lport": local.port(),
        "raddr": remote.ip().to_string(), "rport": remote.port(),
        "pid": agent.pid(), "uid": 0, "pid_source": "socket", "partial": false, "errno": null, "syn_sent": true,
    });
    Ok((fd, row))
}

fn server_at(host: &str, port: u16) -> String {
    let host = host.trim_end_matches(":0");
    format!("{host}:{port}")
}

fn client_at(host: &str, port: u16) -> String {
    server_at(
        &host
            .replace("10.9.0.2", "10.9.0.1")
            .replace("fd09::2", "fd09::1"),
        port,
    )
}

/// The two ends of a test.
fn near(play: &mut Play, host: &str) -> Result<(u64, Value, String)> {
    let to = server_at(host, PORT);
    let (fd, row) = unconnected(
        &mut play.scene.c,
        &play.scene.net.a,
        &to,
        &client_at(host, 0),
    )?;
    Ok((fd, row, to))
}

impl Play {
    fn want(&mut self, row: &Value, fields: Value) {
        self.wants.push(merged(row, fields));
    }

    /// connect() fails in this way, and the row agrees.
    fn fails(&mut self, host: &str, errno: i32, outcome: &str) -> Result<()> {
        let (fd, row, to) = near(self, host)?;
        self.scene.c.fails(&format!("connect {fd} {to}"), errno)?;
        self.scene.c.run(&format!("close {fd}"))?;
        self.want(&row, json!({"outcome": outcome, "errno": errno}));
        Ok(())
    }

    /// Rules for what arrives at the server's side.
    fn on_arrival(&self, verdict: &str) -> Result<()> {
        self.scene.net.b.nft(&format!(
            "add table inet t\nadd chain inet t in {{ type filter hook input priority 0; }}\n\
             flush chain inet t in\nadd rule inet t in tcp dport {PORT} {verdict}\n"
        ))
    }

    /// A non-blocking open without an answer.
    fn unanswered(&mut self, host: &str) -> Result<(u64, Value)> {
        self.on_arrival("drop")?;
        let (fd, row, to) = near(self, host)?;
        self.scene.c.run(&format!("nonblock {fd}"))?;
        self.scene
            .c
            .fails(&format!("connect {fd} {to}"), libc::EINPROGRESS)?;
        Ok((fd, row))
    }

    fn accepted(&mut self, host: &str) -> Result<(u64, u64, Value)> {
        let (listener, at) = self.scene.s.listen(host)?;
        let (fd, row) = unconnected(
            &mut self.scene.c,
            &self.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        self.scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.scene.s.number(&format!("accept {listener}"))?;
        self.scene.s.run(&format!("close {listener}"))?;
        Ok((fd, accepted, row))
    }

    fn close(&mut self, c: u64, s: u64) -> Result<()> {
        self.scene.c.run(&format!("close {c}"))?;
        self.scene.s.run(&format!("close {s}")).map(drop)
    }
}

fn established(play: &mut Play, host: &str) -> Result<()> {
    let (c, s, row) = play.accepted(host)?;
    play.close(c, s)?;
    play.want(&row, json!({"outcome": "established", "syn_retrans": 0}));
    Ok(())
}

/// An IPv6 socket that speaks IPv4: an IPv4 row, and the local port that the kernel has chosen.
fn mapped(play: &mut Play, host: &str) -> Result<()> {
    if host.starts_with('[') {
        return Ok(());
    }
    let (listener, at) = play.scene.s.listen("[::]:0")?;
    let port: SocketAddr = at.parse()?;
    let fd = play.scene.c.number("socket 6")?;
    play.scene
        .c
        .run(&format!("connect {fd} [::ffff:10.9.0.2]:{}", port.port()))?;
    let s = play.scene.s.number(&format!("accept {listener}"))?;
    let local: SocketAddr = play.scene.c.run(&format!("local {fd}"))?.parse()?;
    play.wants.push(json!({
        "netns": play.scene.net.a.inode, "family": 4, "laddr": "10.9.0.1", "lport": local.port(),
        "raddr": "10.9.0.2", "rport": port.port(), "outcome": "established", "pid": play.scene.c.pid(),
    }));
    play.scene.s.run(&format!("close {listener}"))?;
    play.close(fd, s)
}

/// The answer is held back; the latency lies between what the test has surely waited and what the client has.
fn latency(play: &mut Play, host: &str) -> Result<()> {
    let (listener, at) = play.scene.s.listen(host)?;
    for ms in [20, 100] {
        let (fd, row) = unconnected(
            &mut play.scene.c,
            &play.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        play.scene.net.hold(Side::B)?;
        play.scene.c.run(&format!("nonblock {fd}"))?;
        let before = Instant::now();
        play.scene
            .c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
        let sent = Instant::now();
        thread::sleep(Duration::from_millis(ms));
        let at_least = sent.elapsed();
        play.scene.net.release(Side::B)?;
        wait::until("ESTABLISHED", PATIENCE, || {
            Ok((play.scene.c.info(fd)?["state"] == 1).then_some(()))
        })?;
        let at_most = before.elapsed();
        let s = play.scene.s.number(&format!("accept {listener}"))?;
        play.close(fd, s)?;
        play.want(
            &row,
            json!({"outcome": "established", "at_least_us": at_least.as_micros() as u64, "at_most_us": at_most.as_micros() as u64}),
        );
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// A thread counts for its process, a child for itself, and the uid is the socket's.
fn other_process(play: &mut Play, host: &str) -> Result<()> {
    const NOBODY: u32 = 65534;
    let (listener, at) = play.scene.s.listen(host)?;
    let (fd, row) = unconnected(
        &mut play.scene.c,
        &play.scene.net.a,
        &at,
        &client_at(host, 0),
    )?;
    play.scene
        .c
        .in_thread("worker", &format!("connect {fd} {at}"))?;
    play.want(&row, json!({"outcome": "established", "comm": "client"}));
    let child = play.scene.c.fork(&[])?;
    play.scene.c.comm("child")?;
    play.scene.c.run(&format!("uid {NOBODY}"))?;
    let (theirs, row) = unconnected(
        &mut play.scene.c,
        &play.scene.net.a,
        &at,
        &client_at(host, 0),
    )?;
    play.scene.c.run(&format!("connect {theirs} {at}"))?;
    play.want(
        &row,
        json!({"outcome": "established", "pid": child, "comm": "child", "uid": NOBODY}),
    );
    play.scene.c.exit_child()?;
    play.scene.c.run(&format!("close {fd}"))?;
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// An open that was under way when the tool started is shown as pending, and when it ends; how long it took is not known.
fn connecting_at_start() -> Result<()> {
    let mut play = Play {
        scene: Scene::new()?,
        wants: Vec::new(),
    };
    let mut open = Vec::new();
    for host in HOSTS {
        open.push(play.unanswered(host)?);
    }
    let tool = watch(&play.scene, &["--pending", "300ms"])?;
    tool.wait_lines(2)?;
    for (fd, row) in open {
        play.scene.c.run(&format!("close {fd}"))?;
        let pending = json!({"event": "pending", "outcome": "pending", "partial": true, "pid_source": "scan"});
        play.want(&row, pending);
        play.want(&row, json!({"outcome": "aborted", "partial": true}));
    }
    play.scene.net.quiet()?;
    compare(&tool.stop()?.rows()?, &play.wants)
}
