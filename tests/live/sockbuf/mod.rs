// SPDX-License-Identifier: MIT OR Apache-2.0
//! sockbuf against buffers that really overflow and limits that are really met: the kernel's counters, and the drops
//! of the socket itself.

mod counters;
mod memory;
mod summary;

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{self, SO_RCVBUF, SOL_SOCKET};
use serde_json::{Value, json};

pub use memory::{Sysctl, tcp_sockets};

use crate::{net::Netns, peer::Agent, tool::Tool, trace::Trace, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("sockbuf::udp", udp),
        trial("sockbuf::udp_existing", udp_before),
        trial("sockbuf::udp_filters", udp_filters),
        trial("sockbuf::udp_during_scans", udp_during_scans),
        trial("sockbuf::ping", ping),
        trial("sockbuf::packet", packet),
        trial("sockbuf::udp_mem", memory::udp_mem),
        trial("sockbuf::memcg", memory::memcg),
        trial("sockbuf::summary::udp", summary::udp),
        trial("sockbuf::summary::udp_mem", summary::udp_mem),
        trial("sockbuf::summary::dual_stack", summary::dual_stack),
        trial("sockbuf::summary::intervals", summary::intervals),
        trial("sockbuf::summary::formats", summary::formats),
        trial(
            "sockbuf::counters::listen_overflow",
            counters::listen_overflow,
        ),
        trial("sockbuf::counters::pruned", counters::pruned),
        trial("sockbuf::counters::backlog", counters::backlog),
        trial("sockbuf::counters::undelivered", counters::undelivered),
        trial(
            "sockbuf::counters::udp_without_btf",
            counters::udp_without_btf,
        ),
        trial(
            "sockbuf::counters::ended_namespace",
            counters::ended_namespace,
        ),
    ]
}

/// Tests that need the host for themselves.
pub fn alone() -> Vec<Trial> {
    vec![trial("sockbuf::tcp_mem", memory::tcp_mem)]
}

const HOSTS: [(&str, i32, &str); 2] = [
    ("127.0.0.1:0", libc::AF_INET, "UDP"),
    ("[::1]:0", libc::AF_INET6, "UDPv6"),
];

/// The limits of UDP's memory are the whole host's: tests that set them, or would meet them, take turns.
pub fn udp_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(net: &Netns, args: &[&str]) -> Result<Tool> {
    let inode = net.inode.to_string();
    Tool::start("sockbuf", &[&["--json", "--netns", &inode], args].concat())
}

pub fn any(agent: &mut Agent, family: i32, kind: i32, protocol: i32) -> Result<u64> {
    agent.number(&format!("any {family} {kind} {protocol}"))
}

/// A UDP socket without a reader, with room for a few datagrams, and its address.
pub fn sink(agent: &mut Agent, host: &str, family: i32) -> Result<(u64, String)> {
    let fd = any(agent, family, libc::SOCK_DGRAM, 0)?;
    agent.option(fd, SOL_SOCKET, SO_RCVBUF, 4096)?;
    agent.run(&format!("bind {fd} {host}"))?;
    Ok((fd, agent.run(&format!("local {fd}"))?))
}

pub fn flood(agent: &mut Agent, family: i32, at: &str, bytes: usize, count: usize) -> Result<()> {
    let fd = any(agent, family, libc::SOCK_DGRAM, 0)?;
    agent.run(&format!("sendto {fd} {at} {bytes} {count}"))?;
    agent.run(&format!("close {fd}")).map(drop)
}

pub fn meminfo(agent: &mut Agent, fd: u64) -> Result<HashMap<String, u64>> {
    let text = agent.run(&format!("meminfo {fd}"))?;
    let field = |word: &str| -> Result<(String, u64)> {
        let (name, value) = word.split_once('=').context("name=value")?;
        Ok((name.to_owned(), value.parse()?))
    };
    text.split(' ').map(field).collect()
}

/// UDP's RcvbufErrors in this namespace, of either family.
pub fn rcvbuf_errors(net: &Netns, family: i32) -> Result<u64> {
    if family == libc::AF_INET {
        return Ok(net.counters()?["Udp.RcvbufErrors"]);
    }
    let text = net.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp6")?))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Udp6RcvbufErrors"));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.context("Udp6RcvbufErrors")?.parse()?)
}

fn agrees(row: &Value, expected: &Value) -> Result<()> {
    for (key, value) in expected.as_object().context("an object")? {
        ensure!(&row[key] == value, "{key}: expected {value}; {row}");
    }
    Ok(())
}

fn of<'a>(rows: &'a [Value], event: &str, proto: &str) -> Vec<&'a Value> {
    let wanted = |row: &&Value| row["event"] == event && row["proto"] == proto;
    rows.iter().filter(wanted).collect()
}

/// Waits until the tool has looked up owners of what it has seen: its rows are out.
fn shown(tool: Tool, lines: u64) -> Result<Vec<Value>> {
    tool.wait_lines(lines as usize)?;
    tool.stop()?.rows()
}

/// A row per datagram that a full buffer refused, of a socket that was opened after the start.
fn udp() -> Result<()> {
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    agent.comm("sleepy")?;
    let tool = watch(&net, &[])?;
    let mut all = 0;
    let mut wants = Vec::new();
    for (host, family, proto) in HOSTS {
        let (fd, at) = sink(&mut agent, host, family)?;
        let trace = Trace::of("udp/udp_fail_queue_rcv_skb", "0")?;
        flood(&mut agent, family, &at, 900, 40)?;
        let info = meminfo(&mut agent, fd)?;
        let mut errors = rcvbuf_errors(&net, family)?;
        ensure!(errors > 20 && errors == info["drops"], "{errors} {info:?}");
        // On old kernels (5.10) IPv6 does not report it (net/ipv6/udp.c: __udpv6_queue_rcv_skb): no rows either.
        if family == libc::AF_INET6 && trace.lines()?.is_empty() {
            errors = 0;
        }
        all += errors;
        let port: u64 = at.rsplit_once(':').context("a port")?.1.parse()?;
        wants.push((proto, errors, json!({"lport": port, "rport": 0, "pid": agent.pid(), "comm": "sleepy",
            "pid_source": "scan", "cause": "rcvbuf", "direction": "recv", "type": "dgram", "protocol": 17,
            "used_bytes": info["rmem"], "limit_bytes": info["rcvbuf"], "rcvbuf_locked": true,
            "tune": "SO_RCVBUF (net.core.rmem_max)", "mem_max_pages": null})));
    }
    let rows = shown(tool, all)?;
    ensure!(rows.len() as u64 == all, "{} rows, not {all}", rows.len());
    for (proto, errors, want) in wants {
        let rows = of(&rows, "udp_fail_queue_rcv", proto);
        ensure!(rows.len() as u64 == errors, "{} of {proto}", rows.len());
        for (i, row) in rows.iter().enumerate() {
            agrees(row, &want)?;
            ensure!(row["drops"] == i + 1, "{row}");
        }
    }
    Ok(())
}

/// The default buffer, and an owner known from the start; nothing is looked up with --no-scan.
fn udp_before() -> Result<()> {
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let fd = any(&mut agent, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    agent.run(&format!("bind {fd} 127.0.0.1:0"))?;
    let at = agent.run(&format!("local {fd}"))?;
    let (scanned, blind) = (watch(&net, &[])?, watch(&net, &["--no-scan"])?);
    flood(&mut agent, libc::AF_INET, &at, 30_000, 30)?;
    let drops = meminfo(&mut agent, fd)?["drops"];
    ensure!(drops > 0 && drops == rcvbuf_errors(&net, libc::AF_INET)?);
    let (scanned, blind) = (scanned.stop()?.rows()?, blind.stop()?.rows()?);
    ensure!(scanned.len() as u64 == drops && blind.len() as u64 == drops);
    for (scanned, blind) in scanned.iter().zip(&blind) {
        agrees(
            scanned,
            &json!({"pid": agent.pid(), "rcvbuf_locked": false, "tune": "net.core.rmem_default"}),
        )?;
        agrees(
            blind,
            &json!({"pid": null, "comm": null, "pid_source": null}),
        )?;
    }
    Ok(())
}

/// --pid finds its process although the socket is new; a filter on ports leaves out what has none.
fn udp_filters() -> Result<()> {
    let _turn = udp_turn();
    let net = Netns::new()?;
    let (mut one, mut two) = (net.agent()?, net.agent()?);
    let pid = one.pid().to_string();
    let (of_one, not_one) = (
        watch(&net, &["--pid", &pid])?,
        watch(&net, &["--pid", &format!("!{pid}")])?,
    );
    let v6 = watch(&net, &["-6"])?;
    let mut drops = Vec::new();
    for agent in [&mut one, &mut two] {
        let (fd, at) = sink(agent, "127.0.0.1:0", libc::AF_INET)?;
        flood(agent, libc::AF_INET, &at, 900, 20)?;
        drops.push(meminfo(agent, fd)?["drops"]);
    }
    for (tool, agent, drops) in [(of_one, &one, drops[0]), (not_one, &two, drops[1])] {
        let rows = shown(tool, drops)?;
        ensure!(
            rows.len() as u64 == drops,
            "{} rows, not {drops}",
            rows.len()
        );
        for row in &rows {
            agrees(row, &json!({"pid": agent.pid()}))?;
        }
    }
    ensure!(v6.stop()?.rows()?.is_empty());
    Ok(())
}

/// New sockets that refuse their first datagram while the scan for the owners of others runs.
fn udp_during_scans() -> Result<()> {
    const FOR: Duration = Duration::from_secs(4);
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let tool = watch(&net, &[])?;
    let started = Instant::now();
    while started.elapsed() < FOR {
        let (_, at) = sink(&mut agent, "127.0.0.1:0", libc::AF_INET)?;
        flood(&mut agent, libc::AF_INET, &at, 900, 8)?;
        thread::sleep(Duration::from_millis(2));
    }
    let rows = shown(tool, rcvbuf_errors(&net, libc::AF_INET)?)?;
    ensure!(rows.len() > 100, "{} rows", rows.len());
    for row in &rows {
        agrees(row, &json!({"pid": agent.pid(), "pid_source": "scan"}))?;
    }
    Ok(())
}

/// Ping sockets are those of the internet protocols that tell sock_rcvqueue_full.
fn ping() -> Result<()> {
    let net = Netns::new()?;
    net.sysctl("ipv4/ping_group_range", "0 2147483647")?;
    let mut agent = net.agent()?;
    let tool = watch(&net, &[])?;
    let mut wants = Vec::new();
    for (host, family, protocol, proto) in [
        ("127.0.0.1:1", libc::AF_INET, libc::IPPROTO_ICMP, "PING"),
        ("[::1]:1", libc::AF_INET6, libc::IPPROTO_ICMPV6, "PINGv6"),
    ] {
        let fd = any(&mut agent, family, libc::SOCK_DGRAM, protocol)?;
        agent.option(fd, SOL_SOCKET, SO_RCVBUF, 2048)?;
        agent.run(&format!("connect {fd} {host}"))?;
        agent.run(&format!("pings {fd} 500 30"))?;
        let info = meminfo(&mut agent, fd)?;
        ensure!(info["drops"] > 5, "{info:?}");
        wants.push((proto, info["drops"], json!({"pid": agent.pid(), "cause": "rcvbuf", "protocol": protocol,
            "used_bytes": info["rmem"], "limit_bytes": info["rcvbuf"], "family": if family == libc::AF_INET { 4 } else { 6 }})));
    }
    let rows = shown(tool, wants.iter().map(|want| want.1).sum())?;
    for (proto, drops, want) in wants {
        let rows = of(&rows, "rcvqueue_full", proto);
        ensure!(rows.len() as u64 == drops, "{} of {proto}", rows.len());
        for row in rows {
            agrees(row, &want)?;
            ensure!(row["truesize_bytes"].as_u64() > Some(500), "{row}");
        }
    }
    Ok(())
}

/// A socket without addresses: family and protocol are shown, and a filter on ports leaves it out.
fn packet() -> Result<()> {
    /// include/linux/net.h: the old kind of packet socket, the one that tells sock_rcvqueue_full.
    const SOCK_PACKET: i32 = 10;
    const EVERY_PROTOCOL: i32 = 0x0300; // ETH_P_ALL in network order
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let fd = any(&mut agent, libc::AF_PACKET, SOCK_PACKET, EVERY_PROTOCOL)?;
    agent.option(fd, SOL_SOCKET, SO_RCVBUF, 2048)?;
    let (tool, with_port) = (watch(&net, &[])?, watch(&net, &["-L", "!1"])?);
    flood(&mut agent, libc::AF_INET, "127.0.0.1:9", 500, 30)?;
    let info = meminfo(&mut agent, fd)?;
    ensure!(info["drops"] > 5, "{info:?}");
    let rows = tool.stop()?.rows()?;
    ensure!(
        rows.len() as u64 == info["drops"],
        "{} rows, {info:?}",
        rows.len()
    );
    for row in &rows {
        agrees(
            row,
            &json!({"event": "rcvqueue_full", "family": null, "laddr": null, "lport": null, "raddr": null,
            "rport": null, "proto": "PACKET", "socket_family": "packet", "type": "packet", "pid": agent.pid(),
            "cause": "rcvbuf", "limit_bytes": info["rcvbuf"]}),
        )?;
    }
    ensure!(with_port.stop()?.rows()?.is_empty());
    Ok(())
}
