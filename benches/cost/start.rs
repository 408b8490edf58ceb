// SPDX-License-Identifier: MIT OR Apache-2.0
//! What starting takes, with the initial scan and without, the memory then, and what a command does without an event.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tcptools::suite::TOOLS;

use crate::Plan;
use crate::fdinfo::Bpf;
use crate::process::{cpu_ns, scratch, status};
use crate::report::{Spread, at_most, head, median, number, progress, row};
use crate::subject::own_path;

const READY_MS: Option<f64> = Some(30.0);
const RSS_KB: Option<f64> = Some(8192.0);
const IDLE: Duration = Duration::from_secs(5);

/// One start.
struct Start {
    ready_ms: f64,
    cpu_ms: f64,
    rss_kb: f64,
    map_kb: f64,
}

/// A command, and what the rounds have shown of it.
struct Tool {
    name: String,
    path: PathBuf,
    starts: Vec<Start>,
    without_scan: Vec<Start>,
    /// Context switches of all its threads.
    idle: f64,
}

impl Tool {
    fn new(name: String, path: PathBuf) -> Self {
        let (starts, without_scan, idle) = (vec![], vec![], f64::NAN);
        Self {
            name,
            path,
            starts,
            without_scan,
            idle,
        }
    }
}

fn tools(plan: &Plan) -> Vec<Tool> {
    let only = plan.only.as_deref();
    let names = TOOLS.iter().map(|tool| tool.name);
    let names = names.filter(|name| only.is_none_or(|only| name.contains(only)));
    let of = |name: &str| {
        let earlier = plan.against.as_ref().map(|folder| folder.join(name));
        let earlier = earlier.filter(|path| path.exists()); // a command may be new
        let earlier = earlier.map(|path| Tool::new(format!("{name} (against)"), path));
        std::iter::once(Tool::new(name.into(), own_path(name))).chain(earlier)
    };
    names.flat_map(of).collect()
}

/// Prints a row per command, interleaved.
pub fn measure(plan: &Plan) -> Result<()> {
    let rounds = plan.rounds.unwrap_or(9);
    let mut tools = tools(plan);
    for round in 1..=rounds {
        for tool in &mut tools {
            progress(&format!("start {round}/{rounds}: {}", tool.name));
            let name = || tool.name.clone();
            let scanned = start(&tool.path, &[]).with_context(name)?;
            let without = start(&tool.path, &["--no-scan"]).with_context(name)?;
            tool.starts.push(scanned);
            tool.without_scan.push(without);
        }
    }
    idle(&mut tools)?;
    progress("");
    head(
        &format!("Starting and idling: {rounds} starts of each"),
        &[
            "command",
            "ready ms",
            "quartiles",
            "target",
            "with --no-scan",
            "CPU ms until ready",
            "RSS KB",
            "target",
            "maps KB",
            "binary KB",
            "context switches in 5 s",
        ],
    );
    for tool in &tools {
        let of = |value: fn(&Start) -> f64| median(tool.starts.iter().map(value));
        let ready = Spread::of(tool.starts.iter().map(|s| s.ready_ms));
        let rss = of(|s| s.rss_kb);
        let without = median(tool.without_scan.iter().map(|s| s.ready_ms));
        let binary = fs::metadata(&tool.path)?.len() as f64 / 1024.0;
        row(&[
            tool.name.clone(),
            number(ready.median, 1),
            ready.quartiles(1),
            at_most(ready.median, READY_MS),
            number(without, 1),
            number(of(|s| s.cpu_ms), 1),
            number(rss, 0),
            at_most(rss, RSS_KB),
            number(of(|s| s.map_kb), 0),
            number(binary, 0),
            number(tool.idle, 0),
        ]);
    }
    println!();
    Ok(())
}

/// A started command, which ends with this value.
struct Started {
    child: Child,
    ready: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Killed, it does not remove it itself.
        let _ = fs::remove_file(&self.ready);
    }
}

fn spawn(path: &Path, args: &[&str], ready: &Path) -> Result<Started> {
    let _ = fs::remove_file(ready);
    let child = Command::new(path)
        .args(args)
        .arg("--ready-file")
        .arg(ready)
        .stdout(File::create("/dev/null")?)
        .stderr(Stdio::inherit())
        .spawn()?;
    let ready = ready.to_owned();
    Ok(Started { child, ready })
}

fn start(path: &Path, args: &[&str]) -> Result<Start> {
    let ready = scratch("ready");
    let begun = Instant::now();
    let mut started = spawn(path, args, &ready)?;
    while !ready.exists() {
        if started.child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(30) {
            bail!("does not become ready");
        }
        sleep(Duration::from_micros(200));
    }
    let ready_ms = begun.elapsed().as_secs_f64() * 1e3;
    let pid = started.child.id();
    let cpu_ms = cpu_ns(pid) as f64 / 1e6;
    // It may still be on its way to the first wait.
    sleep(Duration::from_millis(30));
    Ok(Start {
        ready_ms,
        cpu_ms,
        rss_kb: status(pid, "VmRSS")? as f64,
        map_kb: Bpf::of(pid)?.map_kb() as f64,
    })
}

/// All commands at once, in a network without traffic.
fn idle(tools: &mut [Tool]) -> Result<()> {
    progress("idle");
    let mut started = vec![];
    for (i, tool) in tools.iter().enumerate() {
        let ready = scratch(&format!("ready.{i}"));
        started.push(spawn(&tool.path, &["--netns", "self"], &ready)?);
    }
    sleep(Duration::from_secs(2));
    let all = || started.iter().map(|started| switches(started.child.id()));
    let before = all().collect::<Result<Vec<_>>>()?;
    sleep(IDLE);
    let after = all().collect::<Result<Vec<_>>>()?;
    for ((tool, before), after) in tools.iter_mut().zip(before).zip(after) {
        tool.idle = (after - before) as f64;
    }
    Ok(())
}

fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = fs::read_to_string(task.path().join("status"))?;
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        let numbers = lines.filter_map(|line| line.split_whitespace().last());
        sum += numbers.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}
