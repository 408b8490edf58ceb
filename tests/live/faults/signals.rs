// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals at every stage of every command. What is expected:
//!
//! | signal | while it starts | while it looks for sockets | in a flood | with a reader that does not read |
//! | --- | --- | --- | --- | --- |
//! | INT, TERM, HUP | 0, nothing written | 0 | 0, whole rows, the summary at last | 1, "not written", within seconds |
//! | PIPE | goes on | | goes on | goes on |
//! | STOP, CONT | goes on | | goes on | goes on |
//! | QUIT | dies of it, nothing written | | dies of it, whole rows | |
//!
//! In each nothing stays in the kernel.

use std::{
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};
use serde_json::Value;

use super::{flood::Flood, objects::Objects};
use crate::{
    cli_contract::{
        SOON, collect, command, full_pipe, kill_at_last, records, signal, until_exists,
    },
    missing,
    net::{Net, Netns},
    procfs,
    scratch::Scratch,
    table::crowd::{self, Crowd},
    tools, trial, unseen,
    wait::{self, PATIENCE},
};

const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Those that look at all open sockets before they are ready, with flags that make this last. None ends by itself: it
/// could be over, and its ready file with it, before the test looks again.
const LOOKING: [(&str, &[&str]); 4] = [
    ("tcplife", &["--active"]),
    ("tcpstates", &["--active=1h"]),
    ("tcpaccept", &["--listeners"]),
    ("tcptop", &["-b", "-i", "1h"]),
];

pub fn tests() -> Vec<Trial> {
    let mut all = Vec::new();
    for (number, tool) in tools::ALL.iter().copied().enumerate() {
        // Each command gets another one of them at each stage.
        let ends = move |stage: usize| ENDING[(number + stage) % ENDING.len()];
        let name = |stage: &str| format!("faults::signals::{stage}_{tool}");
        all.push(trial(name("starting"), move || starting(tool, ends(0))));
        all.push(trial(name("flooded"), move || flooded(tool, ends(1))));
        all.push(trial(name("stalled"), move || stalled(tool, ends(2))));
        all.push(trial(name("quit"), move || quit(tool)));
    }
    for (tool, args) in LOOKING {
        let name = format!("faults::signals::looking_{tool}");
        all.push(trial(name, move || looking(tool, args)));
    }
    // As they are by default, the whole table: each signal at each stage of each command.
    let every = trial("faults::signals::whole_table", whole_table);
    all.push(every.with_ignored_flag(true));
    all
}

fn whole_table() -> Result<()> {
    for tool in tools::here() {
        for signal in ENDING {
            let case = || format!("{tool}, {signal}");
            starting(tool, signal).with_context(case)?;
            flooded(tool, signal).with_context(case)?;
            stalled(tool, signal).with_context(case)?;
        }
        quit(tool).context(tool)?;
    }
    Ok(())
}

/// A command at work in a namespace of its own.
struct Running {
    child: Child,
    rows: JoinHandle<String>,
    said: JoinHandle<String>,
    _ready: Scratch,
}

/// What it has left.
struct Ended {
    status: std::process::ExitStatus,
    rows: String,
    said: String,
}

/// JSON rows of a namespace; a command that has rows at intervals has short ones.
fn arguments<'a>(tool: &str, netns: &'a str, ready: &'a str) -> Vec<&'a str> {
    let mut args = vec!["--json", "--netns", netns, "--ready-file", ready];
    if tool == "tcptop" {
        args.extend(["-i", "100ms"]);
    }
    args
}

impl Running {
    /// `stdout`: or its rows are collected.
    fn start(tool: &str, netns: u64, stdout: Option<Stdio>) -> Result<Self> {
        missing::needs_tracepoint_of(tool)?;
        let ready = Scratch::path("ready");
        let netns = netns.to_string();
        let mut command = command("", tool, &arguments(tool, &netns, ready.text()));
        // SAFETY: a system call that changes the forked process only: SIGQUIT is to leave no core.
        unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)) };
        let mut child = command
            .stdout(stdout.unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped())
            .spawn()?;
        let rows = child.stdout.take();
        let rows = rows.map_or_else(|| collect(std::io::empty()), collect);
        let said = collect(child.stderr.take().context("no stderr")?);
        Ok(Self {
            child,
            rows,
            said,
            _ready: ready,
        })
    }

    fn ready(&self) -> Result<()> {
        until_exists(&self._ready)
    }

    /// What ends nothing.
    fn harmless(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        signal(&self.child, Signal::SIGPIPE)?;
        signal(&self.child, Signal::SIGSTOP)?;
        stops(&self.child)?;
        meanwhile()?;
        signal(&self.child, Signal::SIGCONT)
    }

    fn end(self) -> Result<Ended> {
        let status = kill_at_last(self.child)?;
        Ok(Ended {
            status,
            rows: self.rows.join().expect("no panic"),
            said: self.said.join().expect("no panic"),
        })
    }
}

/// Whole lines of a run that ended well: rows, and their summary at last.
fn summary(ended: &Ended) -> Result<Value> {
    let Ended { status, rows, said } = ended;
    ensure!(status.code() == Some(0), "{status}: {said}");
    let mut records = records(rows)?;
    let summary = records.pop().context("nothing")?;
    ensure!(
        summary["event"] == "summary" && summary["events"] == records.len(),
        "{} rows, {summary}",
        records.len()
    );
    Ok(summary)
}

/// The handlers are there.
fn begun(child: &mut Child) -> Result<()> {
    wait::until("handlers", PATIENCE, || {
        ensure!(child.try_wait()?.is_none(), "it has ended");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.context("no SigCgt")?.trim(), 16)?;
        Ok((caught & 1 << (Signal::SIGTERM as i32 - 1) != 0).then_some(()))
    })
}

fn starting(tool: &str, ends: Signal) -> Result<()> {
    let ns = Netns::new()?;
    let mut running = Running::start(tool, ns.inode, None)?;
    begun(&mut running.child)?;
    running.harmless(|| Ok(()))?;
    signal(&running.child, ends)?;
    let begin = Instant::now();
    let Ended { status, rows, said } = running.end()?;
    // Where it was ready by then, it has a summary.
    ensure!(status.code() == Some(0), "{ends}: {status}: {said}");
    ensure!(
        records(&rows)?.len() <= 1 && unseen::said_else(&said).is_empty(),
        "{rows}{said}"
    );
    ensure!(begin.elapsed() < SOON, "{ends}: {:?}", begin.elapsed());
    Ok(())
}

fn flooded(tool: &str, ends: Signal) -> Result<()> {
    let ns = Arc::new(Netns::new()?);
    let running = Running::start(tool, ns.inode, None)?;
    running.ready()?;
    let flood = Flood::new(&ns);
    flood.more(20)?;
    running.harmless(|| flood.more(20))?;
    flood.more(20)?;
    let objects = Objects::of(running.child.id())?;
    signal(&running.child, ends)?;
    let ended = running.end()?;
    let sessions = flood.end()?;
    let summary = summary(&ended).context(ends)?;
    // Those of which there is one for each session at least.
    let told = summary["events"].as_u64() >= Some(40);
    let each = ["tcpaccept", "tcpconnect", "tcplife", "tcpstates", "tcpinfo"];
    ensure!(told || !each.contains(&tool), "of {sessions}: {summary}");
    objects.gone()
}

fn stalled(tool: &str, ends: Signal) -> Result<()> {
    let ns = Arc::new(Netns::new()?);
    let (_reader, writer, _) = full_pipe()?;
    let running = Running::start(tool, ns.inode, Some(writer.into()))?;
    running.ready()?;
    let flood = Flood::new(&ns);
    flood.more(20)?;
    running.harmless(|| flood.more(10))?;
    let objects = Objects::of(running.child.id())?;
    signal(&running.child, ends)?;
    let begin = Instant::now();
    let Ended { status, said, .. } = running.end()?;
    ensure!(status.code() == Some(1), "{ends}: {status}: {said}");
    ensure!(begin.elapsed() < SOON, "{ends}: {:?}", begin.elapsed());
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("not written"), "{ends}: {said}");
    objects.gone()
}

/// Nobody handles it: it ends at once, and the kernel cleans up.
fn quit(tool: &str) -> Result<()> {
    let ns = Arc::new(Netns::new()?);
    let mut early = Running::start(tool, ns.inode, None)?;
    begun(&mut early.child)?;
    signal(&early.child, Signal::SIGQUIT)?;
    let ended = early.end()?;
    let died = Some(Signal::SIGQUIT as i32);
    ensure!(ended.status.signal() == died, "{}", ended.status);
    ensure!(records(&ended.rows)?.is_empty(), "{}", ended.rows);

    let running = Running::start(tool, ns.inode, None)?;
    running.ready()?;
    let flood = Flood::new(&ns);
    flood.more(20)?;
    let objects = Objects::of(running.child.id())?;
    signal(&running.child, Signal::SIGQUIT)?;
    let ended = running.end()?;
    ensure!(ended.status.signal() == died, "{}", ended.status);
    let whole = records(&ended.rows)?;
    let last = whole.last();
    ensure!(last.is_none_or(|row| row["event"] != "summary"), "{last:?}");
    objects.gone()
}

/// Sockets that are open when a command starts; `TCPTOOLS_CROWD` says how many.
const OPEN: u64 = 4000;

fn looking(tool: &'static str, args: &[&str]) -> Result<()> {
    let net = Net::new()?;
    let _open = Crowd::new(&net, crowd::wanted(OPEN)?)?;
    for ends in ENDING {
        // It may be over before the test sees it.
        let mut tries = 0..20;
        while !caught(tool, args, ends)? {
            if tries.next().is_none() {
                bail!("it is never seen to look");
            }
        }
    }
    Ok(())
}

/// Signals it while it reads from an iterator; false if it was over before.
fn caught(tool: &str, args: &[&str], ends: Signal) -> Result<bool> {
    let ready = Scratch::path("ready");
    let all = [&["--json", "--ready-file", ready.text()], args].concat();
    let mut child = command("", tool, &all).stderr(Stdio::piped()).spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    let mut looks = false;
    while !looks && !ready.exists() {
        if let Some(status) = child.try_wait()? {
            bail!("{status}: {}", said.join().expect("no panic"));
        }
        looks = has_iterator(&child)?;
    }
    signal(&child, Signal::SIGSTOP)?;
    stops(&child)?;
    // One read may have been the last one.
    looks = has_iterator(&child)? && !ready.exists();
    let objects = Objects::of(child.id())?;
    signal(&child, ends)?;
    signal(&child, Signal::SIGCONT)?;
    let begin = Instant::now();
    let status = kill_at_last(child)?;
    let said = said.join().expect("no panic");
    ensure!(status.code() == Some(0), "{ends}: {status}: {said}");
    ensure!(!ready.exists(), "the ready file is there");
    ensure!(begin.elapsed() < SOON, "{ends}: {:?}", begin.elapsed());
    objects.gone()?;
    Ok(looks)
}

fn has_iterator(child: &Child) -> Result<bool> {
    let fds = format!("/proc/{}/fd", child.id());
    let names = procfs::each(&fds, |fd: &Path| fs::read_link(fd))?;
    let is = |name: &std::path::PathBuf| name.to_string_lossy().contains("bpf_iter");
    Ok(names.iter().any(is))
}

fn stops(child: &Child) -> Result<()> {
    wait::until("the stop", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        Ok(stat.contains(") T ").then_some(()))
    })
}
