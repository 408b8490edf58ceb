// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the commands cost, against nothing, against an empty program on the same tracepoint, and against the peers that
//! are installed. Everything is measured in one run, interleaved, and printed as medians and ratios; nothing is asserted.
//!
//! `./bench.sh [--rounds N] [--connections N] [--load NAME] [--only NAME] [--scale]`

mod load;
mod programs;
mod report;
mod scale;
mod subject;

use std::env;
use std::fs;

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
    scale: bool,
}

impl Plan {
    fn from_args(args: &[String]) -> Result<Self> {
        let mut plan = Self {
            rounds: 5,
            connections: 20_000,
            loads: Load::ALL.to_vec(),
            only: None,
            scale: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--scale" => plan.scale = true,
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
    subject::command(&["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"])?;
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
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| vec![]).collect();
    load.prepare()?;
    for round in 0..plan.rounds {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            eprint!(
                "\r{:<60}",
                format!("{} round {}: {}", load.name(), round + 1, subject.name)
            );
            match one(subject, load, plan.connections) {
                Ok(sample) => samples.push(sample),
                Err(error) if round == 0 => eprintln!("\r{}: {error:#}", subject.name),
                Err(_) => {}
            }
        }
    }
    eprint!("\r{:<60}\r", "");
    load.clean_up()?;
    report::print(load, &subjects, &samples);
    Ok(())
}

/// One subject under one load.
fn one(subject: &Subject, load: Load, connections: usize) -> Result<Sample> {
    let before = programs::ids();
    let mut running = subject.start(&before)?;
    let own = programs::since(&before);
    let stats = programs::totals(&own);
    let rate = load.run(connections)?;
    let spent = programs::totals(&own).minus(stats);
    let cost = running.stop()?;
    Ok(Sample {
        rate,
        units: connections,
        events: spent.events,
        ns: spent.ns,
        cost,
    })
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "load") {
        return load::child(&args[1..]);
    }
    let plan = Plan::from_args(&args)?;
    own_network()?;
    let _stats = programs::enable_stats()?;
    report::host()?;
    if plan.scale {
        return scale::measure(plan.connections);
    }
    plan.loads.iter().try_for_each(|&load| measure(&plan, load))
}
