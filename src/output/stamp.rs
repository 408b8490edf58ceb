// SPDX-License-Identifier: MIT OR Apache-2.0
//! How every record of JSON and CSV begins: the command, the kind of record, its time.

use std::io::Write;

use super::Style;
use crate::clock::Clock;

/// Writes the beginnings of records.
pub struct Stamp {
    tool: &'static str,
    time: bool,
    timestamp: bool,
    clock: Clock,
    /// Boot time of the first record, for relative timestamps.
    first_ns: Option<u64>,
}

impl Stamp {
    /// For a command, with the fields that `style` adds.
    pub fn new(tool: &'static str, style: &Style) -> Self {
        Self {
            tool,
            time: style.time,
            timestamp: style.timestamp,
            clock: Clock::default(),
            first_ns: None,
        }
    }

    /// Follows steps of the wall clock; call it now and then.
    pub fn refresh_clock(&mut self) {
        self.clock.refresh();
    }

    /// The time of day in the local time zone, as rows have it.
    pub fn local_time(&mut self, boot_ns: u64) -> &str {
        self.clock.local_time(boot_ns)
    }

    /// Seconds since the first row.
    pub(super) fn elapsed(&mut self, boot_ns: u64) -> f64 {
        let first = *self.first_ns.get_or_insert(boot_ns);
        boot_ns.saturating_sub(first) as f64 / 1e9
    }

    /// The header of CSV up to the first column.
    pub fn csv_header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"tool,event,ts");
        if self.time {
            out.extend_from_slice(b",time");
        }
        if self.timestamp {
            out.extend_from_slice(b",elapsed_s");
        }
    }

    /// A line of CSV up to the first column.
    pub fn csv(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) {
        let (second, ns) = self.clock.rfc3339(boot_ns);
        let _ = write!(out, "{},{event},{second}.{ns:09}Z", self.tool);
        if self.time {
            let _ = write!(out, ",{}", self.clock.local_time(boot_ns));
        }
        if self.timestamp {
            let _ = write!(out, ",{:.6}", self.elapsed(boot_ns));
        }
    }

    /// An object of JSON up to the first column: `{` is left open.
    pub fn json(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) {
        self.json_only_ts(out, event, boot_ns);
        if self.time {
            let time = self.clock.local_time(boot_ns);
            let _ = write!(out, r#","time":"{time}""#);
        }
        if self.timestamp {
            let _ = write!(out, r#","elapsed_s":{:.6}"#, self.elapsed(boot_ns));
        }
    }

    /// The same for the summary, which is no row.
    pub fn json_only_ts(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) {
        let (second, ns) = self.clock.rfc3339(boot_ns);
        let tool = self.tool;
        let _ = write!(
            out,
            r#"{{"tool":"{tool}","event":"{event}","ts":"{second}.{ns:09}Z""#
        );
    }
}
