// SPDX-License-Identifier: MIT OR Apache-2.0
//! A feed that runs until a signal comes, its time is over, its reader leaves, or its commands end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{END, Feed, Forwarded, Row, Source};
use crate::cli::duration;
use crate::kernel::files::{Made, Place};
use crate::session::Interrupt;

/// How long it runs.
#[derive(clap::Args, Debug)]
pub struct Running {
    /// Stop after TIME: seconds, or a number with a unit (500ms, 10s, 5m, 1h)
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Create FILE once the commands look, and remove it on exit
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

/// The flag, for messages about its file.
const READY: &str = "--ready-file";

/// How soon a signal, or the end of the time, is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// What comes next.
pub enum Heard {
    Row(Row),
    /// Nothing for a moment.
    Quiet,
    /// Nothing any more.
    End,
}

/// Commands that run, and what ends them.
pub struct Live {
    feed: Feed,
    interrupt: Interrupt,
    begin: Instant,
    until: Option<Instant>,
    /// Since when the commands are told to end.
    stopped: Option<Instant>,
    ready: Option<Made>,
}

impl Live {
    /// # Errors
    /// A sentence: none of the commands runs, or the file cannot be made.
    pub fn start(sources: &[Source], filters: &Forwarded, running: &Running) -> Result<Self> {
        let interrupt = Interrupt::install()?;
        let ready = running.ready_file.as_deref();
        let ready = ready.map(|path| Place::new(READY, path)).transpose()?;
        if let Some(place) = &ready {
            place.clear(READY)?;
        }
        let feed = Feed::start(sources, filters)?;
        interrupt.started();
        let begin = Instant::now();
        Ok(Self {
            feed,
            interrupt,
            begin,
            until: running.duration.map(|time| begin + time),
            stopped: None,
            ready: ready.map(Place::make).transpose()?,
        })
    }

    /// Waits for a moment at most. When it is time to end, the commands' last rows still come.
    pub fn next(&mut self) -> Heard {
        let now = Instant::now();
        if self.interrupt.raised() || self.until.is_some_and(|until| until <= now) {
            self.stop();
        }
        if let Some(row) = self.feed.next(now + LOOK) {
            return Heard::Row(row);
        }
        let waited = self.stopped.is_some_and(|since| since.elapsed() >= END);
        match waited || self.feed.is_over() {
            true => Heard::End,
            false => Heard::Quiet,
        }
    }

    /// Ends the commands.
    pub fn stop(&mut self) {
        if self.stopped.is_none() {
            self.stopped = Some(Instant::now());
            self.feed.stop();
        }
    }

    /// How long it has run, until it was told to end.
    pub fn ran(&self) -> Duration {
        self.stopped.unwrap_or_else(Instant::now) - self.begin
    }

    /// Whether the user wants it to end.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// What commands have reported since the last call.
    pub fn notes(&mut self) -> Vec<String> {
        self.feed.take_notes()
    }

    /// Waits for the commands, and cleans up.
    ///
    /// # Errors
    /// A sentence about the file that said it was ready.
    pub fn end(self) -> Result<()> {
        drop(self.feed);
        self.ready.map_or(Ok(()), Made::remove)
    }
}
