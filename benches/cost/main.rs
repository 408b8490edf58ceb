// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the commands cost, against nothing, against an empty program on the same tracepoint, and against the peers that
//! are installed. Everything is measured in one run, interleaved, and printed as medians and ratios; nothing is asserted.
//!
//! `./bench.sh [--rounds N] [--connections N] [--load NAME] [--only NAME] [--start | --scale SOCKETS]`

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

mod load;
mod programs;
mod report;
mod scale;
mod start;
mod subject;

use std::env;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};

use load::Load;
use report::Sample;
use subject::Subject;

/// What the command line asks for.
pub struct Plan {
    rounds: usize,
    connections: usize,
    loads: Vec<Load>,
    only: Option<String>,
    /// Up to so many open sockets, instead of the loads.
    scale: Option<usize>,
    /// What starting takes, instead of the loads.
    start: bool,
}

impl Plan {
    fn from_args(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            rounds: 5,
            connections: 20_000,
            loads: Load::ALL.to_vec(),
            only: None,
            scale: None,
            start: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--start" => plan.start = true,
                "--scale" => plan.scale = Some(value()?.parse()?),
                "--rounds" => plan.rounds = value()?.parse()?,
                "--connections" => plan.connections = value()?.parse()?,
                "--load" => plan.loads = vec![Load::by_name(value()?)?],
                "--only" => plan.only = Some(value()?.clone()),
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(plan)
    }
}

/// A network of our own: no other traffic, and sysctls that may be set. And tracefs, which the peers need.
fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("the benchmark needs root")?;
    subject::command(&["mount", "--make-rprivate", "/"])?;
    if !Path::new("/sys/kernel/tracing/events").exists() {
        subject::command(&["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"])?;
    }
    subject::command(&["ip", "link", "set", "lo", "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
    fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
    Ok(())
}

fn measure(plan: &Plan, load: Load) -> Result<()> {
    let subjects: Vec<_> = subject::all(load)
        .into_iter()
        .filter(|s| {
            plan.only
                .as_ref()
                .is_none_or(|only| s.is_baseline() || s.name.contains(only))
        })
        .collect();
    let (nothing, subjects) = subjects.split_first().context("no subject")?;
    let mut untraced = vec![];
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| vec![]).collect();
    load.prepare()?;
    for round in 0..plan.rounds {
        untraced.push(one(nothing, load, plan.connections)?.rate);
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            progress(&format!(
                "{} round {}: {}",
                load.name(),
                round + 1,
                subject.name
            ));
            let sample = one(subject, load, plan.connections);
            // The host's other work comes and goes: each subject is compared with its own neighbours.
            let before = untraced.last().copied().unwrap_or(f64::NAN);
            untraced.push(one(nothing, load, plan.connections)?.rate);
            let after = untraced.last().copied().unwrap_or(f64::NAN);
            match sample {
                Ok(mut sample) => {
                    sample.untraced = (before + after) / 2.0;
                    samples.push(sample);
                }
                Err(error) if round == 0 => {
                    progress("");
                    eprintln!("{}: {error:#}", subject.name);
                }
                Err(_) => {}
            }
        }
    }
    progress("");
    load.clean_up()?;
    report::print(load, &untraced, subjects, &samples);
    Ok(())
}

/// One line on the terminal, written over the last one.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what:<60}{}", if what.is_empty() { "\r" } else { "" });
    }
}

/// One subject under one load.
fn one(subject: &Subject, load: Load, connections: usize) -> Result<Sample> {
    let connections = load.units(connections);
    let before = programs::ids();
    let mut running = subject.start(&before)?;
    let own = programs::since(&before);
    let stats = programs::totals(&own);
    let rate = load.run(connections)?;
    let spent = programs::totals(&own).minus(stats);
    let cost = running.stop()?;
    Ok(Sample {
        rate,
        untraced: f64::NAN,
        units: connections,
        events: spent.events,
        ns: spent.ns,
        cost,
    })
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((mode, args)) if mode == "load" => return load::child(args),
        Some((mode, args)) if mode == "hold" => return scale::hold(args),
        _ => {}
    }
    let plan = Plan::from_args(&args)?;
    own_network()?;
    report::host()?;
    if plan.start {
        return start::measure(plan.rounds, plan.only.as_deref());
    }
    let _stats = programs::enable_stats()?;
    if let Some(most) = plan.scale {
        return scale::measure(most, plan.connections);
    }
    plan.loads.iter().try_for_each(|&load| measure(&plan, load))
}
