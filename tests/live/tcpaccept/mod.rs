// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpaccept against passive opens whose listener and queue the test knows.

mod listeners;
mod now;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    net::Side,
    peer::Agent,
    scene::{HOSTS, Scene, compare, merged},
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let opens = vec![
        play("queue", &[], queue),
        play("dual_stack", &[], dual_stack),
        play("inherited", &[], listeners::inherited),
        play("orphaned", &[], listeners::orphaned),
        play("socket_activation", &[], listeners::socket_activation),
        play("activator_exited", &[], listeners::activator_exited),
        play("reuseport", &[], listeners::reuseport),
        play("fast_open", &[], fast_open),
        play("closed_in_handshake", &[], closed_in_handshake),
        play("local_port", &["-P", "7000-7001"], local_port),
        trial("tcpaccept::existing_listener", listeners::existing_listener),
        trial("tcpaccept::no_scan", listeners::no_scan),
        trial(
            "tcpaccept::closed_are_forgotten",
            listeners::closed_are_forgotten,
        ),
        trial("tcpaccept::arguments", arguments),
    ];
    trial::group([opens, now::tests()])
}

struct Play {
    scene: Scene,
    wants: Vec<Value>,
}

/// A test that is played over IPv4 and then over IPv6, while tcpaccept runs with these arguments.
fn play(
    name: &str,
    args: &'static [&'static str],
    body: fn(&mut Play, &str) -> Result<()>,
) -> Trial {
    trial(format!("tcpaccept::{name}"), move || {
        let mut play = Play::new()?;
        let tool = play.watch(args)?;
        for host in HOSTS {
            body(&mut play, host).with_context(|| host.to_owned())?;
        }
        play.finish(tool)
    })
}

/// A listener, and what is to be known of it.
struct Listener {
    fd: u64,
    at: String,
    cookie: u64,
    pid: u32,
}

fn listen(agent: &mut Agent, at: &str, backlog: u32) -> Result<Listener> {
    let fd = agent.open(at)?;
    agent.option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    agent.run(&format!("bind {fd} {at}"))?;
    agent.run(&format!("listen {fd} {backlog}"))?;
    Ok(Listener {
        fd,
        at: agent.run(&format!("local {fd}"))?,
        cookie: agent.number(&format!("cookie {fd}"))?,
        pid: agent.pid(),
    })
}

impl Play {
    fn new() -> Result<Self> {
        Ok(Self {
            scene: Scene::new()?,
            wants: Vec::new(),
        })
    }

    fn watch(&self, args: &[&str]) -> Result<Tool> {
        let inodes = self.scene.net.inodes();
        Tool::start(
            "tcpaccept",
            &[&["--json", "--netns", &inodes], args].concat(),
        )
    }

    fn finish(self, tool: Tool) -> Result<()> {
        self.scene.net.quiet()?;
        compare(&tool.stop()?.rows()?, &self.wants)
    }

    /// The client connects; returns its descriptor, and the expected row of the other end.
    fn connect(&mut self, to: &str) -> Result<(u64, Value)> {
        let fd = self.scene.c.open(to)?;
        self.scene.c.run(&format!("connect {fd} {to}"))?;
        Ok((fd, self.seen_from_there(fd)?))
    }

    fn seen_from_there(&mut self, fd: u64) -> Result<Value> {
        let local: SocketAddr = self.scene.c.run(&format!("local {fd}"))?.parse()?;
        let remote: SocketAddr = self.scene.c.run(&format!("peer {fd}"))?.parse()?;
        let ip = |addr: SocketAddr| addr.ip().to_canonical();
        Ok(json!({
            "tool": "tcpaccept", "event": "accept", "netns": self.scene.net.b.inode,
            "family": if ip(local).is_ipv4() { 4 } else { 6 },
            "laddr": ip(remote).to_string(), "lport": remote.port(),
            "raddr": ip(local).to_string(), "rport": local.port(), "state": "ESTABLISHED",
        }))
    }

    fn want(&mut self, row: &Value, listener: &Listener, fields: Value) {
        let owned = json!({
            "pid": listener.pid, "comm": "server", "uid": 0, "pid_source": "listener",
            "listener_cookie": listener.cookie,
        });
        self.wants.push(merged(&merged(row, owned), fields));
    }

    fn close(&mut self, fds: &[u64]) -> Result<()> {
        for fd in fds {
            self.scene.c.run(&format!("linger0 {fd}"))?;
            self.scene.c.run(&format!("close {fd}"))?;
        }
        Ok(())
    }
}

/// The queue grows with each connection that is not accepted, and shrinks with accept(); listen() sets its limit.
fn queue(play: &mut Play, host: &str) -> Result<()> {
    let listener = listen(&mut play.scene.s, host, 4)?;
    let mut fds = Vec::new();
    for (queue, take) in [(1, false), (2, false), (3, true), (3, true), (3, false)] {
        let (fd, row) = play.connect(&listener.at)?;
        // The last packet of the handshake is behind connect().
        wait::until("the queue", PATIENCE, || {
            Ok((play.scene.s.info(listener.fd)?["unacked"] == queue).then_some(()))
        })?;
        if take {
            play.scene.s.number(&format!("accept {}", listener.fd))?;
        }
        play.want(
            &row,
            &listener,
            json!({"accept_queue": queue, "accept_queue_max": 4}),
        );
        fds.push(fd);
    }
    play.close(&fds)?;
    play.scene
        .s
        .run(&format!("close {}", listener.fd))
        .map(drop)
}

/// One listener for both families; an IPv4 client is shown as IPv4.
fn dual_stack(play: &mut Play, host: &str) -> Result<()> {
    let listener = listen(&mut play.scene.s, "[::]:0", 16)?;
    let port = listener.at.rsplit_once(':').context("a port")?.1.to_owned();
    let (fd, row) = play.connect(&format!("{}:{port}", host.trim_end_matches(":0")))?;
    play.want(&row, &listener, json!({"accept_queue_max": 16}));
    play.close(&[fd])?;
    play.scene
        .s
        .run(&format!("close {}", listener.fd))
        .map(drop)
}

fn fast_open_listener(play: &mut Play, host: &str) -> Result<Listener> {
    for side in [Side::A, Side::B] {
        play.scene.net.side(side).sysctl("ipv4/tcp_fastopen", "3")?;
    }
    let listener = listen(&mut play.scene.s, host, 16)?;
    play.scene
        .s
        .option(listener.fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
    Ok(listener)
}

/// A first open that only asks for a cookie, and one whose SYN carries data: one row each.
fn fast_open(play: &mut Play, host: &str) -> Result<()> {
    let listener = fast_open_listener(play, host)?;
    for _ in 0..2 {
        let fd = play.scene.c.open(&listener.at)?;
        play.scene
            .c
            .run(&format!("fastopen {fd} {} 100", listener.at))?;
        let accepted = play.scene.s.number(&format!("accept {}", listener.fd))?;
        play.scene.s.run(&format!("recv {accepted} 100"))?;
        play.scene.c.run(&format!("drained {fd}"))?;
        let row = play.seen_from_there(fd)?;
        // The process may have had it in its hands before the handshake was over: then it is known from there.
        let mut want = merged(
            &row,
            json!({"pid": listener.pid, "comm": "server", "listener_cookie": listener.cookie}),
        );
        want["accept_queue_max"] = json!(16);
        play.wants.push(want);
        play.close(&[fd])?;
    }
    play.scene
        .s
        .run(&format!("close {}", listener.fd))
        .map(drop)
}

/// Fast Open lets a server close before the handshake is over. The kernel counts a passive open, and there is a row.
fn closed_in_handshake(play: &mut Play, host: &str) -> Result<()> {
    let listener = fast_open_listener(play, host)?;
    let before = play.scene.net.b.counters()?["Tcp.PassiveOpens"];
    let cookie = play.scene.c.open(&listener.at)?;
    play.scene
        .c
        .run(&format!("fastopen {cookie} {} 10", listener.at))?;
    let accepted = play.scene.s.number(&format!("accept {}", listener.fd))?;
    play.scene.c.run(&format!("drained {cookie}"))?;
    let row = play.seen_from_there(cookie)?;
    play.want(&row, &listener, json!({}));
    play.scene.s.run(&format!("close {accepted}"))?;

    let fd = play.scene.c.open(&listener.at)?;
    // The answer to the SYN does not arrive, so the handshake is not over when the server has its socket.
    play.scene.net.hold(Side::B)?;
    play.scene.c.run(&format!("nonblock {fd}"))?;
    let sent = play
        .scene
        .c
        .attempt(&format!("fastopen {fd} {} 10", listener.at))?;
    let accepted = play.scene.s.number(&format!("accept {}", listener.fd))?;
    play.scene.s.run(&format!("recv {accepted} 10"))?;
    play.scene.s.run(&format!("close {accepted}"))?;
    play.scene.net.release(Side::B)?;
    ensure!(sent.is_ok(), "no Fast Open: {sent:?}");
    let local: SocketAddr = play.scene.c.run(&format!("local {fd}"))?.parse()?;
    play.wants.push(json!({
        "netns": play.scene.net.b.inode, "rport": local.port(), "state": "FIN_WAIT1", "pid": play.scene.s.pid(),
        "listener_cookie": listener.cookie,
    }));
    play.close(&[cookie, fd])?;
    let opens = play.scene.net.b.counters()?["Tcp.PassiveOpens"] - before;
    ensure!(opens == 2, "{opens} passive opens");
    play.scene
        .s
        .run(&format!("close {}", listener.fd))
        .map(drop)
}

fn local_port(play: &mut Play, host: &str) -> Result<()> {
    for port in [7000, 7001, 7002] {
        let at = format!("{}:{port}", host.trim_end_matches(":0"));
        let listener = listen(&mut play.scene.s, &at, 16)?;
        let (fd, row) = play.connect(&at)?;
        if port != 7002 {
            play.want(&row, &listener, json!({}));
        }
        play.scene.s.number(&format!("accept {}", listener.fd))?;
        play.close(&[fd])?;
        play.scene.s.run(&format!("close {}", listener.fd))?;
    }
    Ok(())
}

/// What bcc has and we do not is refused with what does the same; a table has bcc's columns.
fn arguments() -> Result<()> {
    for (args, says) in [
        (&["--cgroupmap", "/x"][..], "--cgroup"),
        (&["--mntnsmap", "/x"], "--netns"),
        (&["--summary=soon"], "soon"),
        (&["-P", "http"], "http"),
    ] {
        let run = tool::run("tcpaccept", args)?;
        ensure!(
            run.status.code() == Some(2) && run.lines.is_empty(),
            "{args:?}: {run:?}"
        );
        ensure!(
            run.stderr.lines().count() == 1 && run.stderr.contains(says),
            "{args:?}: {run:?}"
        );
    }
    let tool = Tool::start("tcpaccept", &["-T", "-t", "--netns", "self"])?;
    let run = tool.stop()?;
    let header: Vec<_> = run.lines[0].split_whitespace().collect();
    ensure!(
        header
            == [
                "TIME", "TIME(s)", "PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT", "QLEN",
                "QMAX"
            ],
        "{header:?}"
    );
    Ok(())
}
