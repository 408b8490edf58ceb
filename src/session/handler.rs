// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface between a run and a command.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::idle::Shows;
use super::signals::Interrupt;
use super::stdout::{Sink, Stop};
use crate::abi::types::{Record, decode};
use crate::output::{Figures, Rows};

/// What a tool does with its records.
pub trait Handler {
    /// Writes the header line, if there is one.
    fn header(&mut self, out: &mut Vec<u8>);
    /// One record from the kernel half.
    fn record(&mut self, record: &[u8], out: &mut Printer);
    /// When every probe is attached, before the first record and while there still are privileges.
    fn attached(&mut self) {}
    /// Events of sockets without state in user space.
    fn untracked(&self) -> u64 {
        0
    }
    /// Occurrences that did not fit into a table in user space.
    fn uncounted(&self) -> u64 {
        0
    }
    /// Network namespaces that could not be entered.
    fn unvisited(&self) -> u64 {
        0
    }
    /// Destroyed sockets whose statistics were lost because they arrived too fast.
    fn statistics_lost(&self) -> u64 {
        0
    }
    /// When it shows something, for the message on a terminal.
    fn shows(&self) -> Shows {
        Shows::Rows
    }
    /// Whether a row is of one connection, which has another end (`--peer`), and not of many.
    fn has_ends(&self) -> bool {
        self.shows() == Shows::Rows
    }
    /// Additional fields of the final JSON record.
    fn figures(&self) -> Vec<(&'static str, Option<u64>)> {
        Vec::new()
    }
    /// The reader has waited: before the first record that follows. Renews what may have become stale.
    fn resume(&mut self) {}
    /// After every batch, and when it is [`Self::due`], as long as rows can be written.
    fn tick(&mut self, _out: &mut Printer) {}
    /// When it wants the next tick, even if no record comes; `None`: not before a record does.
    fn due(&self) -> Option<Instant> {
        None
    }
    /// What can be read when it wants a tick: clients of its own.
    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Once, at the end, while every probe is still attached.
    fn detaching(&mut self) {}
    /// Once, when no record will follow.
    fn finish(&mut self, _out: &mut Printer) {}
    /// Writes the last record of a JSON run.
    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures);
}

/// Handlers, and the bytes of a record that each takes.
#[cfg(any(test, fuzzing))]
pub(crate) type Handlers = Vec<(usize, Box<dyn Handler>)>;

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

    fn resume(&mut self) {
        self.rows.refresh_clock();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// Prints rows up to the limit set by the user.
pub struct Printer {
    pub(super) sink: Sink,
    pub(super) rows: u64,
    limit: u64,
    /// The run is ending: block until everything is written.
    pub(super) ending: Option<Interrupt>,
    /// The first write error since the last check.
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

    /// Takes what was written, which never leaves the process.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn collect(print: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut printer = Self {
            stopped: Some(Stop::Closed),
            ..Self::new(None)
        };
        print(&mut printer);
        std::mem::take(&mut printer.sink.buf)
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

    /// What is no row, but a change of a picture on a terminal. Only if [`Self::is_idle`]: changes build on each other.
    pub fn picture(&mut self, bytes: &[u8]) {
        self.sink.buf.extend_from_slice(bytes);
    }

    /// Whether everything is written.
    pub fn is_idle(&self) -> bool {
        self.sink.buf.is_empty()
    }

    /// Drops what is not written of a picture, at the end of all pictures.
    pub fn discard(&mut self) {
        self.sink.buf.clear();
    }

    /// Ends the run, as enough rows do.
    pub fn stop(&mut self) {
        self.limit = self.rows;
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
