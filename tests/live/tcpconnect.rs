// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect against opens whose outcome and duration the client knows.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{libc, sys::signal::Signal};
use serde_json::{Value, json};

use crate::{
    net::{Netns, Side},
    peer::Agent,
    tcplife::scene::{HOSTS, Scene, compare, merged},
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

const PORT: u16 = 9999;
/// `--pending` of the tests that look at it.
const PENDING: Duration = Duration::from_millis(300);

pub fn tests() -> Vec<Trial> {
    vec![
        play("established", &[], established),
        play("mapped", &[], mapped),
        play("refused", &[], refused),
        play("refused_by_icmp", &["--no-pending"], refused_by_icmp),
        play("unreachable", &["--no-pending"], unreachable),
        play("no_route", &[], no_route),
        play("timeout", &["--no-pending"], timeout),
        play(
            "pending_then_timeout",
            &["--pending", "300ms"],
            pending_then_timeout,
        ),
        play("abandoned", &["--pending", "300ms"], abandoned),
        play("disconnected", &[], disconnected),
        play("no_port_left", &[], no_port_left),
        play("simultaneous", &[], simultaneous),
        play("reset", &[], reset),
        play("fast_open", &[], fast_open),
        play("deferred", &["--pending", "50ms"], deferred),
        play("repair", &[], repair),
        play("latency", &[], latency),
        play("other_process", &[], other_process),
        play("failed_only", &["--failed"], failed_only),
        play("remote_port", &["-P", "9999"], remote_port),
        play("slow_only", &["--min-ms", "50"], slow_only),
        trial("tcpconnect::under_way_before", under_way_before),
        trial("tcpconnect::names", names),
        trial("tcpconnect::arguments", arguments),
    ]
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

    /// connect() fails in this way, and so says the row.
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

    /// A non-blocking open that nobody answers.
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

fn refused(play: &mut Play, host: &str) -> Result<()> {
    play.fails(host, libc::ECONNREFUSED, "refused")
}

fn refused_by_icmp(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("reject with icmpx type port-unreachable")?;
    play.fails(host, libc::ECONNREFUSED, "refused")
}

fn unreachable(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("reject with icmpx type host-unreachable")?;
    play.fails(host, libc::EHOSTUNREACH, "unreachable")
}

/// No way out of the host: connect() fails before it begins, and there is no row.
fn no_route(play: &mut Play, host: &str) -> Result<()> {
    let to = if host.starts_with('[') {
        "[fd99::1]:80"
    } else {
        "10.99.0.1:80"
    };
    let fd = play.scene.c.open(to)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ENETUNREACH)?;
    play.scene.c.run(&format!("close {fd}")).map(drop)
}

fn timeout(play: &mut Play, host: &str) -> Result<()> {
    play.on_arrival("drop")?;
    let (fd, row, to) = near(play, host)?;
    play.scene
        .c
        .option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    play.scene.c.run(&format!("close {fd}"))?;
    play.want(
        &row,
        json!({"outcome": "timeout", "errno": libc::ETIMEDOUT}),
    );
    Ok(())
}

fn syns_again(play: &Play) -> Result<u64> {
    Ok(play.scene.net.a.counters()?["TcpExt.TCPSynRetrans"])
}

/// A black hole is visible at once, and again when the kernel gives up.
fn pending_then_timeout(play: &mut Play, host: &str) -> Result<()> {
    play.scene.net.a.sysctl("ipv4/tcp_syn_retries", "1")?;
    play.on_arrival("drop")?;
    let before = syns_again(play)?;
    let (fd, row, to) = near(play, host)?;
    play.scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    play.scene.c.run(&format!("close {fd}"))?;
    let again = syns_again(play)? - before;
    ensure!(again > 0, "the SYN was not sent again");
    play.want(&row, json!({"event": "pending", "outcome": "pending"}));
    play.want(
        &row,
        json!({"outcome": "timeout", "errno": libc::ETIMEDOUT, "syn_retrans": again}),
    );
    Ok(())
}

/// The client does not want to wait any longer: once before the open is shown as pending, once after.
fn abandoned(play: &mut Play, host: &str) -> Result<()> {
    let (soon, row) = play.unanswered(host)?;
    play.scene.c.run(&format!("close {soon}"))?;
    play.want(&row, json!({"outcome": "aborted"}));
    let (late, row) = play.unanswered(host)?;
    // Twice the time, because that is what the test is about.
    thread::sleep(PENDING * 2);
    play.scene.c.run(&format!("close {late}"))?;
    play.want(&row, json!({"event": "pending", "outcome": "pending"}));
    play.want(&row, json!({"outcome": "aborted"}));
    Ok(())
}

/// connect() to AF_UNSPEC ends the open; the socket can be used again, and its second open is another row.
fn disconnected(play: &mut Play, host: &str) -> Result<()> {
    let (fd, row) = play.unanswered(host)?;
    play.scene.c.run(&format!("disconnect {fd}"))?;
    play.want(&row, json!({"outcome": "aborted"}));
    let again = server_at(host, 1);
    play.scene
        .c
        .fails(&format!("connect {fd} {again}"), libc::EINPROGRESS)?;
    wait::until("the refusal", PATIENCE, || {
        Ok((play.scene.c.info(fd)?["state"] == 7).then_some(()))
    })?;
    play.scene.c.run(&format!("close {fd}"))?;
    let (family, raddr) = (row["family"].clone(), row["raddr"].clone());
    play.wants.push(json!({
        "netns": row["netns"], "cookie": row["cookie"], "rport": 1, "outcome": "refused",
        "errno": libc::ECONNREFUSED, "family": family, "raddr": raddr,
    }));
    Ok(())
}

/// Every port to this destination is in use: no SYN leaves, and the row says why.
fn no_port_left(play: &mut Play, host: &str) -> Result<()> {
    play.scene
        .net
        .a
        .sysctl("ipv4/ip_local_port_range", "50000 50001")?;
    let (listener, at) = play.scene.s.listen(host)?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let fd = play.scene.c.open(&at)?;
        play.scene.c.run(&format!("connect {fd} {at}"))?;
        let local: SocketAddr = play.scene.c.run(&format!("local {fd}"))?.parse()?;
        let cookie = play.scene.c.number(&format!("cookie {fd}"))?;
        play.wants.push(json!({"cookie": cookie, "lport": local.port(), "outcome": "established", "syn_sent": true}));
        open.push(fd);
    }
    let fd = play.scene.c.open(&at)?;
    let cookie = play.scene.c.number(&format!("cookie {fd}"))?;
    play.scene
        .c
        .fails(&format!("connect {fd} {at}"), libc::EADDRNOTAVAIL)?;
    play.wants.push(json!({
        "cookie": cookie, "lport": 0, "outcome": "aborted", "errno": libc::EADDRNOTAVAIL, "syn_sent": false,
        "pid": play.scene.c.pid(),
    }));
    open.push(fd);
    for fd in open {
        play.scene.c.run(&format!("linger0 {fd}"))?;
        play.scene.c.run(&format!("close {fd}"))?;
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// Two sockets that connect to each other; the first one's SYN waits until the second one's is sent.
fn crossing(play: &mut Play, host: &str) -> Result<(u64, u64, Value, Value)> {
    let (c_at, s_at) = (client_at(host, 7777), server_at(host, 7777));
    let (c, c_row) = unconnected(&mut play.scene.c, &play.scene.net.a, &s_at, &c_at)?;
    let (s, s_row) = unconnected(&mut play.scene.s, &play.scene.net.b, &c_at, &s_at)?;
    play.scene.c.run(&format!("nonblock {c}"))?;
    play.scene.s.run(&format!("nonblock {s}"))?;
    play.scene.net.hold(Side::A)?;
    play.scene
        .c
        .fails(&format!("connect {c} {s_at}"), libc::EINPROGRESS)?;
    play.scene
        .s
        .fails(&format!("connect {s} {c_at}"), libc::EINPROGRESS)?;
    // The second SYN has come when the first socket is in SYN_RECV (3 in /proc/net/tcp and in tcp_info).
    wait::until("SYN_RECV", PATIENCE, || {
        Ok((play.scene.c.info(c)?["state"] == 3).then_some(()))
    })?;
    Ok((c, s, c_row, s_row))
}

/// Both ends open at once: two active opens, and no passive one.
fn simultaneous(play: &mut Play, host: &str) -> Result<()> {
    let passive = play.scene.net.a.counters()?["Tcp.PassiveOpens"];
    let (c, s, c_row, s_row) = crossing(play, host)?;
    play.scene.net.release(Side::A)?;
    wait::until("ESTABLISHED", PATIENCE, || {
        let both = play.scene.c.info(c)?["state"] == 1 && play.scene.s.info(s)?["state"] == 1;
        Ok(both.then_some(()))
    })?;
    play.close(c, s)?;
    play.want(&c_row, json!({"outcome": "established"}));
    play.want(&s_row, json!({"outcome": "established"}));
    ensure!(play.scene.net.a.counters()?["Tcp.PassiveOpens"] == passive);
    Ok(())
}

/// The other end is gone when the answer to its SYN arrives, and answers with a reset.
fn reset(play: &mut Play, host: &str) -> Result<()> {
    let (c, s, c_row, s_row) = crossing(play, host)?;
    play.scene.s.run(&format!("close {s}"))?;
    play.scene.net.release(Side::A)?;
    wait::until("the reset", PATIENCE, || {
        Ok((play.scene.c.info(c)?["state"] == 7).then_some(()))
    })?;
    play.scene.c.run(&format!("close {c}"))?;
    play.want(
        &c_row,
        json!({"outcome": "reset", "errno": libc::ECONNRESET}),
    );
    play.want(&s_row, json!({"outcome": "aborted"}));
    Ok(())
}

fn fast_open_server(play: &mut Play, host: &str) -> Result<(u64, String)> {
    for side in [Side::A, Side::B] {
        play.scene.net.side(side).sysctl("ipv4/tcp_fastopen", "3")?;
    }
    let (listener, at) = play.scene.s.listen(host)?;
    play.scene
        .s
        .option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
    Ok((listener, at))
}

/// The first open asks for a cookie, the second one's SYN carries data.
fn fast_open(play: &mut Play, host: &str) -> Result<()> {
    let (listener, at) = fast_open_server(play, host)?;
    for _ in 0..2 {
        let (fd, row) = unconnected(
            &mut play.scene.c,
            &play.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        play.scene.c.run(&format!("fastopen {fd} {at} 100"))?;
        let s = play.scene.s.number(&format!("accept {listener}"))?;
        play.scene.s.run(&format!("recv {s} 100"))?;
        play.scene.c.run(&format!("drained {fd}"))?;
        play.close(fd, s)?;
        play.want(&row, json!({"outcome": "established"}));
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// TCP_FASTOPEN_CONNECT with a cookie: connect() sends nothing, so nothing is pending, and the wait for the first write
/// is not latency.
fn deferred(play: &mut Play, host: &str) -> Result<()> {
    const FASTOPEN_CONNECT: i32 = 30;
    let (listener, at) = fast_open_server(play, host)?;
    for _ in 0..2 {
        let (fd, row) = unconnected(
            &mut play.scene.c,
            &play.scene.net.a,
            &at,
            &client_at(host, 0),
        )?;
        play.scene
            .c
            .option(fd, libc::IPPROTO_TCP, FASTOPEN_CONNECT, 1)?;
        play.scene.c.run(&format!("connect {fd} {at}"))?;
        // Much longer than --pending: only a SYN that is sent can be without an answer.
        thread::sleep(Duration::from_millis(250));
        let asked = Instant::now();
        play.scene.c.run(&format!("send {fd} 10"))?;
        let s = play.scene.s.number(&format!("accept {listener}"))?;
        play.scene.s.run(&format!("recv {s} 10"))?;
        play.scene.c.run(&format!("drained {fd}"))?;
        let at_most = asked.elapsed().as_micros() as u64;
        play.close(fd, s)?;
        play.want(
            &row,
            json!({"outcome": "established", "at_most_us": at_most}),
        );
    }
    play.scene.s.run(&format!("close {listener}")).map(drop)
}

/// A connection that is restored sends no SYN: no open, and no row.
fn repair(play: &mut Play, host: &str) -> Result<()> {
    let active = play.scene.net.a.counters()?["Tcp.ActiveOpens"];
    let fd = play.scene.c.open(host)?;
    play.scene
        .c
        .option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)?;
    play.scene
        .c
        .run(&format!("connect {fd} {}", server_at(host, PORT)))?;
    play.scene.c.run(&format!("close {fd}"))?;
    ensure!(play.scene.net.a.counters()?["Tcp.ActiveOpens"] == active);
    Ok(())
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

fn failed_only(play: &mut Play, host: &str) -> Result<()> {
    let (c, s, _) = play.accepted(host)?;
    play.close(c, s)?;
    refused(play, host)
}

fn remote_port(play: &mut Play, host: &str) -> Result<()> {
    failed_only(play, host)
}

fn slow_only(play: &mut Play, host: &str) -> Result<()> {
    let (fd, row) = play.unanswered(host)?;
    thread::sleep(Duration::from_millis(60));
    play.scene.c.run(&format!("close {fd}"))?;
    play.want(&row, json!({"outcome": "aborted", "at_least_us": 50_000}));
    play.scene.net.b.nft("flush ruleset")?;
    refused(play, host)?;
    // Refused within microseconds: not among the rows.
    play.wants.pop();
    Ok(())
}

/// An open that was under way when the tool started is shown as pending, and when it ends; how long it took is not known.
fn under_way_before() -> Result<()> {
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
        let pending = json!({"event": "pending", "outcome": "pending", "partial": true, "pid_source": "seed"});
        play.want(&row, pending);
        play.want(&row, json!({"outcome": "aborted", "partial": true}));
    }
    play.scene.net.quiet()?;
    compare(&tool.stop()?.rows()?, &play.wants)
}

/// The name of loopback is in /etc/hosts.
fn names() -> Result<()> {
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    let inode = ns.inode.to_string();
    let tool = Tool::start("tcpconnect", &["--json", "--dns", "--netns", &inode])?;
    let (_, at) = agent.listen("127.0.0.1:0")?;
    for _ in 0..2 {
        let fd = agent.open(&at)?;
        agent.run(&format!("connect {fd} {at}"))?;
        // The second one finds the name in the cache.
        tool.wait_lines(1)?;
    }
    tool.wait_lines(2)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:?}");
    let named = |row: &Value| {
        row["raddr_name"]
            .as_str()
            .is_some_and(|name| name.contains("localhost"))
    };
    ensure!(named(&rows[1]), "{}", rows[1]);
    Ok(())
}

/// What bcc has and we do not is refused with what does the same; a table has bcc's columns.
fn arguments() -> Result<()> {
    for (args, says) in [
        (&["--cgroupmap", "/x"][..], "--cgroup"),
        (&["--mntnsmap", "/x"], "--netns"),
        (&["-c", "--hist"], "--hist"),
        (&["--min-ms", "soon"], "soon"),
        (&["-P", "http"], "http"),
    ] {
        let run = tool::run("tcpconnect", args)?;
        ensure!(
            run.status.code() == Some(2) && run.lines.is_empty(),
            "{args:?}: {run:?}"
        );
        ensure!(
            run.stderr.lines().count() == 1 && run.stderr.contains(says),
            "{args:?}: {run:?}"
        );
    }
    let tool = Tool::start("tcpconnect", &["-t", "-U", "-L", "--netns", "self"])?;
    tool.signal(Signal::SIGINT)?;
    let run = tool.finish(PATIENCE)?;
    let header: Vec<_> = run.lines[0].split_whitespace().collect();
    ensure!(
        header
            == [
                "TIME(s)", "UID", "PID", "COMM", "IP", "SADDR", "LPORT", "DADDR", "DPORT",
                "OUTCOME", "MS"
            ],
        "{header:?}"
    );
    Ok(())
}
