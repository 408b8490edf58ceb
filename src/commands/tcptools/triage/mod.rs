// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools triage: looks at the whole host for some seconds, and names what is wrong.
//!
//! The commands of the suite look ([`sources`]), the [`rules`] remember what they need of each row, and at the end the
//! [`engine`] sorts what they found.

mod engine;
mod finding;
mod kind;
mod pages;
mod report;
mod rules;
mod seen;
mod sources;
mod subject;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use self::engine::Engine;
pub use self::finding::{Finding, Severity};
pub use self::kind::Limits;
pub use self::sources::all as sources;
use super::feed::{Feed, Forwarded, Header, Recorder, Recording, Row};
use crate::cli::duration;
use crate::error::Usage;
use crate::kernel::files::{Made, Place};

/// What is wrong on this host: look for some seconds, and name the causes, the worst first
///
/// Starts the commands of the suite side by side, over all network namespaces, and says for each finding whom it is
/// about, the figures that prove it, and the command that shows more. Exits 0 if nothing is wrong, 10 if there are
/// findings, 1 if it could not look.
#[derive(clap::Args)]
pub struct Args {
    /// Look for TIME
    #[arg(short, long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    duration: Duration,
    /// Print one JSON object per finding
    #[arg(long)]
    json: bool,
    /// Change a figure from which on something is a finding, as --list prints them; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Look at what `record` or --record has kept, instead of at this host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "command", "record"])]
    from: Option<PathBuf>,
    /// Keep all rows in FILE, for --from
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Create FILE once the commands look, and remove it on exit
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    ready_file: Option<PathBuf>,
    /// Print the kinds of findings, and their figures
    #[arg(long, conflicts_with_all = ["explain", "from", "record", "command"])]
    list: bool,
    /// Print what a kind of finding means, how it is told from others, and what to do
    #[arg(long, value_name = "KIND", conflicts_with_all = ["from", "record", "command"])]
    explain: Option<String>,
    #[command(flatten)]
    filters: Forwarded,
    /// Run COMMAND, and look until it ends
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Whether anything was found.
///
/// # Errors
/// A sentence: nothing could be looked at, or a wrong argument.
pub fn run(args: &Args) -> Result<bool> {
    let mut limits = Limits::default();
    for set in &args.set {
        limits
            .set(set)
            .map_err(|error| Usage(format!("--set: {error}")))?;
    }
    if args.list {
        return pages::list(&limits, args.json).map(|()| false);
    }
    if let Some(kind) = &args.explain {
        return pages::explain(kind, &limits).map(|()| false);
    }
    let mut engine = Engine::new(limits);
    let (seconds, notes) = match &args.from {
        Some(path) => replay(path, &mut engine)?,
        None => look(args, &mut engine)?,
    };
    let findings = engine.findings(seconds);
    report::print(&findings, &engine.seen, seconds, &notes, args.json)?;
    Ok(!findings.is_empty())
}

/// Rows of this host, while they come. How long it looked, and what the commands reported.
fn look(args: &Args, engine: &mut Engine) -> Result<(f64, Vec<String>)> {
    let recorder = args.record.as_deref();
    let recorder = recorder.map(|path| Recorder::create(RECORD, path, None));
    let recorder = recorder.transpose()?;
    let ready = args.ready_file.as_deref();
    let ready = ready.map(|path| Place::new(READY, path)).transpose()?;
    if let Some(place) = &ready {
        place.clear(READY)?;
    }
    let sources = sources::all(args.duration);
    let mut feed = Feed::start(&sources, &args.filters)?;
    let ready = ready.map(Place::make).transpose()?;
    let begin = Instant::now();
    let header = Header {
        sources: &sources,
        filters: &args.filters,
        host: false,
    };
    let recorder = recorder.map(|recorder| recorder.begin(&header));
    let mut recorder = recorder.transpose()?;
    let mut take = |row: Row| {
        engine.see(&row);
        let kept = recorder.as_mut().map(|recorder| recorder.put(&row));
        kept.transpose().map(drop)
    };
    match args.command.split_first() {
        Some((program, words)) => {
            let mut child = Command::new(program)
                .args(words)
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))?;
            while child.try_wait()?.is_none() {
                while let Some(row) = feed.next(Instant::now() + LOOK) {
                    take(row)?;
                }
            }
        }
        None => {
            while let Some(row) = feed.next(begin + args.duration) {
                take(row)?;
            }
        }
    }
    // A recording says the same.
    let looked = Duration::from_micros(begin.elapsed().as_micros() as u64);
    feed.stop();
    while let Some(row) = feed.next(Instant::now() + END) {
        take(row)?;
    }
    let notes = feed.notes().to_vec();
    ready.map(Made::remove).transpose()?;
    if let Some(recorder) = recorder {
        recorder.end(looked, &notes)?;
    }
    Ok((looked.as_secs_f64(), notes))
}

/// The flags, for messages about their files.
const READY: &str = "--ready-file";
const RECORD: &str = "--record";

/// How often a command that was started is looked after.
const LOOK: Duration = Duration::from_millis(50);

/// How long the last rows may take.
const END: Duration = Duration::from_secs(10);

/// Rows of a recording. How long it is, and what the commands reported.
fn replay(path: &std::path::Path, engine: &mut Engine) -> Result<(f64, Vec<String>)> {
    let mut recording = Recording::open(path)?;
    while let Some(row) = recording.next()? {
        engine.see(&row);
    }
    let looked = recording.looked()?;
    Ok((looked.as_secs_f64(), recording.notes().to_vec()))
}
