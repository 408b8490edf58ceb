// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command in a time namespace, whose clocks since boot are not the host's; rows have the host's all the same.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tcptools::kernel::clock::boot_ns;

use crate::{missing, net::Netns, tool::Tool, trial, wait::PATIENCE};

/// With BTF and both ways without: the last reads the monotonic clock.
const MODES: [&str; 3] = ["", "btf", "btf,ringbuf,mmap"];

/// A day, and as much less of the other clock.
const UNSHARE: [&str; 6] = [
    "unshare",
    "--time",
    "--boottime=86400",
    "--monotonic=43200",
    "--fork",
    "--kill-child",
];

pub fn tests() -> Vec<Trial> {
    vec![trial("fallback::time_namespace", time_namespace)]
}

fn time_namespace() -> Result<()> {
    missing::needs_time_namespaces()?;
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    // No listener, whatever else runs on this host.
    let (fd, at) = agent.listen("127.0.0.1:0")?;
    agent.run(&format!("close {fd}"))?;
    let (_, port) = at.rsplit_once(':').context("a port")?;
    let args = ["--json", "-n", "1", "-D", port];
    let start = |mode: &&str| Tool::start_through(&UNSHARE, mode, "tcpstates", &args);
    let tools = MODES.iter().map(start).collect::<Result<Vec<_>>>()?;
    let (before, earlier) = (SystemTime::now(), boot_ns());
    let fd = agent.open(&at)?;
    agent.fails(&format!("connect {fd} {at}"), 111)?;
    for (tool, mode) in tools.into_iter().zip(MODES) {
        let rows = tool.finish(PATIENCE)?.records()?;
        let row = rows.first().context("no row")?;
        let boot = row["boot_ns"].as_u64().context("boot_ns")?;
        let (least, most) = (earlier.saturating_sub(1_000_000), boot_ns());
        ensure!(
            (least..=most).contains(&boot),
            "{mode}: {least} {row} {most}"
        );
        let text = row["ts"].as_str().context("ts")?;
        let unix = chrono::DateTime::parse_from_rfc3339(text)?.timestamp();
        let began = before.duration_since(UNIX_EPOCH)?.as_secs() as i64;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        ensure!(
            (began - 2..=now + 2).contains(&unix),
            "{mode}: {began} {row} {now}"
        );
    }
    Ok(())
}
