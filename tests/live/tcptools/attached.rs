// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of commands, `src/suite.rs`, says what running commands are attached to.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use tcptools::suite::TOOLS;

use crate::{missing, procfs, scratch::Scratch, tool::Tool, tools, trial};

/// Flags with which a command attaches to something else.
const MODES: [(&str, &[&str]); 11] = [
    ("tcplife", &["--active"]),
    ("tcpstates", &["-L", "80"]),
    ("tcpstates", &["--summary"]),
    ("tcpcong", &["--summary"]),
    ("tcpconnect", &["--count"]),
    ("tcpaccept", &["--summary"]),
    ("tcpretrans", &["--summary"]),
    ("tcpprobe", &["--live"]),
    ("tcplat", &["--summary"]),
    ("tcprcvspace", &["--summary"]),
    ("tcprcvspace", &["--grow"]),
];

pub fn tests() -> Vec<Trial> {
    let one = |name: &'static str| trial(format!("attached::{name}"), move || attached(name));
    tools::ALL.iter().map(|name| one(name)).collect()
}

/// No mode attaches to what the table lacks, and all together to everything that it has.
fn attached(name: &'static str) -> Result<()> {
    missing::needs_tracepoint_of(name)?;
    let tool = TOOLS.iter().find(|tool| tool.name == name);
    let tool = tool.context("not in the table")?;
    let event = |full: &&str| full.rsplit(':').next().unwrap_or_default().to_owned();
    let table: BTreeSet<_> = tool.rows.iter().chain(tool.also).map(event).collect();
    let plot = Scratch::path("plot.svg");
    let there = |event: &&String| tcptools::kernel::tracepoints::arguments::arguments(event) > 0;
    let grows = there(&&"tcp_rcvbuf_grow".to_owned());
    let modes = MODES.iter().filter(|(of, _)| *of == name);
    let modes = modes.filter(|(_, flags)| grows || !flags.contains(&"--grow"));
    let mut modes: Vec<Vec<&str>> = modes.map(|(_, flags)| flags.to_vec()).collect();
    modes.push(vec![]);
    if name == "tcpprobe" {
        modes.push(vec!["--plot", plot.text()]);
    }
    let mut all = BTreeSet::new();
    for flags in modes {
        let running = Tool::start(name, &flags)?;
        let mut events = tracepoints_of(running.child.id())?;
        running.stop()?;
        // Only where the kernel has no storage that goes with its socket.
        if !table.contains("tcp_destroy_sock") && !missing::stores() {
            events.remove("tcp_destroy_sock");
        }
        ensure!(!events.is_empty(), "{flags:?}: nothing is attached");
        let more: Vec<_> = events.difference(&table).collect();
        ensure!(more.is_empty(), "{flags:?}: the table lacks {more:?}");
        all.extend(events);
    }
    // A kernel may lack one of those that commands can do without.
    let less: Vec<_> = table.difference(&all).filter(there).collect();
    ensure!(less.is_empty(), "never attached: {less:?}");
    Ok(())
}

/// Of the links that a process holds (kernel/bpf/syscall.c: bpf_raw_tp_link_show_fdinfo).
fn tracepoints_of(pid: u32) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let read = |link: &Path| fs::read_to_string(link);
    for text in procfs::each(&format!("/proc/{pid}/fdinfo"), read)? {
        let name = text.lines().find_map(|line| line.strip_prefix("tp_name:"));
        found.extend(name.map(|name| name.trim().to_owned()));
    }
    Ok(found)
}
