// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpaccept against passive opens whose listener and queue the test knows.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    net::Side,
    peer::Agent,
    scratch::Scratch,
    tcplife::scene::{HOSTS, Scene, compare, merged},
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        play("queue", &[], queue),
        play("dual_stack", &[], dual_stack),
        play("inherited", &[], inherited),
        play("orphaned", &[], orphaned),
        play("socket_activation", &[], socket_activation),
        play("activator_gone", &[], activator_gone),
        play("reuseport", &[], reuseport),
        play("fast_open", &[], fast_open),
        play("closed_in_handshake", &[], closed_in_handshake),
        play("local_port", &["-P", "7000-7001"], local_port),
        trial("tcpaccept::listening_before", listening_before),
        trial("tcpaccept::not_seeded", not_seeded),
        trial("tcpaccept::arguments", arguments),
    ]
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

    /// The client connects; its descriptor, and what the row of the other end must say.
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

/// The queue grows with each that nobody takes, and shrinks when one is taken; listen() sets its limit.
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

/// A child accepts; what is known at the handshake is whose the listener is, and that parent lives.
fn inherited(play: &mut Play, host: &str) -> Result<()> {
    let listener = listen(&mut play.scene.s, host, 16)?;
    play.scene.s.fork(&[listener.fd])?;
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {}", listener.fd))?;
    play.want(&row, &listener, json!({}));
    play.close(&[fd])?;
    play.scene.s.exit_child()
}

/// Who called listen() has exited: no process is named, and least of all the one that has its number now.
fn orphaned(play: &mut Play, host: &str) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    play.scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    play.scene.s.fork(&[])?;
    let listener = listen(&mut play.scene.s, host, 16)?;
    play.scene
        .s
        .run(&format!("give {} {}", listener.fd, mailbox.text()))?;
    play.scene.s.exit_child()?;
    let heir = play.scene.s.number("take")?;
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {heir}"))?;
    let nobody = json!({"pid": null, "comm": null, "pid_source": null, "accept_queue_max": 16});
    play.want(&row, &listener, nobody);
    play.close(&[fd])?;
    play.scene.s.run(&format!("close {heir}")).map(drop)
}

/// As systemd does: it listens and lives on, another process serves. The row says whose the listener is.
fn socket_activation(play: &mut Play, host: &str) -> Result<()> {
    activated(play, host, true)
}

/// As inetd's heirs do: who has listened is gone.
fn activator_gone(play: &mut Play, host: &str) -> Result<()> {
    activated(play, host, false)
}

fn activated(play: &mut Play, host: &str, lives: bool) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    play.scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    let mut activator = play.scene.net.b.agent()?;
    activator.comm("server")?;
    let listener = listen(&mut activator, host, 16)?;
    activator.run(&format!("give {} {}", listener.fd, mailbox.text()))?;
    let taken = play.scene.s.number("take")?;
    let activator = if lives {
        Some(activator)
    } else {
        activator.kill()?;
        None
    };
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {taken}"))?;
    let owner = if lives {
        json!({})
    } else {
        json!({"pid": null, "comm": null, "pid_source": null})
    };
    play.want(&row, &listener, owner);
    play.close(&[fd])?;
    drop(activator);
    play.scene.s.run(&format!("close {taken}")).map(drop)
}

/// Two processes share a port: each open is of the one whose listener got it.
fn reuseport(play: &mut Play, host: &str) -> Result<()> {
    let first = listen(&mut play.scene.s, host, 16)?;
    let mut other = play.scene.net.b.agent()?;
    other.comm("server")?;
    let second = listen(&mut other, &first.at, 16)?;
    play.scene.s.run(&format!("nonblock {}", first.fd))?;
    other.run(&format!("nonblock {}", second.fd))?;
    for _ in 0..16 {
        let (fd, row) = play.connect(&first.at)?;
        let of_first = wait::until("the open", PATIENCE, || {
            if play
                .scene
                .s
                .attempt(&format!("accept {}", first.fd))?
                .is_ok()
            {
                return Ok(Some(true));
            }
            let other = other.attempt(&format!("accept {}", second.fd))?;
            Ok(other.is_ok().then_some(false))
        })?;
        play.want(
            &row,
            if of_first { &first } else { &second },
            json!({"accept_queue": 1}),
        );
        play.close(&[fd])?;
    }
    play.scene.s.run(&format!("close {}", first.fd)).map(drop)
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

/// A listener that was there before is found, with its owner and its queue.
fn listening_before() -> Result<()> {
    before(&[], |listener| {
        json!({"pid": listener.pid, "comm": "server", "pid_source": "listener",
               "listener_cookie": listener.cookie, "accept_queue": 1, "accept_queue_max": 16})
    })
}

/// Without looking for it nothing is known of it, and nothing is claimed.
fn not_seeded() -> Result<()> {
    before(&["--no-seed"], |_| {
        json!({"pid": null, "comm": null, "pid_source": null,
               "listener_cookie": null, "accept_queue": null, "accept_queue_max": null})
    })
}

fn before(args: &[&str], fields: fn(&Listener) -> Value) -> Result<()> {
    let mut play = Play::new()?;
    let mut listeners = Vec::new();
    for host in HOSTS {
        listeners.push(listen(&mut play.scene.s, host, 16)?);
    }
    let tool = play.watch(args)?;
    for listener in listeners {
        let (fd, row) = play.connect(&listener.at)?;
        play.scene.s.number(&format!("accept {}", listener.fd))?;
        play.wants.push(merged(&row, fields(&listener)));
        play.close(&[fd])?;
    }
    play.finish(tool)
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
