// SPDX-License-Identifier: MIT OR Apache-2.0
//! sockbuf against buffers that really overflow and limits that are really met: the kernel's counters, and the drops
//! of the socket itself.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{self, SO_RCVBUF, SO_RCVBUFFORCE, SOL_SOCKET};
use serde_json::{Value, json};

use crate::{
    missing::Missing,
    net::Netns,
    peer::Agent,
    tool::Tool,
    trace::Trace,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("sockbuf::udp", udp),
        trial("sockbuf::udp_before_the_start", udp_before),
        trial("sockbuf::udp_filters", udp_filters),
        trial("sockbuf::ping", ping),
        trial("sockbuf::packet", packet),
        trial("sockbuf::udp_mem", udp_mem),
        trial("sockbuf::memcg", memcg),
    ]
}

/// Tests that need the host for themselves.
pub fn alone() -> Vec<Trial> {
    vec![trial("sockbuf::tcp_mem", tcp_mem)]
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

/// A UDP socket that nobody reads, with room for a few datagrams, and its address.
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
            "pid_source": "seed", "cause": "rcvbuf", "direction": "recv", "type": "dgram", "protocol": 17,
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

/// The default buffer, and an owner known from the start; nothing is looked up with --no-seed.
fn udp_before() -> Result<()> {
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let fd = any(&mut agent, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    agent.run(&format!("bind {fd} 127.0.0.1:0"))?;
    let at = agent.run(&format!("local {fd}"))?;
    let (seeded, blind) = (watch(&net, &[])?, watch(&net, &["--no-seed"])?);
    flood(&mut agent, libc::AF_INET, &at, 30_000, 30)?;
    let drops = meminfo(&mut agent, fd)?["drops"];
    ensure!(drops > 0 && drops == rcvbuf_errors(&net, libc::AF_INET)?);
    let (seeded, blind) = (seeded.stop()?.rows()?, blind.stop()?.rows()?);
    ensure!(seeded.len() as u64 == drops && blind.len() as u64 == drops);
    for (seeded, blind) in seeded.iter().zip(&blind) {
        agrees(
            seeded,
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

/// A sysctl of the whole host, put back at the end, however that comes.
pub struct Sysctl(&'static str, String);

impl Sysctl {
    pub fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path)?;
        fs::write(path, value)?;
        Ok(Self(path, before))
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = fs::write(self.0, &self.1);
    }
}

/// The host's limit of UDP memory, and the zone below it where a socket has its minimum only.
fn udp_mem() -> Result<()> {
    let _turn = udp_turn();
    for (limits, cause) in [
        ([600, 600, 600], "mem_max"),
        ([600, 90_000, 900_000], "pressure"),
    ] {
        let [low, pressure, max] = limits.map(pages);
        let limits = [low?, pressure?, max?];
        for (host, family, proto) in HOSTS {
            let net = Netns::new()?;
            let mut agent = net.agent()?;
            let fd = any(&mut agent, family, libc::SOCK_DGRAM, 0)?;
            agent.option(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)?;
            agent.run(&format!("bind {fd} {host}"))?;
            let at = agent.run(&format!("local {fd}"))?;
            let tool = watch(&net, &[])?;
            {
                let [low, pressure, max] = limits;
                let text = format!("{low} {pressure} {max}");
                let _low = Sysctl::set("/proc/sys/net/ipv4/udp_mem", &text)?;
                // What a CPU may hold back (net.core.mem_pcpu_rsv) comes on top of the limit.
                flood(&mut agent, family, &at, 30_000, 300)?;
            }
            let drops = meminfo(&mut agent, fd)?["drops"];
            ensure!(drops > 0, "nothing was refused");
            let rows = tool.stop()?.rows()?;
            ensure!(
                rows.len() as u64 == drops,
                "{} rows, {drops} drops",
                rows.len()
            );
            for row in &rows {
                agrees(
                    row,
                    &json!({"event": "exceed_buf_limit", "proto": proto, "cause": cause, "direction": "recv",
                    "tune": "net.ipv4.udp_mem", "mem_low_pages": limits[0], "mem_pressure_pages": limits[1],
                    "mem_max_pages": limits[2], "pid": agent.pid()}),
                )?;
                ensure!(
                    row["mem_allocated_pages"].as_u64() > Some(limits[0]),
                    "{row}"
                );
            }
        }
    }
    Ok(())
}

/// As many pages as make the same amount of memory as this number of pages of 4 KiB.
fn pages(of_4k: u64) -> Result<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")?;
    Ok(of_4k * 4096 / page.cast_unsigned())
}

/// TCP's sockets on the whole host, as `alloc` of /proc/net/sockstat counts them.
pub fn tcp_sockets() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let words: Vec<_> = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .context("TCP:")?
        .split_whitespace()
        .collect();
    let at = words.iter().position(|word| *word == "alloc");
    Ok(words[at.context("alloc")? + 1].parse()?)
}

/// TCP under pressure: a socket with far more than its share of the limit is refused more, or meets the limit itself.
/// Other sockets of the host have less.
fn tcp_mem() -> Result<()> {
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let tool = watch(&net, &[])?;
    let (listener, at) = agent.listen("127.0.0.1:0")?;
    agent.option(listener, SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)?;
    let fd = agent.open(&at)?;
    agent.option(fd, SOL_SOCKET, libc::SO_SNDBUFFORCE, 256 << 20)?;
    agent.run(&format!("connect {fd} {at}"))?;
    let accepted = agent.number(&format!("accept {listener}"))?;
    let sockets = tcp_sockets()?;
    let max = pages(sockets * 1500)?;
    {
        let _low = Sysctl::set("/proc/sys/net/ipv4/tcp_mem", &format!("0 0 {max}"))?;
        wait::until("a refusal", PATIENCE, || {
            // What does not fit now is tried again.
            let _ = agent.attempt(&format!("offer {fd} 1000000"))?;
            Ok((!tool.seen()?.is_empty()).then_some(()))
        })?;
    }
    let pid = agent.pid();
    for fd in [fd, accepted] {
        agent.run(&format!("linger0 {fd}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    let port: u64 = at.rsplit_once(':').context("a port")?.1.parse()?;
    for row in tool.stop()?.rows()? {
        // How many sockets the host has decides which of the two comes first; the row's own numbers tell.
        let over = row["mem_allocated_pages"].as_u64() > Some(max);
        let cause = if over { "mem_max" } else { "pressure" };
        agrees(
            &row,
            &json!({"event": "exceed_buf_limit", "proto": "TCP", "cause": cause, "pid": pid,
            "tune": "net.ipv4.tcp_mem", "mem_low_pages": 0, "mem_pressure_pages": 0, "mem_max_pages": max}),
        )?;
        let side = if row["lport"] == port {
            "rmem_alloc_bytes"
        } else {
            "wmem_queued_bytes"
        };
        // Under pressure it is this socket that has too much, at the limit it may be any.
        let its_own = row[side].as_u64() > Some(least_share(sockets)?);
        ensure!(over || its_own, "{row}");
    }
    Ok(())
}

/// Half of what the kernel grants each of these sockets, of 1500 * 4096 bytes for each, before it refuses any (the other
/// half may be in its other buffers): it counts sockets in batches per CPU, and asks for the sum of the batches alone
/// (net/core/sock.c: sk_has_memory_pressure; lib/percpu_counter.c).
fn least_share(sockets: u64) -> Result<u64> {
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let batches = cpus * (2 * cpus).max(32);
    Ok(sockets * 1500 * 4096 / (sockets + batches) / 2)
}

/// A memory cgroup that allows its sockets next to nothing; removed at the end.
struct Cgroup(String);

impl Cgroup {
    const ROOT: &str = "/sys/fs/cgroup/memory";

    fn new(bytes: u64) -> Result<Self> {
        let dir = format!("{}/tcptools-live-{}", Self::ROOT, std::process::id());
        fs::create_dir(&dir)?;
        let group = Self(dir);
        fs::write(
            group.file("memory.kmem.tcp.limit_in_bytes"),
            bytes.to_string(),
        )?;
        Ok(group)
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The agent that was in it may still be ending.
        let removed = || Ok(fs::remove_dir(&self.0).is_ok().then_some(()));
        let _ = wait::until("an empty cgroup", PATIENCE, removed);
    }
}

/// TCP and UDP in a cgroup without memory for them: refused although the host has enough.
fn memcg() -> Result<()> {
    if !Path::new(Cgroup::ROOT)
        .join("memory.kmem.tcp.limit_in_bytes")
        .exists()
    {
        let lacking = "a memory controller of cgroup v1 (memory.kmem.tcp.limit_in_bytes)";
        return Err(Missing::Feature(lacking).into());
    }
    let _turn = udp_turn();
    let group = Cgroup::new(64 << 10)?;
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    agent.run(&format!("cgroup {}", group.0))?;
    let tool = watch(&net, &[])?;
    // UDP first: the cgroup is still empty.
    let udp = any(&mut agent, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    agent.run(&format!("bind {udp} 127.0.0.1:0"))?;
    let at = agent.run(&format!("local {udp}"))?;
    flood(&mut agent, libc::AF_INET, &at, 30_000, 20)?;
    let drops = meminfo(&mut agent, udp)?["drops"];
    ensure!(drops > 0, "nothing was refused");
    let (listener, at) = agent.listen("127.0.0.1:0")?;
    let fd = agent.open(&at)?;
    agent.run(&format!("connect {fd} {at}"))?;
    let accepted = agent.number(&format!("accept {listener}"))?;
    wait::until("a refused segment", PATIENCE, || {
        // EAGAIN, or no memory to send: that is what is tried.
        let _ = agent.attempt(&format!("offer {fd} 100000"))?;
        Ok((net.counters()?["TcpExt.TCPRcvQDrop"] > 0).then_some(()))
    })?;
    let port: u64 = at.rsplit_once(':').context("a port")?.1.parse()?;
    let pid = agent.pid();
    agent.run(&format!("close {accepted}"))?;
    let rows = tool.stop()?.rows()?;
    agent.kill()?;
    let (of_udp, of_tcp) = (
        of(&rows, "exceed_buf_limit", "UDP"),
        of(&rows, "exceed_buf_limit", "TCP"),
    );
    ensure!(
        of_udp.len() as u64 == drops,
        "{} rows, {drops} drops",
        of_udp.len()
    );
    ensure!(
        !of_tcp.is_empty() && of_tcp.len() + of_udp.len() == rows.len(),
        "{rows:#?}"
    );
    for row in &rows {
        agrees(
            row,
            &json!({"cause": "memcg", "tune": "memory cgroup limit", "limit_bytes": null, "pid": pid}),
        )?;
    }
    ensure!(
        of_tcp
            .iter()
            .any(|row| row["lport"] == port && row["direction"] == "recv"),
        "{rows:#?}"
    );
    Ok(())
}
