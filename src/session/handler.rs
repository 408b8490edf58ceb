// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run hands to a command, and takes from it.

use super::idle::Shows;
use super::signals::Interrupt;
use super::stdout::{Sink, Stop};
use crate::output::{Figures, Rows};
use crate::types::{Record, decode};

/// What this side could not look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unseen {
    /// Network namespaces that could not be entered.
    pub unvisited: u64,
    /// Destroyed sockets whose statistics the kernel told, but too fast for this side.
    pub statistics_lost: u64,
}

/// What a tool does with its records.
pub trait Handler {
    /// Writes the header line, if there is one.
    fn header(&mut self, out: &mut Vec<u8>);
    /// One record from the kernel half.
    fn record(&mut self, record: &[u8], out: &mut Printer);
    /// When every probe is attached, before the first record and while there still are privileges.
    fn attached(&mut self) {}
    /// Events of sockets that no state was kept for on this side.
    fn untracked(&self) -> u64 {
        0
    }
    /// Occurrences that a table on this side had no room for.
    fn uncounted(&self) -> u64 {
        0
    }
    /// What could not be looked at: see [`Unseen`].
    fn unseen(&self) -> Unseen {
        Unseen::default()
    }
    /// When it shows something, for the line that a terminal gets.
    fn shows(&self) -> Shows {
        Shows::Rows
    }
    /// Numbers of its own for the last record of a JSON run.
    fn figures(&self) -> Vec<(&'static str, Option<u64>)> {
        Vec::new()
    }
    /// After every batch, and every 50 ms as long as rows can be written.
    fn tick(&mut self, _out: &mut Printer) {}
    /// Once, when no record will follow.
    fn finish(&mut self, _out: &mut Printer) {}
    /// Writes the last record of a JSON run.
    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures);
}

/// The handler of a tool whose every record is one row.
pub struct EachRow<E> {
    /// Writes the rows.
    pub rows: Rows<E>,
    /// The row's `event` in JSON.
    pub event: fn(&E) -> &'static str,
}

impl<E: Record> Handler for EachRow<E> {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<E>(record) {
            let event = (self.event)(body);
            out.row(|buf| self.rows.row(buf, event, &body.into()));
        }
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.rows.refresh_clock();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// Takes rows up to the number that the user asked for.
pub struct Printer {
    pub(super) sink: Sink,
    pub(super) rows: u64,
    limit: u64,
    /// The run ends: what is written is waited for.
    pub(super) ending: Option<Interrupt>,
    /// Why a row could not be written, since somebody asked.
    pub(super) stopped: Option<Stop>,
}

impl Printer {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            sink: Sink::default(),
            rows: 0,
            limit: limit.unwrap_or(u64::MAX),
            ending: None,
            stopped: None,
        }
    }

    /// One row, unless there are enough.
    pub fn row(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.rows >= self.limit {
            return;
        }
        self.rows += 1;
        self.sink.row(write);
        // A large table is not collected first.
        if self.sink.is_full() && self.stopped.is_none() {
            let result = match &self.ending {
                Some(interrupt) => self.sink.deliver(interrupt),
                None => self.sink.flush(),
            };
            if let Err(stop) = result {
                self.sink.give_up();
                self.stopped = Some(stop);
            }
        }
    }

    /// A line that is no row: the header of one more table.
    pub fn heading(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.full() {
            write(&mut self.sink.buf);
        }
    }

    pub(super) fn full(&self) -> bool {
        self.rows >= self.limit
    }

    /// Writes what fits.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.stopped.take().map_or(Ok(()), Err)?;
        self.sink.flush()
    }

    /// Writes everything, at the end.
    pub(super) fn deliver(&mut self, interrupt: &Interrupt) -> Result<(), Stop> {
        self.stopped.take().map_or(Ok(()), Err)?;
        self.sink.deliver(interrupt)
    }
}
