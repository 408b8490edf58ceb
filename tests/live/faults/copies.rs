// SPDX-License-Identifier: MIT OR Apache-2.0
//! Twenty copies of a command at once. What is expected: each has every row, as many as the kernel counts, none loses
//! one, and nothing stays in the kernel.
//!
//! All commands, twenty times each, take some gigabytes and slow every socket of the host down: that is asked for by name
//! (`cargo test --test live -- --ignored faults::copies::of_every_command`).

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::objects::Objects;
use crate::{cli_contract::sessions, missing, net::Netns, tool::Tool, tools, trial, unseen};

const COPIES: usize = 20;

pub fn alone() -> Vec<Trial> {
    let every = trial("faults::copies::of_every_command", || {
        copies(&tools::here().collect::<Vec<_>>())
    });
    vec![
        trial("faults::copies::of_one_command", || copies(&["tcplife"])),
        every.with_ignored_flag(true),
    ]
}

/// Memory that the host has left, and that these processes have, in KiB.
fn memory(tools: &[(&str, Tool)]) -> Result<(u64, u64)> {
    let field = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let free = field(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:");
    let mut own = 0;
    for (_, tool) in tools {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", tool.child.id()))?;
        own += field(&rollup, "Pss:").context("Pss")?;
    }
    Ok((free.context("MemAvailable")?, own))
}

fn copies(names: &[&'static str]) -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let before = unseen::count();
    let (free, _) = memory(&[])?;
    let begin = Instant::now();
    let mut tools = Vec::new();
    for name in names {
        for _ in 0..COPIES {
            let mut args = vec!["--json", "--netns", &netns];
            if *name == "tcptop" {
                args.extend(["-i", "1s"]);
            }
            tools.push((*name, Tool::start(name, &args)?));
        }
    }
    let started = begin.elapsed();
    let (left, own) = memory(&tools)?;
    let begin = Instant::now();
    sessions(&ns, 100)?;
    let played = begin.elapsed();
    let mut objects = Objects::default();
    for (_, tool) in &tools {
        objects.add(tool.child.id())?;
    }
    println!(
        "{} copies: started in {started:?}, {} KiB of processes, {} KiB less available; 100 sessions in {played:?}",
        tools.len(),
        own,
        free.saturating_sub(left),
    );
    let counters = ns.counters()?;
    let (active, passive) = (counters["Tcp.ActiveOpens"], counters["Tcp.PassiveOpens"]);
    for (name, tool) in tools {
        let rows = tool.stop()?.rows()?.len() as u64;
        let wanted = match name {
            "tcplife" => active + passive,
            "tcpconnect" => active,
            "tcpaccept" => passive,
            _ => continue,
        };
        let unseen = unseen::count() - before;
        let right = rows <= wanted && rows + unseen >= wanted;
        ensure!(right, "{name}: {rows} rows of {wanted}, {unseen} unseen");
    }
    objects.gone()
}
