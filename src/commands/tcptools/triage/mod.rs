// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools triage: looks at the whole host for some seconds, and names what is wrong.
//!
//! The commands of the suite look ([`sources`]), the [`rules`] remember what they need of each row, and at the end the
//! [`engine`] sorts what they found.

mod engine;
mod finding;
mod kind;
mod pages;
pub(super) mod report;
mod rules;
mod seen;
mod sources;
mod subject;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::engine::Engine;
pub use self::finding::{Finding, Severity};
pub use self::kind::Limits;
pub use self::sources::all as sources;
use super::feed::{Forwarded, Header, Heard, Live, Recorder, Recording, Running};
use super::written::{Form, Written, named};
use crate::cli::{Colour, duration};
use crate::error::Usage;

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
    #[command(flatten)]
    written: Written,
    /// Change a figure from which on something is a finding, as --list prints them; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Look at what `record` or --record has kept, instead of at this host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "command", "record"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    colour: Colour,
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
            .set(set, rules::RULES.iter().map(|rule| rule.kind))
            .map_err(|error| Usage(format!("--set: {error}")))?;
    }
    if args.list {
        let json = match args.written.form() {
            Form::Table => false,
            Form::Json => true,
            _ => return Err(Usage("--list is a table, or JSON".into()).into()),
        };
        return pages::list(&limits, json).map(|()| false);
    }
    if let Some(kind) = &args.explain {
        return pages::explain(kind, &limits).map(|()| false);
    }
    args.written.open(args.record.is_some())?;
    let mut engine = Engine::new(limits);
    let (seconds, notes) = match &args.from {
        Some(path) => replay(path, &mut engine)?,
        None => look(args, &mut engine)?,
    };
    let findings = engine.findings(seconds);
    let how = report::How {
        written: &args.written,
        colour: args.colour.is_wanted(),
    };
    report::print(&findings, &engine.seen, seconds, &notes, how)?;
    Ok(!findings.is_empty())
}

/// Rows of this host, while they come. How long it looked, and what the commands reported.
fn look(args: &Args, engine: &mut Engine) -> Result<(f64, Vec<String>)> {
    let recorder = args.record.as_deref();
    let recorder = recorder.map(|path| Recorder::create(RECORD, path, None));
    let recorder = recorder.transpose()?;
    let host = args.written.host.as_ref();
    let sources = named(sources::all(args.duration), host);
    let running = Running {
        duration: Some(args.duration).filter(|_| args.command.is_empty()),
        ready_file: args.ready_file.clone(),
    };
    let mut live = Live::start(&sources, &args.filters, &running)?;
    let header = Header {
        sources: &sources,
        filters: &args.filters,
        host,
    };
    let recorder = recorder.map(|recorder| recorder.begin(&header));
    let mut recorder = recorder.transpose()?;
    let mut child = spawn(&args.command)?;
    loop {
        match live.next() {
            Heard::Row(row) => {
                engine.see(&row);
                if let Some(recorder) = &mut recorder {
                    recorder.put(&row)?;
                }
            }
            Heard::Quiet => {}
            Heard::End => break,
        }
        if let Some(child) = &mut child
            && child.try_wait()?.is_some()
        {
            live.stop();
        }
    }
    // A recording says the same.
    let looked = Duration::from_micros(live.ran().as_micros() as u64);
    let notes = live.notes();
    live.end()?;
    if let Some(recorder) = recorder {
        recorder.end(looked, &notes)?;
    }
    Ok((looked.as_secs_f64(), notes))
}

/// The flag, for messages about its file.
const RECORD: &str = "--record";

/// Starts the user's command, if there is one.
fn spawn(words: &[OsString]) -> Result<Option<Child>> {
    let Some((program, words)) = words.split_first() else {
        return Ok(None);
    };
    let child = Command::new(program).args(words).spawn();
    let child = child.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Some(child))
}

/// Rows of a recording. How long it is, and what the commands reported.
fn replay(path: &std::path::Path, engine: &mut Engine) -> Result<(f64, Vec<String>)> {
    let mut recording = Recording::open(path)?;
    while let Some(row) = recording.next()? {
        engine.see(&row);
    }
    let looked = recording.looked()?;
    Ok((looked.as_secs_f64(), recording.notes().to_vec()))
}
