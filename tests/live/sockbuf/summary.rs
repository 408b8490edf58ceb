// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: sums by owner and cause, and how many of the kernel's own counters they explain.

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::{Value, json};

use super::counters::{counted, counter, shown, trouble, watch};
use super::{HOSTS, Sysctl, agrees, any, flood, meminfo, memory, rcvbuf_errors, sink, udp_turn};
use crate::{
    missing,
    net::Netns,
    tool::{self, Tool},
    trace::Trace,
    wait::{self, PATIENCE},
};

fn sums<'r>(rows: &'r [Value], net: &Netns) -> Vec<&'r Value> {
    let is = |row: &&Value| row["event"] == "count" && row["netns"] == net.inode;
    rows.iter().filter(is).collect()
}

/// Each namespace and each family by itself: as many as the kernel counted, and all of them are rows.
pub fn udp() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    let nets = [Netns::new()?, Netns::new()?];
    let tool = watch(&[&nets[0], &nets[1]], "", &[])?;
    let (mut wants, mut agents) = (Vec::new(), Vec::new());
    for (n, net) in nets.iter().enumerate() {
        let mut agent = net.agent()?;
        agent.comm("sleepy")?;
        let before = counted(net)?;
        for (host, family, proto) in HOSTS {
            let (fd, at) = sink(&mut agent, host, family)?;
            let trace = Trace::of("udp/udp_fail_queue_rcv_skb", "0")?;
            flood(&mut agent, family, &at, 900, 40 + 30 * n)?;
            let errors = rcvbuf_errors(net, family)?;
            // IPv6 does not report it on old kernels (5.10).
            let rows = if trace.lines()?.is_empty() { 0 } else { errors };
            let port: u64 = at.rsplit_once(':').context("a port")?.1.parse()?;
            wants.push((net, family, rows, errors, json!({
                "pid": agent.pid(), "comm": "sleepy", "kind": "udp_fail_queue_rcv", "proto": proto, "cause": "rcvbuf",
                "direction": "recv", "lport": port, "limit_bytes": meminfo(&mut agent, fd)?["rcvbuf"],
                "count": rows, "tune": "SO_RCVBUF (net.core.rmem_max)"})));
        }
        wants.push((net, 0, 0, 0, json!(trouble(&before, &counted(net)?))));
        agents.push(agent);
    }
    let rows = tool.stop()?.rows()?;
    for (net, family, explained, errors, want) in wants {
        if family == 0 {
            ensure!(json!(shown(&rows, net)?) == want, "{want:#?}: {rows:#?}");
            continue;
        }
        let six = if family == libc::AF_INET6 { "6" } else { "" };
        for name in ["RcvbufErrors", "InErrors"] {
            let row = counter(&rows, net, &format!("Udp{six}{name}"))?;
            agrees(
                row,
                &json!({"count": errors, "explained": explained, "see": "sockbuf"}),
            )?;
        }
        let of_family = |row: &&Value| row["proto"] == want["proto"];
        let of_family: Vec<_> = sums(&rows, net).into_iter().filter(of_family).collect();
        ensure!(of_family.len() == usize::from(explained != 0), "{rows:#?}");
        of_family.iter().try_for_each(|row| agrees(row, &want))?;
    }
    Ok(())
}

/// The host's limit of UDP memory: one row for one of MemErrors, or of InErrors before 5.11, if it is counted at all.
pub fn udp_mem() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    for (host, family, proto) in HOSTS {
        let net = Netns::new()?;
        let mut agent = net.agent()?;
        let fd = any(&mut agent, family, libc::SOCK_DGRAM, 0)?;
        agent.option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        agent.run(&format!("bind {fd} {host}"))?;
        let at = agent.run(&format!("local {fd}"))?;
        let before = counted(&net)?;
        let tool = watch(&[&net], "", &[])?;
        {
            let limits = [600; 3].map(memory::pages);
            let [low, pressure, max] = limits;
            let text = format!("{} {} {}", low?, pressure?, max?);
            let _low = Sysctl::set("/proc/sys/net/ipv4/udp_mem", &text)?;
            flood(&mut agent, family, &at, 30_000, 300)?;
        }
        let drops = meminfo(&mut agent, fd)?["drops"];
        ensure!(drops > 0, "nothing was refused");
        let rows = tool.stop()?.rows()?;
        let expected = trouble(&before, &counted(&net)?);
        ensure!(shown(&rows, &net)? == expected, "{expected:#?}: {rows:#?}");
        let six = if family == libc::AF_INET6 { "6" } else { "" };
        // 6.18 counts none of them (net/ipv4/udp.c: __udp_enqueue_schedule_skb).
        for name in ["InErrors", "MemErrors"] {
            let name = format!("Udp{six}{name}");
            if let Some(count) = expected.get(&name) {
                agrees(
                    counter(&rows, &net, &name)?,
                    &json!({"count": count, "explained": count}),
                )?;
            }
        }
        let sums = sums(&rows, &net);
        ensure!(sums.len() == 1, "{sums:#?}");
        agrees(
            sums[0],
            &json!({"kind": "exceed_buf_limit", "proto": proto, "cause": "mem_max", "count": drops,
                    "tune": "net.ipv4.udp_mem", "pid": agent.pid()}),
        )?;
    }
    Ok(())
}

/// A dual-stack socket has rows of one kind, whatever arrives: together they explain both families.
pub fn dual_stack() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let tool = watch(&[&net], "", &[])?;
    let trace = Trace::of("udp/udp_fail_queue_rcv_skb", "0")?;
    let (_, at) = sink(&mut agent, "[::]:0", libc::AF_INET6)?;
    let port = at.rsplit_once(':').context("a port")?.1;
    flood(
        &mut agent,
        libc::AF_INET,
        &format!("127.0.0.1:{port}"),
        900,
        30,
    )?;
    flood(
        &mut agent,
        libc::AF_INET6,
        &format!("[::1]:{port}"),
        900,
        25,
    )?;
    let (v4, v6) = (
        rcvbuf_errors(&net, libc::AF_INET)?,
        rcvbuf_errors(&net, libc::AF_INET6)?,
    );
    let reported = trace.lines()?.len() as u64;
    let rows = tool.stop()?.rows()?;
    for (name, errors) in [("UdpRcvbufErrors", v4), ("Udp6RcvbufErrors", v6)] {
        let explained = if reported == v4 + v6 || name == "UdpRcvbufErrors" {
            errors
        } else {
            0
        };
        let row = counter(&rows, &net, name)?;
        agrees(row, &json!({"count": errors, "explained": explained}))?;
    }
    let sums = sums(&rows, &net);
    ensure!(sums.len() == 1 && sums[0]["count"] == reported, "{sums:#?}");
    Ok(())
}

/// Intervals add up to what the kernel counted, and in each of them rows explain all of it.
pub fn intervals() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    let (fd, at) = sink(&mut agent, "127.0.0.1:0", libc::AF_INET)?;
    let inode = net.inode.to_string();
    let args = ["--summary=300ms", "--json", "--netns", &inode];
    let tool = Tool::start("sockbuf", &args)?;
    wait::until("three intervals", PATIENCE, || {
        flood(&mut agent, libc::AF_INET, &at, 900, 20)?;
        let seen = tool.seen()?;
        let sums = seen.iter().filter(|row| row["event"] == "count");
        Ok((sums.count() >= 3).then_some(()))
    })?;
    let rows = tool.stop()?.rows()?;
    let drops = meminfo(&mut agent, fd)?["drops"];
    let total = |event: &str, key: &str| -> u64 {
        let of = |row: &&Value| {
            row["event"] == event && (event == "count" || row["name"] == "UdpRcvbufErrors")
        };
        rows.iter()
            .filter(of)
            .filter_map(|row| row[key].as_u64())
            .sum()
    };
    ensure!(total("count", "count") == drops, "{drops}: {rows:#?}");
    ensure!(total("counter", "count") == drops, "{drops}: {rows:#?}");
    ensure!(total("counter", "explained") == drops, "{drops}: {rows:#?}");
    let intervals = rows.iter().map(|row| row["interval_us"].as_u64());
    ensure!(intervals.clone().all(|us| us > Some(0)), "{rows:#?}");
    Ok(())
}

/// With a filter on sockets nothing is said about what rows explain; a table fits 80 columns; --top tells what it omits.
pub fn formats() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    let net = Netns::new()?;
    let mut agent = net.agent()?;
    agent.comm("sleepy")?;
    let inode = net.inode.to_string();
    let (fd, at) = sink(&mut agent, "127.0.0.1:0", libc::AF_INET)?;
    let start = |args: &[&str]| {
        Tool::start(
            "sockbuf",
            &[&["--summary", "--netns", &inode], args].concat(),
        )
    };
    let (other, table, csv, one) = (
        start(&["--json", "-L", "1"])?,
        start(&[])?,
        start(&["--csv", "--by", "comm"])?,
        start(&["--top", "1"])?,
    );
    let (by, columns) = (
        start(&["--json", "--by", "laddr,lport", "--sort", "+lport"])?,
        start(&["--columns", "comm,count"])?,
    );
    flood(&mut agent, libc::AF_INET, &at, 900, 40)?;
    let drops = meminfo(&mut agent, fd)?["drops"];
    let rows = other.stop()?.rows()?;
    ensure!(sums(&rows, &net).is_empty(), "{rows:#?}");
    agrees(
        counter(&rows, &net, "UdpRcvbufErrors")?,
        &json!({"count": drops, "explained": null}),
    )?;
    let lines = table.stop()?.lines;
    let has = |words: &[&str]| {
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    ensure!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{lines:#?}"
    );
    let errors = drops.to_string();
    ensure!(
        has(&["sleepy", "UDP", "rcvbuf", &errors, "SO_RCVBUF"]),
        "{lines:#?}"
    );
    ensure!(has(&["UdpRcvbufErrors", &errors, "sockbuf"]), "{lines:#?}");
    let run = one.stop()?;
    ensure!(
        run.lines.len() == 4 && run.stderr.contains("1 more counter not shown"),
        "{run:?}"
    );
    let csv = csv.stop()?.lines;
    let cells: Vec<_> = csv.iter().map(|line| line.split(',').count()).collect();
    ensure!(
        csv.len() == 4 && cells.iter().all(|n| *n == cells[0]),
        "{csv:#?}"
    );
    let rows = by.stop()?.rows()?;
    let port = at.rsplit_once(':').context("a port")?.1;
    let by = sums_by(&rows, "laddr,lport");
    ensure!(by.len() == 1 && by[0].get("pid").is_none(), "{rows:#?}");
    let sum = json!({"laddr": "127.0.0.1", "lport": port.parse::<u64>()?, "count": drops});
    agrees(by[0], &sum)?;
    counter(&rows, &net, "UdpRcvbufErrors")?;
    let lines = columns.stop()?.lines;
    let words: Vec<_> = lines[1].split_whitespace().collect();
    ensure!(words == ["sleepy", &errors], "{lines:#?}");
    for args in [
        &["--top", "3"][..],
        &["--by", "comm"],
        &["--sort", "comm"],
        &["--summary", "--columns", "see"],
        &["--summary", "--sort", "nothing"],
    ] {
        let run = tool::run("sockbuf", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
    }
    Ok(())
}

fn sums_by<'r>(rows: &'r [Value], by: &str) -> Vec<&'r Value> {
    let is = |row: &&Value| row["event"] == "count" && row["by"] == by;
    rows.iter().filter(is).collect()
}
