// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owners of sessions: threads, children, exec, listeners passed on. A PID is right or blank.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::libc;
use serde_json::json;

use crate::scene::{ANSWER, End, REQUEST, Scene, end, merged, scene};
use crate::{
    scratch::Scratch,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("owners::threads", threads),
        scene("owners::forked_child_closes", forked_child_closes),
        scene("owners::forked_child_is_reset", forked_child_is_reset),
        scene("owners::forked_child_exits", forked_child_exits),
        scene("owners::forked_client", forked_client),
        scene("owners::exec", exec),
        scene("owners::inherited_listener", inherited_listener),
        scene(
            "owners::inherited_listener_silent",
            inherited_listener_silent,
        ),
        scene("owners::socket_activation", socket_activation),
        scene("owners::handed_over", handed_over),
        scene("owners::other_user", other_user),
        scene("owners::reuseport", reuseport),
    ]
}

/// The end as it is after its socket has passed to whoever the agent is now.
fn now_of(end: &End, pid: u32, comm: &str) -> End {
    End {
        row: merged(&end.row, json!({"pid": pid, "comm": comm})),
        ..end.clone()
    }
}

/// A thread counts for its process, under the name of the process.
fn threads(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    scene.c.in_thread("worker", &format!("connect {fd} {at}"))?;
    let accepted: u64 = scene
        .s
        .in_thread("acceptor", &format!("accept {listener}"))?
        .parse()?;
    let ends = (scene.client(fd)?, scene.server(accepted)?);
    scene.exchange(&ends.0, &ends.1)?;
    scene.c.in_thread("closer", &format!("close {fd}"))?;
    scene.s.run(&format!("eof {accepted}"))?;
    scene.s.in_thread("closer", &format!("close {accepted}"))?;
    scene.s.run(&format!("close {listener}"))?;
    scene.want_talk(&ends, "fin_local", "fin_remote");
    Ok(())
}

/// A server that forks for each session: the child serves it and closes.
fn forked_child_closes(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.session(host)?;
    let child = scene.s.fork(&[s.fd])?;
    scene.s.comm("child")?;
    scene.exchange(&c, &s)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.s.exit_child()?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, now_of(&s, child, "child")), "fin_remote", "fin_local");
    Ok(())
}

/// The child has read, then the client resets: no local process acts on the end.
fn forked_child_is_reset(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.session(host)?;
    let child = scene.s.fork(&[s.fd])?;
    scene.s.comm("child")?;
    scene.exchange(&c, &s)?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.quiet()?;
    scene.s.exit_child()?;
    let s = now_of(&s, child, "child");
    scene.want_end(&c, "rst_sent", REQUEST, ANSWER);
    // The name that it had when it was seen last, or has now.
    let mut row = s.row.clone();
    row.as_object_mut().map(|fields| fields.remove("comm"));
    scene.want_end(&End { row, ..s }, "rst_received", ANSWER, REQUEST);
    Ok(())
}

/// The child just ends, with the session open.
fn forked_child_exits(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.session(host)?;
    let child = scene.s.fork(&[s.fd])?;
    scene.exchange(&c, &s)?;
    scene.s.exit_child()?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, now_of(&s, child, "server")), "fin_remote", "fin_local");
    Ok(())
}

/// The child of a client connects and closes.
fn forked_client(scene: &mut Scene, host: &str) -> Result<()> {
    let child = scene.c.fork(&[])?;
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.c.exit_child()?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(now_of(&c, child, "client"), s), "fin_local", "fin_remote");
    Ok(())
}

/// The same process under a new name.
fn exec(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("exec newclient {}", c.fd))?;
    scene.s.run(&format!("exec newserver {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    let ends = (
        now_of(&c, scene.c.pid(), "newclient"),
        now_of(&s, scene.s.pid(), "newserver"),
    );
    scene.want_talk(&ends, "fin_local", "fin_remote");
    scene.c.comm("client")?;
    scene.s.comm("server")
}

/// The parent listens, a child accepts, reads, and is reset.
fn inherited_listener(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    scene.s.fork(&[listener])?;
    let (c, s) = scene.connect(&at, listener)?;
    scene.exchange(&c, &s)?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.quiet()?;
    scene.s.exit_child()?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// As before, but the child has done nothing with the session: all that is known is who called listen(), and the row
/// says that it is no more than that.
fn inherited_listener_silent(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let parent = scene.s.pid();
    scene.s.fork(&[listener])?;
    let (c, s) = scene.connect(&at, listener)?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.quiet()?;
    scene.s.exit_child()?;
    let row = merged(&s.row, json!({"pid": parent, "pid_source": "listener"}));
    scene.want_end(&c, "rst_sent", 0, 0);
    scene.want_end(&End { row, ..s }, "rst_received", 0, 0);
    Ok(())
}

/// Another process has listened and handed its socket on, as systemd does; the server reads and is reset.
fn socket_activation(scene: &mut Scene, host: &str) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    let mut activator = scene.net.b.agent()?;
    let (theirs, at) = activator.listen(host)?;
    activator.run(&format!("give {theirs} {}", mailbox.text()))?;
    let listener = scene.s.number("take")?;
    let (c, s) = scene.connect(&at, listener)?;
    scene.exchange(&c, &s)?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.quiet()?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.s.run(&format!("close {listener}"))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// Accepted by one process, handed to another one, which serves it and closes.
fn handed_over(scene: &mut Scene, host: &str) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    let mut acceptor = scene.net.b.agent()?;
    let (listener, at) = acceptor.listen(host)?;
    let fd = scene.c.open(&at)?;
    scene.c.run(&format!("connect {fd} {at}"))?;
    let accepted = acceptor.number(&format!("accept {listener}"))?;
    acceptor.run(&format!("give {accepted} {}", mailbox.text()))?;
    acceptor.run(&format!("close {accepted}"))?;
    let fd_there = scene.s.number("take")?;
    let ends = (scene.client(fd)?, scene.server(fd_there)?);
    scene.exchange(&ends.0, &ends.1)?;
    scene.s.run(&format!("close {fd_there}"))?;
    scene.c.run(&format!("eof {fd}"))?;
    scene.c.run(&format!("close {fd}"))?;
    scene.want_talk(&ends, "fin_remote", "fin_local");
    Ok(())
}

/// The uid is that of who made the socket.
fn other_user(scene: &mut Scene, host: &str) -> Result<()> {
    const NOBODY: u32 = 65534;
    scene.c.fork(&[])?;
    scene.c.run(&format!("uid {NOBODY}"))?;
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.c.exit_child()?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    let c = End {
        row: merged(&c.row, json!({"uid": NOBODY})),
        ..c
    };
    scene.want_talk(&(c, s), "fin_local", "fin_remote");
    Ok(())
}

/// Two processes share a port: each session belongs to the one whose listener received it, even before it acts on it.
fn reuseport(scene: &mut Scene, host: &str) -> Result<()> {
    let mut second = scene.net.b.agent()?;
    let open = scene.s.open(host)?;
    scene
        .s
        .option(open, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    scene.s.run(&format!("bind {open} {host}"))?;
    let at = scene.s.run(&format!("local {open}"))?;
    scene.s.run(&format!("listen {open} 16"))?;
    let other = second.open(host)?;
    second.option(other, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    second.run(&format!("bind {other} {at}"))?;
    second.run(&format!("listen {other} 16"))?;
    scene.s.run(&format!("nonblock {open}"))?;
    second.run(&format!("nonblock {other}"))?;
    for _ in 0..12 {
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let c = scene.client(fd)?;
        // Either may have it, and soon, but not before the last packet of the handshake.
        let s = wait::until("the session", PATIENCE, || {
            if let Ok(accepted) = scene.s.attempt(&format!("accept {open}"))? {
                return scene.server(accepted.parse()?).map(Some);
            }
            match second.attempt(&format!("accept {other}"))? {
                Ok(accepted) => end(&mut second, &scene.net.b, accepted.parse()?).map(Some),
                Err(_) => Ok(None),
            }
        })?;
        scene.c.run(&format!("linger0 {fd}"))?;
        scene.c.run(&format!("close {fd}"))?;
        scene.net.b.over(s.port("lport"), s.port("rport"))?;
        scene.want_end(&c, "rst_sent", 0, 0);
        scene.want_end(&s, "rst_received", 0, 0);
    }
    scene.s.run(&format!("close {open}")).map(drop)
}
