// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPv4 in IPv6 clothes, MPTCP, and a socket that talks to itself.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::json;

use crate::scene::{ANSWER, End, HOSTS, REQUEST, Scene, end, merged};
use crate::{
    missing::{needs_mptcp, needs_mptcp_bytes},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial(
            "tcplife::families::dual_stack_listener",
            dual_stack_listener,
        ),
        trial("tcplife::families::loopback", loopback),
        trial("tcplife::families::self_connect", self_connect),
        trial("tcplife::families::fast_open", fast_open),
        trial("tcplife::families::mptcp", || mptcp(&[])),
        trial("tcplife::families::mptcp_parents", || mptcp(&["--mptcp"])),
        trial("tcplife::families::mptcp_fallback", mptcp_fallback),
    ]
}

fn watched(args: &[&str]) -> Result<Scene> {
    let mut scene = Scene::new()?;
    scene.watch(args)?;
    Ok(scene)
}

/// Closes as most sessions do, and wants both rows.
fn close_client_first(scene: &mut Scene, ends: &(End, End)) -> Result<()> {
    scene.c.run(&format!("close {}", ends.0.fd))?;
    scene.s.run(&format!("eof {}", ends.1.fd))?;
    scene.s.run(&format!("close {}", ends.1.fd)).map(drop)
}

/// An IPv4 client of an IPv6 listener, with an IPv4 socket and with an IPv6 one: IPv4 at both ends.
fn dual_stack_listener() -> Result<()> {
    let mut scene = watched(&[])?;
    let (listener, at) = scene.s.listen("[::]:0")?;
    let port = at.trim_start_matches("[::]:");
    for to in [
        format!("10.9.0.2:{port}"),
        format!("[::ffff:10.9.0.2]:{port}"),
    ] {
        let ends = scene.connect(&to, listener)?;
        ensure!(
            ends.1.row["family"] == 4 && ends.1.row["laddr"] == "10.9.0.2",
            "{}",
            ends.1.row
        );
        scene.exchange(&ends.0, &ends.1)?;
        close_client_first(&mut scene, &ends)?;
        scene.want_talk(&ends, "fin_local", "fin_remote");
    }
    scene.finish()
}

/// Both processes on one host: what the network does for either runs in the other one's time.
fn loopback() -> Result<()> {
    let mut scene = watched(&[])?;
    scene.s = scene.net.a.agent()?;
    scene.s.comm("server")?;
    for (host, server_first) in [
        ("127.0.0.1:0", false),
        ("127.0.0.1:0", true),
        ("[::1]:0", false),
        ("[::1]:0", true),
    ] {
        let (listener, at) = scene.s.listen(host)?;
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let ends = (
            end(&mut scene.c, &scene.net.a, fd)?,
            end(&mut scene.s, &scene.net.a, accepted)?,
        );
        scene.exchange(&ends.0, &ends.1)?;
        if server_first {
            scene.s.run(&format!("close {accepted}"))?;
            scene.c.run(&format!("eof {fd}"))?;
            scene.c.run(&format!("close {fd}"))?;
            scene.want_talk(&ends, "fin_remote", "fin_local");
        } else {
            close_client_first(&mut scene, &ends)?;
            scene.want_talk(&ends, "fin_local", "fin_remote");
        }
    }
    scene.finish()
}

/// Data in the SYN, accepted without a cookie.
fn fast_open() -> Result<()> {
    let mut scene = watched(&[])?;
    for ns in [&scene.net.a, &scene.net.b] {
        ns.sysctl("ipv4/tcp_fastopen", "519")?;
    }
    for host in HOSTS {
        let (listener, at) = scene.s.listen(host)?;
        scene
            .s
            .option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("fastopen {fd} {at} 600"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let ends = (scene.client(fd)?, scene.server(accepted)?);
        scene.s.run(&format!("recv {accepted} 600"))?;
        scene.exchange(&ends.0, &ends.1)?;
        close_client_first(&mut scene, &ends)?;
        scene.want_end(&ends.0, "fin_local", REQUEST + 600, ANSWER);
        scene.want_end(&ends.1, "fin_remote", ANSWER, REQUEST + 600);
    }
    let in_syn = scene.net.b.counters()?["TcpExt.TCPFastOpenPassive"];
    ensure!(in_syn == 2, "{in_syn} of 2 sessions had data in the SYN");
    scene.finish()
}

/// A simultaneous open with itself: one socket, both ends in one row.
fn self_connect() -> Result<()> {
    let mut scene = watched(&[])?;
    for at in ["127.0.0.1:7777", "[::1]:7777"] {
        let fd = scene.c.open(at)?;
        scene.c.run(&format!("bind {fd} {at}"))?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let end = scene.client(fd)?;
        scene.c.run(&format!("send {fd} 1234"))?;
        scene.c.run(&format!("recv {fd} 1234"))?;
        scene.c.run(&format!("drained {fd}"))?;
        scene.c.run(&format!("close {fd}"))?;
        scene.want_end(&end, "fin_both", 1234, 1234);
    }
    scene.finish()
}

/// The connection's socket has another cookie than its only subflow, which is TCP on the wire.
fn subflow(end: &End) -> End {
    let mut row = merged(&end.row, json!({"mptcp": "subflow"}));
    row.as_object_mut().map(|fields| fields.remove("cookie"));
    End { row, ..end.clone() }
}

/// One row per end, of the subflow; and one of the connection above it if it is asked for.
fn mptcp(args: &[&str]) -> Result<()> {
    needs_mptcp()?;
    if !args.is_empty() {
        needs_mptcp_bytes()?;
    }
    let mut scene = watched(args)?;
    for host in HOSTS {
        let family = if host.starts_with('[') { 6 } else { 4 };
        let listener = scene.s.number(&format!("socket {family} mptcp"))?;
        scene.s.run(&format!("bind {listener} {host}"))?;
        scene.s.run(&format!("listen {listener} 16"))?;
        let at = scene.s.run(&format!("local {listener}"))?;
        let fd = scene.c.number(&format!("socket {family} mptcp"))?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let ends = (scene.client(fd)?, scene.server(accepted)?);
        scene.exchange(&ends.0, &ends.1)?;
        close_client_first(&mut scene, &ends)?;
        let (c, s) = (subflow(&ends.0), subflow(&ends.1));
        scene.want(&c, json!({"tx_bytes": REQUEST, "rx_bytes": ANSWER}));
        scene.want(&s, json!({"tx_bytes": ANSWER, "rx_bytes": REQUEST}));
        if !args.is_empty() {
            scene.want(
                &ends.0,
                json!({"mptcp": "parent", "tx_bytes": REQUEST, "rx_bytes": ANSWER}),
            );
            scene.want(
                &ends.1,
                json!({"mptcp": "parent", "tx_bytes": ANSWER, "rx_bytes": REQUEST}),
            );
        }
    }
    scene.finish()
}

/// An MPTCP client of a TCP server talks plain TCP.
fn mptcp_fallback() -> Result<()> {
    needs_mptcp()?;
    let mut scene = watched(&[])?;
    for host in HOSTS {
        let (listener, at) = scene.s.listen(host)?;
        let family = if host.starts_with('[') { 6 } else { 4 };
        let fd = scene.c.number(&format!("socket {family} mptcp"))?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let (c, s) = (scene.client(fd)?, scene.server(accepted)?);
        scene.exchange(&c, &s)?;
        close_client_first(&mut scene, &(c.clone(), s.clone()))?;
        let mut row = c.row.clone();
        // Whether it still counts as a subflow after falling back is the kernel's business.
        row.as_object_mut()
            .map(|fields| (fields.remove("cookie"), fields.remove("mptcp")));
        scene.want_end(&End { row, ..c }, "fin_local", REQUEST, ANSWER);
        scene.want_end(&s, "fin_remote", ANSWER, REQUEST);
    }
    scene.finish()
}
