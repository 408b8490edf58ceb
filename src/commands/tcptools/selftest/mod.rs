// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools selftest: proves the commands on this very kernel.
//!
//! A process of its own makes known traffic in a network namespace of its own ([`scene`]), the commands look at that
//! namespace, and [`checks`] compares their rows with what the kernel has counted there, and with what was sent.

mod checks;
mod isolation;
mod report;
mod scene;
mod truth;
mod worker;

use anyhow::Result;

use self::checks::{CHECKS, Tally};
use self::worker::Worker;
use crate::cli::Colour;

use super::feed::{Forwarded, Heard, Live, Running, Source};

/// Prove the commands on this kernel: make traffic in a namespace of its own, and compare
///
/// Makes connections, resets, retransmissions, drops and overflows in a new network namespace for some seconds, runs the
/// commands on them, and compares their rows with the kernel's counters. Nothing outside of that namespace is touched.
/// Exits 0 if all agree, 1 if something differs or nothing could be run.
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object per comparison
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    colour: Colour,
    /// Make the traffic; standard input says when.
    #[arg(long, hide = true)]
    worker: bool,
}

/// Whether all agreed.
///
/// # Errors
/// A sentence: the namespace cannot be made, or no command runs.
pub fn run(args: &Args) -> Result<bool> {
    if args.worker {
        return scene::play().map(|()| true);
    }
    let mut worker = Worker::start()?;
    let sources = sources(worker.netns());
    let running = Running {
        duration: None,
        ready_file: None,
    };
    let mut live = Live::start(&sources, &Forwarded::default(), &running)?;
    worker.go()?;
    let mut rows = Vec::new();
    let mut ended = false;
    loop {
        match live.next() {
            Heard::Row(row) => rows.push(row),
            Heard::Quiet => {}
            Heard::End => break,
        }
        if !ended && worker.has_ended() {
            ended = true;
            live.stop();
        }
    }
    let notes = live.notes();
    live.end()?;
    let truth = worker.truth()?;
    let tallies: Vec<_> = CHECKS
        .iter()
        .map(|check| Tally::new(check, &rows, &truth, &notes))
        .collect();
    report::print(&tallies, &notes, args.json, args.colour)?;
    let ran = tallies.iter().any(|tally| tally.why_not.is_none());
    Ok(ran && tallies.iter().all(Tally::agrees))
}

/// The commands that are compared, each of them once.
fn sources(netns: u64) -> Vec<Source> {
    let mut tools: Vec<_> = CHECKS.iter().map(|check| check.tool).collect();
    tools.dedup();
    let netns = netns.to_string();
    let of = |tool| match tool {
        "tcptop" => Source::new(tool, &["--batch", "--all", "--netns", &netns]),
        _ => Source::new(tool, &["--netns", &netns]),
    };
    tools.into_iter().map(of).collect()
}
