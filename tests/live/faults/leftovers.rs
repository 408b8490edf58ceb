// SPDX-License-Identifier: MIT OR Apache-2.0
//! Killed by SIGKILL, at any moment. What is expected: within seconds the kernel has none of the programs, maps, links
//! and type information that the command had (by their ids, which nobody gets again), and no process that it had
//! started is there.

use std::{
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::{flood::Flood, objects::Objects};
use crate::{
    cli_contract::{command, signal, until_exists},
    missing,
    net::Netns,
    scratch::Scratch,
    tools, trial,
    wait::{self, PATIENCE},
};

/// With processes of their own beside them.
const FAMILIES: [(&str, &[&str]); 5] = [
    ("tcpstates", &["--active=1s"]),
    ("sockbuf", &["--summary=1s"]),
    ("tcptools", &["triage", "-d", "60"]),
    ("tcptools", &["follow", "-d", "60"]),
    ("tcptools", &["record", "-d", "60"]),
];

pub fn tests() -> Vec<Trial> {
    let mut all = Vec::new();
    for tool in tools::ALL {
        let name = |when: &str| format!("faults::leftovers::{when}_{tool}");
        all.push(trial(name("loading"), move || loading(tool)));
        all.push(trial(name("flooded"), move || flooded(tool, &[])));
    }
    for (tool, args) in FAMILIES {
        let name = format!(
            "faults::leftovers::family_{tool}_{}",
            args[0].trim_matches('-')
        );
        all.push(trial(name.replace("=1s", ""), move || flooded(tool, args)));
    }
    all
}

fn kill(mut child: Child) -> Result<()> {
    child.kill()?;
    wait::exit_of(&mut child, PATIENCE)?;
    Ok(())
}

/// As soon as it has so many of a kind in the kernel: some are loaded, others are not; some are attached, others are
/// not.
fn loading(tool: &str) -> Result<()> {
    missing::needs_tracepoint_of(tool)?;
    for (kind, count) in [("map_id:", 1), ("prog_id:", 2), ("link_id:", 1)] {
        let mut child = command("", tool, &[]).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        // Without a rest: a start is short.
        let mut objects = Objects::default();
        while objects.count(kind) < count {
            ensure!(Instant::now() < deadline, "no {kind}");
            ensure!(child.try_wait()?.is_none(), "it has ended");
            objects.add(child.id())?;
        }
        signal(&child, Signal::SIGSTOP)?;
        objects.add(child.id())?;
        kill(child)?;
        objects.gone().with_context(|| format!("{kind} {count}"))?;
    }
    Ok(())
}

fn flooded(tool: &str, args: &[&str]) -> Result<()> {
    missing::needs_tracepoint_of(tool)?;
    missing::needs_programs()?;
    let ns = Arc::new(Netns::new()?);
    let (ready, file) = (Scratch::path("ready"), Scratch::path("rows.jsonl"));
    let netns = ns.inode.to_string();
    let mut all = [args, &["--netns", &netns, "--ready-file", ready.text()]].concat();
    match args.first() {
        Some(&"record") => all.extend(["-o", file.text()]),
        _ => all.push("--json"),
    }
    let child = command("", tool, &all).stdout(Stdio::null()).spawn()?;
    until_exists(&ready)?;
    let flood = Flood::new(&ns);
    flood.more(30)?;
    let mut objects = Objects::of(child.id())?;
    // A process that visits namespaces may be just being made.
    std::thread::sleep(Duration::from_millis(20));
    objects.add(child.id())?;
    kill(child)?;
    objects.gone()
}
