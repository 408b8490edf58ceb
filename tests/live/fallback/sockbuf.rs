// SPDX-License-Identifier: MIT OR Apache-2.0
//! sockbuf from records alone, which have no socket: rows are known by a port, or by their numbers.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{self, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUFFORCE, SOL_SOCKET};
use serde_json::Value;

use super::{
    MODES,
    scene::{Both, Scene},
    trials,
};
use crate::{
    sockbuf::{Sysctl, any, flood, meminfo, sink, tcp_sockets, udp_turn},
    tool::Tool,
    trace::{Trace, record_has},
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    crate::trial::group([trials("sockbuf::udp", udp), trials("sockbuf::ping", ping)])
}

pub fn alone() -> Vec<Trial> {
    trials("sockbuf::tcp_mem", tcp_mem)
}

fn watch(scene: &Scene, args: &[&str]) -> Result<Both> {
    let args = [&["--json"], args].concat();
    Ok(Both {
        with_btf: Tool::start("sockbuf", &args)?,
        without_btf: Tool::start_reduced(scene.without, "sockbuf", &args)?,
    })
}

/// A row per datagram that a full buffer refused.
fn udp(scene: Scene) -> Result<()> {
    let _turn = udp_turn();
    let mut agent = scene.net.b.agent()?;
    for (host, family) in [("127.0.0.1:0", libc::AF_INET), ("[::1]:0", libc::AF_INET6)] {
        let (fd, at) = sink(&mut agent, host, family)?;
        let port = at.rsplit_once(':').context("a port")?.1;
        let trace = Trace::of("udp/udp_fail_queue_rcv_skb", "0")?;
        let both = watch(&scene, &["-L", port])?;
        flood(&mut agent, family, &at, 900, 40)?;
        let drops = meminfo(&mut agent, fd)?["drops"];
        let mut told = vec!["event", "lport", "type", "cause", "direction"];
        // With both ends of the packet, since 6.10.
        if record_has("udp/udp_fail_queue_rcv_skb", "family")? {
            told.push("socket_family");
        }
        let rows = both.agree(&["lport"], &told)?;
        // IPv6 reports none before 6.5, and then the kernel's own trace has none.
        let reported = trace.lines()?.len() as u64;
        let silent = family == libc::AF_INET6 && reported == 0;
        ensure!(drops > 20 && (reported == drops || silent), "{drops}");
        ensure!(rows.len() as u64 == reported, "{drops} {rows:?}");
        ensure!(rows.iter().all(|row| row["pid"].is_null()), "{rows:?}");
    }
    Ok(())
}

/// A row per packet that a full buffer refused. No other test has a buffer of this size.
fn ping(scene: Scene) -> Result<()> {
    let mode = MODES
        .iter()
        .position(|(without, _)| *without == scene.without);
    let bytes = 5001 + mode.context("a mode")? as i32;
    scene
        .net
        .b
        .sysctl("ipv4/ping_group_range", "0 2147483647")?;
    let mut agent = scene.net.b.agent()?;
    let both = watch(&scene, &[])?;
    let fd = any(
        &mut agent,
        libc::AF_INET,
        libc::SOCK_DGRAM,
        libc::IPPROTO_ICMP,
    )?;
    agent.option(fd, SOL_SOCKET, SO_RCVBUF, bytes)?;
    agent.run(&format!("connect {fd} 127.0.0.1:1"))?;
    agent.run(&format!("pings {fd} 500 40"))?;
    let drops = meminfo(&mut agent, fd)?["drops"];
    let of_it = |rows: Vec<Value>| -> Vec<Value> {
        let mine = rows
            .into_iter()
            .filter(|row| row["limit_bytes"] == 2 * bytes);
        mine.collect()
    };
    let (with_btf, without_btf) = (
        of_it(both.with_btf.stop()?.rows()?),
        of_it(both.without_btf.stop()?.rows()?),
    );
    ensure!(
        drops > 5 && with_btf.len() as u64 == drops && without_btf.len() as u64 == drops,
        "{drops} {with_btf:?} {without_btf:?}"
    );
    let told = [
        "event",
        "cause",
        "direction",
        "used_bytes",
        "limit_bytes",
        "truesize_bytes",
        "rmem_alloc_bytes",
        "rcvbuf_bytes",
    ];
    for (with_btf, without_btf) in with_btf.iter().zip(&without_btf) {
        for key in told {
            ensure!(
                with_btf[key] == without_btf[key],
                "{key}: {with_btf} {without_btf}"
            );
        }
    }
    Ok(())
}

/// The limits of TCP's memory, met by one session.
fn tcp_mem(mut scene: Scene) -> Result<()> {
    let both = watch(&scene, &[])?;
    let (listener, at) = scene.s.listen("127.0.0.1:0")?;
    let agent = &mut scene.s;
    agent.option(listener, SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)?;
    let fd = agent.open(&at)?;
    agent.option(fd, SOL_SOCKET, SO_SNDBUFFORCE, 256 << 20)?;
    agent.run(&format!("connect {fd} {at}"))?;
    let accepted = agent.number(&format!("accept {listener}"))?;
    let max = tcp_sockets()? * 1500;
    {
        let _low = Sysctl::set("/proc/sys/net/ipv4/tcp_mem", &format!("0 0 {max}"))?;
        wait::until("a refusal", PATIENCE, || {
            let _ = agent.attempt(&format!("offer {fd} 1000000"))?;
            let seen = [both.with_btf.seen()?, both.without_btf.seen()?];
            Ok(seen.iter().all(|rows| !rows.is_empty()).then_some(()))
        })?;
    }
    for fd in [fd, accepted] {
        agent.run(&format!("linger0 {fd}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    let told = [
        "event",
        "proto",
        "socket_family",
        "type",
        "protocol",
        "cause",
        "direction",
        "used_bytes",
        "limit_bytes",
        "tune",
        "rmem_alloc_bytes",
        "wmem_queued_bytes",
        "minimum_bytes",
        "mem_allocated_pages",
        "mem_low_pages",
        "mem_pressure_pages",
        "mem_max_pages",
    ];
    let rows = both.agree(&["proto", "direction"], &told)?;
    ensure!(!rows.is_empty());
    Ok(())
}
