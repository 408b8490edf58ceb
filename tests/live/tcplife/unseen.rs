// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that no process holds when tcplife starts, or that have only begun: nothing to be found by, all the same
//! one row each.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::libc;
use serde_json::json;

use crate::scene::{ANSWER, End, HOSTS, REQUEST, Scene, merged};
use crate::{missing::needs_cookies, net::Side, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial(
            "tcplife::unseen::waiting_to_be_accepted",
            waiting_to_be_accepted,
        ),
        trial(
            "tcplife::unseen::reset_before_accepted",
            reset_before_accepted,
        ),
        trial("tcplife::unseen::orphans", orphans),
        trial("tcplife::unseen::connecting", connecting),
        trial(
            "tcplife::unseen::half_closed_then_reset",
            half_closed_then_reset,
        ),
    ]
}

fn nobody() -> serde_json::Value {
    json!({"partial": true, "pid": null, "comm": null, "pid_source": null})
}

fn with(end: &End, fields: serde_json::Value) -> End {
    End {
        row: merged(&end.row, fields),
        ..end.clone()
    }
}

/// Connected before the start, accepted, served and closed after it.
fn waiting_to_be_accepted() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let (listener, at) = scene.s.listen(host)?;
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        sessions.push((fd, listener));
    }
    scene.watch(&[])?;
    for (fd, listener) in sessions {
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let (c, s) = (scene.client(fd)?, scene.server(accepted)?);
        scene.exchange(&c, &s)?;
        scene.s.run(&format!("close {accepted}"))?;
        scene.c.run(&format!("eof {fd}"))?;
        scene.c.run(&format!("close {fd}"))?;
        let partial = json!({"partial": true});
        scene.want_talk(
            &(with(&c, partial.clone()), with(&s, partial)),
            "fin_remote",
            "fin_local",
        );
    }
    scene.finish()
}

/// Connected before the start, reset after it, and not accepted: no owner, or the listener's process.
fn reset_before_accepted() -> Result<()> {
    needs_cookies()?;
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let (listener, at) = scene.s.listen(host)?;
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        sessions.push((scene.client(fd)?, listener));
    }
    scene.watch(&[])?;
    for (c, listener) in sessions {
        scene.c.run(&format!("linger0 {}", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.net.b.over(c.port("rport"), c.port("lport"))?;
        // The socket is still there to be asked who it was.
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let cookie = scene.s.number(&format!("cookie {accepted}"))?;
        scene.s.run(&format!("close {accepted}"))?;
        scene.want_end(&with(&c, json!({"partial": true})), "rst_sent", 0, 0);
        let row = json!({
            "event": "session", "netns": scene.net.b.inode, "cookie": cookie, "partial": true,
            "lport": c.row["rport"], "rport": c.row["lport"], "not_pid": scene.c.pid(),
        });
        scene.want_end(&End { fd: accepted, row }, "rst_received", 0, 0);
    }
    scene.finish()
}

/// The process has closed and forgotten it, but its last bytes and its FIN are still on the way.
fn orphans() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        sessions.push(scene.talk(host)?);
    }
    scene.net.hold(Side::A)?;
    for (c, _) in &sessions {
        scene.c.run(&format!("send {} 5000", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
    }
    scene.watch(&[])?;
    scene.net.release(Side::A)?;
    for (c, s) in sessions {
        scene.s.run(&format!("recv {} 5000", s.fd))?;
        scene.s.run(&format!("eof {}", s.fd))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.want_end(&with(&c, nobody()), "fin_local", REQUEST + 5000, ANSWER);
        scene.want_end(
            &with(&s, json!({"partial": true})),
            "fin_remote",
            ANSWER,
            REQUEST + 5000,
        );
    }
    scene.finish()
}

/// The SYN has left before the start; the session begins after it.
fn connecting() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let (listener, at) = scene.s.listen(host)?;
        sessions.push((scene.c.open(&at)?, listener, at));
    }
    scene.net.hold(Side::A)?;
    for (fd, _, at) in &sessions {
        scene.c.run(&format!("nonblock {fd}"))?;
        scene
            .c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    }
    scene.watch(&[])?;
    scene.net.release(Side::A)?;
    for (fd, listener, _) in sessions {
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let (c, s) = (scene.client(fd)?, scene.server(accepted)?);
        scene.c.run(&format!("send {fd} 321"))?;
        scene.s.run(&format!("recv {accepted} 321"))?;
        scene.c.run(&format!("close {fd}"))?;
        scene.s.run(&format!("eof {accepted}"))?;
        scene.s.run(&format!("close {accepted}"))?;
        scene.want_end(&c, "fin_local", 321, 0);
        scene.want_end(&s, "fin_remote", 0, 321);
    }
    scene.finish()
}

/// One side had finished before the start, then the other one resets; and nobody looked for what exists.
fn half_closed_then_reset() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let (c, s) = scene.talk(host)?;
        scene.s.run(&format!("shutdown {} wr", s.fd))?;
        scene.c.run(&format!("eof {}", c.fd))?;
        scene.s.run(&format!("drained {}", s.fd))?;
        sessions.push((c, s));
    }
    scene.watch(&["--no-scan"])?;
    for (c, s) in sessions {
        scene.c.run(&format!("linger0 {}", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.net.b.over(s.port("lport"), s.port("rport"))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.want_talk(
            &(with(&c, json!({"partial": true})), with(&s, nobody())),
            "rst_sent",
            "rst_received",
        );
    }
    scene.finish()
}
