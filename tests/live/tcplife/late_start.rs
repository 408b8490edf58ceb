// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife starts after the listener, or in the middle of a session.

use anyhow::Result;
use libtest_mimic::Trial;
use serde_json::json;

use crate::scene::{ANSWER, End, HOSTS, REQUEST, Scene, merged};
use crate::{net::Side, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial(
            "tcplife::late_start::after_listener",
            || after_listener(&[]),
        ),
        trial("tcplife::late_start::after_listener_no_scan", || {
            after_listener(&["--no-scan"])
        }),
        trial("tcplife::late_start::open_sessions", open_sessions),
        trial("tcplife::late_start::silent_sessions", silent_sessions),
        trial("tcplife::late_start::bytes_in_flight", bytes_in_flight),
        trial("tcplife::late_start::half_closed", half_closed),
        trial("tcplife::late_start::no_scan", no_scan),
        trial("tcplife::late_start::forked_listener", forked_listener),
    ]
}

/// The end of a session that was open before.
fn partial(end: &End) -> End {
    End {
        row: merged(&end.row, json!({"partial": true})),
        ..end.clone()
    }
}

/// A client that resets leaves the server's process without a part in the end of its session.
fn reset_by_client(scene: &mut Scene, (c, s): &(End, End)) -> Result<()> {
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.over(s.port("lport"), s.port("rport"))?;
    scene.s.run(&format!("close {}", s.fd)).map(drop)
}

/// Nobody on the server's side touches the session but to accept it: the listener, found at the start, tells whose
/// it is; unless it was not looked for.
fn after_listener(args: &[&str]) -> Result<()> {
    let mut scene = Scene::new()?;
    let mut listeners = Vec::new();
    for host in HOSTS {
        listeners.push(scene.s.listen(host)?);
    }
    scene.watch(args)?;
    for (listener, at) in listeners {
        let ends = scene.connect(&at, listener)?;
        reset_by_client(&mut scene, &ends)?;
        scene.want(
            &ends.0,
            json!({"close_reason": "rst_sent", "pid_source": "socket"}),
        );
        let owner = if args.is_empty() {
            json!({"close_reason": "rst_received", "pid_source": "listener"})
        } else {
            json!({"close_reason": "rst_received", "pid": null, "comm": null, "pid_source": null})
        };
        scene.want(&ends.1, owner);
    }
    scene.finish()
}

/// Sessions that are open, and have talked, at the start: closed by each side in each way.
fn open_sessions() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        for _ in 0..3 {
            sessions.push(scene.talk(host)?);
        }
    }
    scene.watch(&[])?;
    for (i, (c, s)) in sessions.into_iter().enumerate() {
        let ends = (partial(&c), partial(&s));
        match i % 3 {
            0 => {
                scene.c.run(&format!("close {}", c.fd))?;
                scene.s.run(&format!("eof {}", s.fd))?;
                scene.s.run(&format!("close {}", s.fd))?;
                scene.want_talk(&ends, "fin_local", "fin_remote");
            }
            1 => {
                scene.s.run(&format!("close {}", s.fd))?;
                scene.c.run(&format!("eof {}", c.fd))?;
                scene.c.run(&format!("close {}", c.fd))?;
                scene.want_talk(&ends, "fin_remote", "fin_local");
            }
            _ => {
                reset_by_client(&mut scene, &(c, s))?;
                scene.want_talk(&ends, "rst_sent", "rst_received");
            }
        }
    }
    scene.finish()
}

/// Not a byte was sent before the start, by either side, nor after it by one side: exact all the same.
fn silent_sessions() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        sessions.push(scene.session(host)?);
        sessions.push(scene.session(host)?);
    }
    scene.watch(&[])?;
    for (i, (c, s)) in sessions.into_iter().enumerate() {
        let sent = if i % 2 == 0 { 0 } else { 77 };
        scene.c.run(&format!("send {} {sent}", c.fd))?;
        scene.s.run(&format!("recv {} {sent}", s.fd))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.c.run(&format!("eof {}", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.want_end(&partial(&c), "fin_remote", sent, 0);
        scene.want_end(&partial(&s), "fin_local", 0, sent);
    }
    scene.finish()
}

/// Both sides have bytes on the way when tcplife starts.
fn bytes_in_flight() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        sessions.push(scene.talk(host)?);
    }
    scene.net.hold(Side::A)?;
    scene.net.hold(Side::B)?;
    for (c, s) in &sessions {
        scene.c.run(&format!("send {} 5000", c.fd))?;
        scene.s.run(&format!("send {} 7000", s.fd))?;
    }
    scene.watch(&[])?;
    scene.net.release(Side::A)?;
    scene.net.release(Side::B)?;
    for (c, s) in sessions {
        scene.c.run(&format!("recv {} 7000", c.fd))?;
        scene.s.run(&format!("recv {} 5000", s.fd))?;
        scene.c.run(&format!("drained {}", c.fd))?;
        scene.s.run(&format!("drained {}", s.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.s.run(&format!("eof {}", s.fd))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.want_end(&partial(&c), "fin_local", REQUEST + 5000, ANSWER + 7000);
        scene.want_end(&partial(&s), "fin_remote", ANSWER + 7000, REQUEST + 5000);
    }
    scene.finish()
}

/// One side has finished before the start, and that was acknowledged.
fn half_closed() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let (c, s) = scene.talk(host)?;
        scene.c.run(&format!("shutdown {} wr", c.fd))?;
        scene.s.run(&format!("eof {}", s.fd))?;
        scene.c.run(&format!("drained {}", c.fd))?;
        sessions.push((c, s));
    }
    scene.watch(&[])?;
    for (c, s) in sessions {
        scene.s.run(&format!("send {} 5000", s.fd))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.c.run(&format!("eof {}", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.want_end(&partial(&c), "fin_local", REQUEST, ANSWER + 5000);
        scene.want_end(&partial(&s), "fin_remote", ANSWER + 5000, REQUEST);
    }
    scene.finish()
}

/// Without looking for what exists, who acts is known, and who does not is not.
fn no_scan() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        sessions.push(scene.talk(host)?);
    }
    scene.watch(&["--no-scan"])?;
    for ends in sessions {
        reset_by_client(&mut scene, &ends)?;
        let nobody = json!({"pid": null, "comm": null, "pid_source": null});
        let s = End {
            row: merged(&partial(&ends.1).row, nobody),
            ..ends.1
        };
        scene.want_talk(&(partial(&ends.0), s), "rst_sent", "rst_received");
    }
    scene.finish()
}

/// A parent and its child both hold the listener at the start; the child, which accepts, serves and closes, is named.
fn forked_listener() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    scene.s.fork(&[])?;
    scene.watch(&[])?;
    let (c, s) = scene.connect(&at, listener)?;
    scene.exchange(&c, &s)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "fin_remote", "fin_local");
    scene.finish()
}
