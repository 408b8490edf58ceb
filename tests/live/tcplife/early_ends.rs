// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions that never were: refused, timed out, unreachable, given up; and those that nobody accepted.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::{errno::Errno, libc};
use serde_json::{Value, json};

use crate::scene::{End, Scene, end, merged, scene};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("early_ends::refused", refused),
        scene("early_ends::refused_by_icmp", refused_by_icmp),
        scene("early_ends::unreachable", unreachable_host),
        scene("early_ends::no_route", no_route),
        scene("early_ends::syn_timeout", syn_timeout),
        scene("early_ends::given_up", given_up),
        scene("early_ends::listener_closed", listener_closed),
        scene("early_ends::reset_before_accept", reset_before_accept),
    ]
}

const PORT: u16 = 9999;

/// A client's socket bound to its port, so that it can be known before it connects; and where it is to connect to.
fn unconnected(scene: &mut Scene, host: &str) -> Result<(End, String)> {
    let to = host.replace(":0", &format!(":{PORT}"));
    let fd = scene.c.open(&to)?;
    let from = to
        .replace("10.9.0.2", "10.9.0.1")
        .replace("fd09::2", "fd09::1")
        .replace("9999", "0");
    scene.c.run(&format!("bind {fd} {from}"))?;
    let local: std::net::SocketAddr = scene.c.run(&format!("local {fd}"))?.parse()?;
    let remote: std::net::SocketAddr = to.parse()?;
    let row = json!({
        "event": "session", "netns": scene.net.a.inode, "cookie": scene.c.number(&format!("cookie {fd}"))?,
        "family": if local.is_ipv4() { 4 } else { 6 },
        "laddr": local.ip().to_string(), "lport": local.port(),
        "raddr": remote.ip().to_string(), "rport": PORT,
        "pid": scene.c.pid(), "comm": "client", "uid": 0, "pid_source": "socket", "partial": false,
        "tx_bytes": 0, "rx_bytes": 0, "state": "SYN_SENT", "mptcp": null,
    });
    Ok((End { fd, row }, to))
}

/// Rules for what arrives at the server's side for the port.
fn on_arrival(scene: &Scene, verdict: &str) -> Result<()> {
    scene.net.b.nft(&format!(
        "add table inet t\nadd chain inet t in {{ type filter hook input priority 0; }}\n\
         flush chain inet t in\nadd rule inet t in tcp dport {PORT} {verdict}\n"
    ))
}

/// connect() fails in this way, and the row agrees.
fn fails(scene: &mut Scene, host: &str, errno: i32, reason: &str) -> Result<()> {
    let (c, to) = unconnected(scene, host)?;
    scene.c.fails(&format!("connect {} {to}", c.fd), errno)?;
    scene.c.run(&format!("close {}", c.fd))?;
    let error = format!("{:?}", Errno::from_raw(errno));
    scene.want(
        &c,
        json!({"close_reason": reason, "errno": errno, "error": error}),
    );
    Ok(())
}

fn refused(scene: &mut Scene, host: &str) -> Result<()> {
    fails(scene, host, libc::ECONNREFUSED, "refused")
}

fn refused_by_icmp(scene: &mut Scene, host: &str) -> Result<()> {
    on_arrival(scene, "reject with icmpx type port-unreachable")?;
    fails(scene, host, libc::ECONNREFUSED, "refused")
}

fn unreachable_host(scene: &mut Scene, host: &str) -> Result<()> {
    on_arrival(scene, "reject with icmpx type host-unreachable")?;
    fails(scene, host, libc::EHOSTUNREACH, "unreachable")
}

/// No way out of the host: no session begins, and so no row.
fn no_route(scene: &mut Scene, host: &str) -> Result<()> {
    let to = if host.starts_with('[') {
        "[fd99::1]:80"
    } else {
        "10.99.0.1:80"
    };
    let fd = scene.c.open(to)?;
    scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ENETUNREACH)?;
    scene.c.run(&format!("close {fd}")).map(drop)
}

fn syn_timeout(scene: &mut Scene, host: &str) -> Result<()> {
    on_arrival(scene, "drop")?;
    let (c, to) = unconnected(scene, host)?;
    scene
        .c
        .option(c.fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 500)?;
    scene
        .c
        .fails(&format!("connect {} {to}", c.fd), libc::ETIMEDOUT)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want(
        &c,
        json!({"close_reason": "timeout", "errno": libc::ETIMEDOUT}),
    );
    Ok(())
}

/// The client does not want to wait any more.
fn given_up(scene: &mut Scene, host: &str) -> Result<()> {
    on_arrival(scene, "drop")?;
    let (c, to) = unconnected(scene, host)?;
    scene.c.run(&format!("nonblock {}", c.fd))?;
    scene
        .c
        .fails(&format!("connect {} {to}", c.fd), libc::EINPROGRESS)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want(&c, json!({"close_reason": "aborted"}));
    Ok(())
}

/// The other end of a session that the server's process never got to see: known by its ports.
fn never_accepted(scene: &Scene, client: &Value) -> Value {
    let mut row = merged(
        client,
        json!({
            "netns": scene.net.b.inode, "pid": scene.s.pid(), "comm": "server", "pid_source": "listener",
            "laddr": client["raddr"], "lport": client["rport"], "raddr": client["laddr"], "rport": client["lport"],
        }),
    );
    row.as_object_mut().map(|fields| fields.remove("cookie"));
    row
}

/// A listener that goes resets what waits to be accepted.
fn listener_closed(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    scene.c.run(&format!("connect {fd} {at}"))?;
    let c = end(&mut scene.c, &scene.net.a, fd)?;
    scene.c.run(&format!("send {fd} 10"))?;
    scene.c.run(&format!("drained {fd}"))?;
    scene.s.run(&format!("close {listener}"))?;
    scene.c.fails(&format!("recv {fd} 1"), libc::ECONNRESET)?;
    scene.c.run(&format!("close {fd}"))?;
    let s = End {
        fd: 0,
        row: never_accepted(scene, &c.row),
    };
    scene.want_end(&c, "rst_received", 10, 0);
    scene.want_end(&s, "rst_sent", 0, 10);
    Ok(())
}

/// The client resets before the server looks.
fn reset_before_accept(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    scene.c.run(&format!("connect {fd} {at}"))?;
    let c = end(&mut scene.c, &scene.net.a, fd)?;
    scene.c.run(&format!("linger0 {fd}"))?;
    scene.c.run(&format!("close {fd}"))?;
    scene.net.b.quiet()?;
    let accepted = scene.s.number(&format!("accept {listener}"))?;
    scene.s.run(&format!("close {accepted}"))?;
    scene.s.run(&format!("close {listener}"))?;
    let s = End {
        fd: 0,
        row: never_accepted(scene, &c.row),
    };
    scene.want_end(&c, "rst_sent", 0, 0);
    scene.want_end(&s, "rst_received", 0, 0);
    Ok(())
}
