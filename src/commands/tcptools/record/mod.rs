// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools record: keeps the rows of all commands in a file, as they come or, as a flight recorder, the last minutes when
//! something happens.

mod flight;
mod names;
mod usr1;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::Utc;
use clap::ValueEnum;

use self::flight::Flight;
use self::watch::Watch;
use super::feed::{
    Forwarded, Header, Heard, Live, Recorder, Running, Source, is_packed, last_line,
};
use super::written::named;
use super::{follow, triage};
use crate::cli::duration;
use crate::kernel::clock::boot_ns;
use crate::kernel::files::Place;
use crate::output::logs::Host;

/// Keep the rows of all commands in a file, for triage --from, follow --from, tcptop --from and export
///
/// Writes rows as they come, until Ctrl-C. With --last keeps those of the last minutes in memory, and writes them when
/// SIGUSR1 comes or triage finds something (--on): what was before the incident.
#[derive(clap::Args)]
pub struct Args {
    /// Write to FILE; compressed if its name ends in .gz [default: tcptools-DATE-TIME.jsonl.gz]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the rows of the last TIME in memory, and write them on SIGUSR1
    #[arg(long, value_name = "TIME", value_parser = duration)]
    last: Option<Duration>,
    /// Write them also when triage finds something that is at least so severe
    #[arg(long, value_enum, value_name = "SEVERITY", requires = "last")]
    on: Option<On>,
    /// Stop when FILE has SIZE; with --last: keep at most SIZE of compressed rows in memory [default: 1G, 64M]
    #[arg(long, value_name = "SIZE", value_parser = names::size)]
    max_size: Option<u64>,
    /// Look every TIME at what is there: sockets, listeners, counters, samples of connections
    #[arg(short, long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    interval: Duration,
    /// Name the host, as NAME or as itself, and its boot ID in the first line and in each row
    #[arg(long, alias = "hostname", value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    host: Option<Host>,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    filters: Forwarded,
}

/// From which severity on.
#[derive(Clone, Copy, ValueEnum)]
enum On {
    Critical,
    Warning,
    Note,
}

impl From<On> for triage::Severity {
    fn from(on: On) -> Self {
        match on {
            On::Critical => Self::Critical,
            On::Warning => Self::Warning,
            On::Note => Self::Note,
        }
    }
}

/// The flag, for messages about its file.
const OUTPUT: &str = "--output";

const MAX_FILE: u64 = 1 << 30;
const MAX_MEMORY: u64 = 64 << 20;

/// How many files a flight recorder writes: a host with many findings must not fill its disk.
const FILES: u64 = 16;

/// How long triage looks, in intervals: it needs some of them.
const LOOKS: u32 = 4;

/// What triage has, and what follow needs besides.
fn sources(args: &Args) -> Vec<Source> {
    let interval = args.interval;
    let mut all = triage::sources(interval * 5);
    let fine = format!("--interval={}ms", interval.as_millis().max(1));
    all.extend(follow::events(&fine, interval));
    named(all, args.host.as_ref())
}

/// # Errors
/// A sentence: nothing could be looked at, the file cannot be written, or a wrong argument.
pub fn run(args: &Args) -> Result<()> {
    let usual = || format!("tcptools-{}.jsonl.gz", Utc::now().format("%Y%m%d-%H%M%S")).into();
    let path: PathBuf = args.output.clone().unwrap_or_else(usual);
    usr1::install()?;
    match args.last {
        Some(last) => keep(args, &path, last),
        None => write(args, &path),
    }
}

impl Args {
    fn header<'a>(&'a self, sources: &'a [Source]) -> Header<'a> {
        Header {
            sources,
            filters: &self.filters,
            host: self.host.as_ref(),
        }
    }
}

/// Messages of commands: shown, and kept as far as they are few.
fn report(live: &mut Live, notes: &mut Vec<String>) {
    for note in live.notes() {
        crate::message!("{note}");
        if notes.len() < NOTES {
            notes.push(note);
        }
    }
}

const NOTES: usize = 256;

/// Rows as they come.
fn write(args: &Args, path: &std::path::Path) -> Result<()> {
    let recorder = Recorder::create(OUTPUT, path, Some(args.max_size.unwrap_or(MAX_FILE)))?;
    let sources = sources(args);
    let mut live = Live::start(&sources, &args.filters, &args.running)?;
    let mut recorder = recorder.begin(&args.header(&sources))?;
    let (mut notes, mut full) = (Vec::new(), false);
    loop {
        match live.next() {
            Heard::Row(row) if !full => full = !recorder.put(&row)?,
            Heard::Row(_) | Heard::Quiet => {}
            Heard::End => break,
        }
        recorder.tick()?;
        if usr1::came() {
            recorder.flush()?;
        }
        if full {
            live.stop();
        }
        report(&mut live, &mut notes);
    }
    let (rows, ran) = (recorder.rows, live.ran());
    let bytes = recorder.end(ran, &notes)?;
    let seconds = ran.as_secs_f64();
    let why = if full {
        ": it is full (--max-size)"
    } else {
        ""
    };
    let path = path.display();
    crate::message!("tcptools: {path}: {rows} rows of {seconds:.1} s, {bytes} bytes{why}");
    live.end()
}

/// The last minutes, when they are asked for.
fn keep(args: &Args, path: &std::path::Path, last: Duration) -> Result<()> {
    // A file that cannot be written is told now, not when it is needed.
    Place::new(OUTPUT, path)?;
    let sources = sources(args);
    let mut live = Live::start(&sources, &args.filters, &args.running)?;
    let mut flight = Flight::new(last, args.max_size.unwrap_or(MAX_MEMORY));
    let window = args.interval * LOOKS;
    let mut watch = args.on.map(|least| Watch::new(least.into(), window, last));
    let (mut notes, mut files) = (Vec::new(), 0);
    loop {
        match live.next() {
            Heard::Row(row) => {
                if let Some(watch) = &mut watch {
                    watch.see(&row);
                }
                flight.put(&row);
            }
            Heard::Quiet => {}
            Heard::End => break,
        }
        report(&mut live, &mut notes);
        let mut why = Vec::new();
        if usr1::came() {
            why.push("SIGUSR1".to_owned());
        }
        if let Some(watch) = &mut watch {
            why.extend(watch.look(Instant::now()));
        }
        if why.is_empty() {
            continue;
        }
        why.iter()
            .for_each(|why| crate::message!("tcptools: {why}"));
        if files == FILES {
            crate::message!("tcptools: nothing written: a run writes {FILES} files at most");
            continue;
        }
        files += 1;
        let path = names::numbered(path, files);
        dump(args, &sources, &flight, &path, &notes)?;
    }
    live.end()
}

/// One file. What is kept stays.
fn dump(
    args: &Args,
    sources: &[Source],
    flight: &Flight,
    path: &std::path::Path,
    notes: &[String],
) -> Result<()> {
    let (rows, first) = flight.holds();
    let now = boot_ns();
    let looked = Duration::from_nanos(now.saturating_sub(first.unwrap_or(now)));
    let host = args.host.as_ref().map(|host| &*host.name);
    let (first, last) = (args.header(sources).line(), last_line(looked, notes, host));
    let place = Place::new(OUTPUT, path)?;
    let written = place.put(|file| flight.write(file, is_packed(path), &first, &last));
    let written = written.with_context(|| format!("cannot write {}", path.display()))?;
    let bytes = written.metadata().map_or(0, |file| file.len());
    let (path, seconds) = (path.display(), looked.as_secs_f64());
    crate::message!("tcptools: {path}: {rows} rows of {seconds:.1} s, {bytes} bytes");
    Ok(())
}
