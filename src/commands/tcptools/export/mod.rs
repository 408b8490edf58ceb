// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools export: a recording in the format of another program.

pub(super) mod trace;
pub(super) mod tracks;

use std::io::{self, BufWriter};
use std::path::PathBuf;

use anyhow::{Context, Result};

use self::trace::Trace;
use self::tracks::Tracks;
use super::feed::{Forwarded, Matching, Recording};
use crate::kernel::files::Place;

/// Write a recording for a viewer of traces
///
/// Each connection is a track, in the group of its process: its states are slices, what is lost, sent again or reset is
/// an instant; stalls are below it, and window, round-trip time and bytes in flight are counters.
#[derive(clap::Args)]
pub struct Args {
    /// Write to FILE, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    perfetto: PathBuf,
    /// Read what `record` or triage --record has kept
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    filters: Forwarded,
}

/// The flag, for messages about its file.
const PERFETTO: &str = "--perfetto";

/// # Errors
/// A sentence about a file, or a wrong argument.
pub fn run(args: &Args) -> Result<()> {
    let matching = Matching::new(&args.filters)?;
    let mut recording = Recording::open(&args.from)?;
    let place = Place::new(PERFETTO, &args.perfetto)?;
    let mut counts = (0, 0);
    // What is wrong with the recording, which is no error of the file that is written.
    let mut unreadable = None;
    let fill = |file: &mut std::fs::File| -> io::Result<()> {
        let mut tracks = Tracks::new(Trace::begin(BufWriter::new(file))?);
        loop {
            match recording.next() {
                Ok(Some(row)) if matching.passes(&row) || tracks.knows(&row) => tracks.put(&row)?,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    unreadable = Some(error);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        counts = tracks.end()?;
        Ok(())
    };
    let written = place.put(fill);
    if let Some(error) = unreadable {
        return Err(error);
    }
    let path = args.perfetto.display();
    written.with_context(|| format!("cannot write {path}"))?;
    let (connections, events) = counts;
    crate::message!("tcptools: {path}: {connections} connections, {events} events");
    Ok(())
}
