// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools follow: everything that happens to a connection, over all commands, in one order.

mod about;
mod output;
mod page;
mod sources;
pub(super) mod story;
pub mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

pub use self::page::title;
pub use self::sources::events;

use self::output::Output;
use self::story::{Form, Story};
use super::feed::{Forwarded, Heard, Live, Matching, Recording, Row, Running};
use super::written::{self, Written, named};
use crate::cli::{Colour, duration};
use crate::error::Usage;
use crate::output::terminal::{self, Tone};

/// The story of a connection: what all commands see of it, in the order in which it happened
///
/// Shows how it opens and ends, its states, samples of its window and round-trip time, what is sent again, dropped or
/// reset, and what keeps it from moving. Say which connection by its port, its process, another filter, or its cookie.
#[derive(clap::Args)]
pub struct Args {
    /// Follow the socket with this cookie: as rows have it, or as `ss -e` does (sk:1a)
    #[arg(long, value_name = "N", value_parser = cookie)]
    cookie: Option<u64>,
    /// Show a sample of a connection every TIME at most
    #[arg(short, long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    interval: Duration,
    /// Tell what `record` or triage --record has kept, instead of what happens now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "ready_file"])]
    from: Option<PathBuf>,
    /// How: as a story, or the rows themselves.
    #[command(flatten)]
    written: Written,
    #[command(flatten)]
    colour: Colour,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    filters: Forwarded,
}

/// `26`, `0x1a`, `sk:1a`
fn cookie(text: &str) -> Result<u64, String> {
    let hex = text.strip_prefix("sk:").or(text.strip_prefix("0x"));
    let number = match hex {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("'{text}' is not a cookie (26, 0x1a or sk:1a)"))
}

/// # Errors
/// A sentence: nothing could be looked at, or a wrong argument.
pub fn run(args: &Args) -> Result<()> {
    let form = match args.written.form() {
        written::Form::Table => Form::Page,
        _ => Form::Json,
    };
    let mut story = Story::new(form, args.interval);
    if let Some(path) = &args.from {
        if args.written.host.is_some() {
            let reason = "--host: rows of a recording keep what they say of their host";
            return Err(Usage(reason.into()).into());
        }
        args.written.open(false)?;
        return replay(args, path, &mut story);
    }
    if args.cookie.is_none() && !args.filters.filter().is_set() {
        let reason = "follow: say which connection: --port, --pid, --cookie, or another filter";
        return Err(Usage(reason.into()).into());
    }
    args.written.open(false)?;
    live(args, &mut story)
}

impl Args {
    fn has_colour(&self) -> bool {
        self.written.form() == written::Form::Table && self.colour.is_wanted()
    }

    /// Whether the row's socket may be the one that is asked for.
    fn is_asked(&self, row: &Row, story: &Story) -> bool {
        match self.cookie {
            None => true,
            Some(cookie) => row.number("cookie") == Some(cookie) || story.knows(row),
        }
    }
}

/// What is coloured.
const WORDS: [(&str, Tone); 4] = [
    ("reset", Tone::Bad),
    ("drop", Tone::Bad),
    ("retransmit", Tone::Odd),
    ("stalled", Tone::Odd),
];

/// Lines as they are written.
fn shown(text: String, colour: bool) -> String {
    match colour {
        true => terminal::lines(&text, |line| terminal::word_at(line, page::WORD, &WORDS)),
        false => text,
    }
}

/// What happens now.
fn live(args: &Args, story: &mut Story) -> Result<()> {
    let sources = named(sources::all(args.interval), args.written.host.as_ref());
    let mut live = Live::start(&sources, &args.filters, &args.running)?;
    let mut out = Output::default();
    let colour = args.has_colour();
    let mut reported = Vec::new();
    loop {
        let mut text = String::new();
        match live.next() {
            Heard::Row(row) if row.event() == "summary" || args.is_asked(&row, story) => {
                story.tell(&row, &mut text);
            }
            Heard::Row(_) | Heard::Quiet => {}
            Heard::End => break,
        }
        for note in live.notes() {
            crate::message!("{note}");
            reported.push(note);
        }
        reported.truncate(NOTES);
        if !out.write(&args.written.encode(&shown(text, colour)), live.interrupt())? {
            return live.end();
        }
    }
    finish(args, story, &reported, |text| {
        out.write(text, live.interrupt())
    })?;
    out.end(live.interrupt())?;
    live.end()
}

/// How many messages of commands the summary has.
const NOTES: usize = 64;

/// What a recording has.
fn replay(args: &Args, path: &Path, story: &mut Story) -> Result<()> {
    let matching = Matching::new(&args.filters)?;
    let mut recording = Recording::open(path)?;
    let mut out = output::Plain::default();
    let colour = args.has_colour();
    while let Some(row) = recording.next()? {
        let is_end = row.event() == "summary";
        let matches = || matching.passes(&row) || story.knows(&row);
        let mut text = String::new();
        if is_end || args.is_asked(&row, story) && matches() {
            story.tell(&row, &mut text);
        }
        if !out.write(&args.written.encode(&shown(text, colour)))? {
            return Ok(());
        }
    }
    finish(args, story, &[], |text| out.write(text))?;
    out.end()
}

/// The last line, or why there is none.
fn finish(
    args: &Args,
    story: &mut Story,
    notes: &[String],
    write: impl FnOnce(&[u8]) -> Result<bool>,
) -> Result<()> {
    let mut rest = String::new();
    story.end(&mut rest);
    if args.written.form() != written::Form::Table {
        let mut summary = json!({
            "tool": "tcptools", "event": "summary", "events": story.rows,
            "connections": story.connections(), "lost": story.lost, "notes": notes,
        });
        if let Some(summary) = summary.as_object_mut() {
            written::name(summary, args.written.host.as_ref());
        }
        rest = format!("{summary}\n");
    } else if story.rows == 0 {
        crate::message!("tcptools: no event of a connection that matches");
    }
    write(&args.written.encode(&shown(rest, args.has_colour())))?;
    if story.lost > 0 {
        crate::message!("tcptools: the commands lost {} events", story.lost);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_read_as_they_are_shown() {
        assert_eq!(cookie("26"), Ok(26));
        assert_eq!(cookie("0x1a"), Ok(26));
        assert_eq!(cookie("sk:1a"), Ok(26));
        assert!(cookie("x").unwrap_err().contains("'x'"));
    }
}
