// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records for what keeps logs: entries of the systemd journal, and OTLP/JSON log lines. docs/logs.md lists their fields.

mod cells;
mod convert;
mod host;
mod journal;
mod level;
mod otlp;
pub mod socket;
pub mod words;

pub use self::cells::{Cells, listed};
pub use self::convert::convert;
pub use self::host::{Host, boot_id};
pub use self::journal::{frame, framed};
pub use self::level::Level;

use super::digits::append::Piece;
use super::{Format, Value};
use crate::kernel::clock;

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub struct When<'t> {
    /// Nanoseconds since 1970.
    pub unix_ns: i64,
    /// The same as JSON has it, under `ts`.
    pub ts: &'t str,
}

/// Writes the records of one command.
pub struct Logs {
    format: Format,
    tool: String,
    /// What every record begins with.
    opening: String,
    /// What is before the values that are in no column, but in many records.
    often: Vec<(&'static str, Piece)>,
}

/// Their keys.
const OFTEN: [&str; 9] = [
    "event",
    "ts",
    "host",
    "boot_id",
    "time",
    "elapsed_s",
    "boot_ns",
    "interval_us",
    "by",
];

impl Logs {
    /// `None` for a format that is none of logs. `host`: what the user asked for; OTLP has it in any case.
    pub fn new(format: Format, tool: &str, host: Option<&Host>) -> Option<Self> {
        let opening = match format {
            Format::Journal => format!("SYSLOG_IDENTIFIER={tool}\n"),
            Format::Otlp => otlp::opening(tool, host),
            Format::Table | Format::Json | Format::Csv => return None,
        };
        Some(Self {
            format,
            tool: tool.to_owned(),
            opening,
            often: OFTEN.map(|key| (key, Self::before(format, key))).into(),
        })
    }

    /// What is before a value in each record.
    pub fn before(format: Format, key: &str) -> Piece {
        Piece::new(match format {
            Format::Journal => journal::before(key),
            _ => otlp::before(key),
        })
    }

    /// Begins a record; returns where.
    pub fn begin(&self, out: &mut Vec<u8>, event: &str, when: When<'_>) -> usize {
        let start = out.len();
        match self.format {
            Format::Journal => {
                journal::begin(out);
                out.extend_from_slice(self.opening.as_bytes());
                self.add(out, "event", &Value::Text(event));
                self.add(out, "ts", &Value::Text(when.ts));
            }
            _ => {
                out.extend_from_slice(self.opening.as_bytes());
                otlp::begin(out, (&self.tool, event), when.unix_ns, clock::unix_ns());
            }
        }
        start
    }

    /// Adds a value; none where it is not known. `before`: [`Logs::before`] of its key.
    pub fn value(&self, out: &mut Vec<u8>, before: &Piece, key: &str, value: &Value<'_>) {
        if matches!(value, Value::Unknown) {
            return;
        }
        let start = out.len();
        before.add(out);
        match self.format {
            Format::Journal => journal::value(out, start, value),
            _ => otlp::value(out, start, key, value),
        }
    }

    /// The same, for a key that is no column's.
    pub fn add(&self, out: &mut Vec<u8>, key: &str, value: &Value<'_>) {
        match self.often.iter().find(|(often, _)| *often == key) {
            Some((_, before)) => self.value(out, before, key, value),
            None => self.value(out, &Self::before(self.format, key), key, value),
        }
    }

    /// Ends the record that began at `start`. `sum`: it is of many sockets.
    pub fn end(&self, out: &mut Vec<u8>, start: usize, event: &str, sum: bool, cells: &dyn Cells) {
        let level = Level::of(&self.tool, event, cells);
        let message = |out: &mut Vec<u8>| words::message(out, (&self.tool, event), sum, cells);
        match self.format {
            Format::Journal => journal::end(out, start, level, cells, message),
            _ => otlp::end(out, level, sum, cells, message),
        }
    }
}

#[cfg(test)]
mod tests;
