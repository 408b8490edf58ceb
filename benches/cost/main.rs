// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the commands cost, against nothing, against empty programs on the same tracepoints, and against the peers that
//! are installed. Everything is measured in one run, interleaved, and printed as medians and multiples, with the targets;
//! nothing is asserted.
//!
//! `./bench.sh [--rate | --start | --scale SOCKETS] [--rounds N] [--connections N] [--load NAME] [--only NAME]
//! [--against DIR]`

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

mod catalog;
mod fdinfo;
mod kernel_time;
mod load;
mod process;
mod rate;
mod report;
mod rounds;
mod scale;
mod start;
mod subject;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};

use load::Load;

/// What is measured.
enum Mode {
    /// The kernel time of each load.
    KernelTime,
    /// The rate of each load, statistics off.
    Rate,
    /// What starting takes, and idling.
    Start,
    /// Up to so many open sockets.
    Scale(usize),
}

/// What the command line asks for.
pub struct Plan {
    mode: Mode,
    /// Each mode has its own number.
    rounds: Option<usize>,
    connections: Option<usize>,
    loads: Vec<Load>,
    only: Option<String>,
    /// Another build's commands, to be measured beside ours.
    against: Option<PathBuf>,
}

impl Plan {
    fn from_args(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            mode: Mode::KernelTime,
            rounds: None,
            connections: None,
            loads: vec![
                Load::Storm,
                Load::Reset,
                Load::Bulk,
                Load::Drop,
                Load::Turns,
                Load::Bytes,
            ],
            only: None,
            against: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--rate" => plan.mode = Mode::Rate,
                "--start" => plan.mode = Mode::Start,
                "--scale" => plan.mode = Mode::Scale(value()?.parse()?),
                "--rounds" => plan.rounds = Some(value()?.parse()?),
                "--connections" => plan.connections = Some(value()?.parse()?),
                "--load" => plan.loads = vec![Load::by_name(value()?)?],
                "--only" => plan.only = Some(value()?.clone()),
                "--against" => {
                    let folder = value()?.into();
                    ensure!(Path::new(&folder).is_dir(), "{folder:?} is no directory");
                    plan.against = Some(fs::canonicalize::<PathBuf>(folder)?);
                }
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(plan)
    }
}

/// A network of our own: no other traffic, and sysctls that may be set. And tracefs, which the peers need, where only
/// this process and its children see it.
fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("the benchmark needs root")?;
    subject::command(&["mount", "--make-rprivate", "/"])?;
    if !Path::new("/sys/kernel/tracing/events").exists() {
        subject::command(&["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"])?;
    }
    // bpftrace 0.17 and bcc look for it here.
    let debugfs = Path::new("/sys/kernel/debug");
    if debugfs.exists() && !debugfs.join("tracing/events").exists() {
        subject::command(&["mount", "-t", "debugfs", "none", "/sys/kernel/debug"])?;
    }
    subject::command(&["ip", "link", "set", "lo", "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
    // The timers of TIME_WAIT would be the work of a later run.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")?;
    Ok(())
}

/// Lets commands end by SIGINT, which a shell's background jobs ignore, and their children with them.
fn heed_interrupts() -> Result<()> {
    // SAFETY: the default action is no handler.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((mode, args)) if mode == "load" => return load::child(args),
        Some((mode, args)) if mode == "hold" => return scale::hold(args),
        _ => {}
    }
    let plan = Plan::from_args(&args)?;
    // It tells of each program without source lines.
    libbpf_rs::set_print(None);
    heed_interrupts()?;
    own_network()?;
    report::host()?;
    let mut loads = plan.loads.iter();
    match plan.mode {
        Mode::KernelTime => loads.try_for_each(|&load| kernel_time::measure(&plan, load)),
        Mode::Rate => loads.try_for_each(|&load| rate::measure(&plan, load)),
        Mode::Start => start::measure(&plan),
        Mode::Scale(most) => scale::measure(&plan, most),
    }
}
