// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of a protocol, and of a cgroup, that is used up.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use nix::libc::{self, SO_RCVBUFFORCE, SOL_SOCKET};
use serde_json::json;

use super::{HOSTS, agrees, any, flood, meminfo, of, udp_turn, watch};
use crate::{
    missing::Missing,
    net::Netns,
    wait::{self, PATIENCE},
};

/// A sysctl of the whole host, always restored at the end.
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
        // There is no one left to report to.
        let _ = fs::write(self.0, &self.1);
    }
}

/// The host's limit of UDP memory, and the zone below it where a socket has its minimum only.
pub fn udp_mem() -> Result<()> {
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
pub fn pages(of_4k: u64) -> Result<u64> {
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
pub fn tcp_mem() -> Result<()> {
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
pub fn memcg() -> Result<()> {
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
