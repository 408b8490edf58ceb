// SPDX-License-Identifier: MIT OR Apache-2.0
//! The start of every JSON and CSV record: command, kind of record, time.

use std::io::Write;

use super::digits::{append, padded};
use super::logs::{Cells, Logs, When, convert};
use super::{Style, Value, escape};
use crate::kernel::clock::{Clock, boot_ns};

/// The numbers of a run by their keys in JSON; `None`: not known.
pub type Figures = [(&'static str, Option<u64>)];

/// Writes the beginnings of records.
pub struct Stamp {
    tool: &'static str,
    /// What every object of JSON begins with.
    opening: String,
    time: bool,
    timestamp: bool,
    clock: Clock,
    /// Boot time of the first record, for relative timestamps.
    first_ns: Option<u64>,
    /// What the sums cover, if the records are sums.
    period: Option<Period>,
    /// The keys that the sums are made by, if that is said.
    by: Option<String>,
    /// The names and the values that say which host it is, if that is said.
    host: Vec<(&'static str, String)>,
    /// The same in JSON.
    host_json: Vec<u8>,
    /// Writes records for logs, if that is the format.
    logs: Option<Logs>,
    /// `ts` of the last of them.
    last: String,
}

/// The time that sums cover.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// Its end, since boot.
    pub boot_ns: u64,
    /// Its length: since the sums before, or since the start.
    pub interval_us: u64,
}

/// The keys of a sum between `ts` and its own.
pub(super) const SUM_KEYS: [&str; 2] = ["boot_ns", "interval_us"];
/// The key after these of a sum that says what it is made by.
pub(super) const BY: &str = "by";
/// The keys after `ts` that say which host it is (`--host`).
const HOST: &str = "host";
const BOOT_ID: &str = "boot_id";

impl Stamp {
    /// For a command, with the fields that `style` adds.
    pub fn new(tool: &'static str, style: &Style) -> Self {
        let host = style.host.iter();
        let host: Vec<_> = host
            .flat_map(|host| {
                [
                    (HOST, host.name.clone()),
                    (BOOT_ID, host.boot_id.to_owned()),
                ]
            })
            .collect();
        let mut host_json = Vec::new();
        for (key, value) in &host {
            let _ = write!(host_json, r#","{key}":"#);
            escape::json(&mut host_json, value);
        }
        Self {
            host,
            host_json,
            logs: Logs::new(style.format, tool, style.host.as_ref()),
            last: String::new(),
            tool,
            opening: format!(r#"{{"tool":"{tool}","event":""#),
            time: style.time,
            timestamp: style.timestamp,
            clock: Clock::default(),
            first_ns: None,
            period: None,
            by: None,
        }
    }

    /// For sums, whose records have `SUM_KEYS` too. The first period begins now.
    pub fn of_sums(tool: &'static str, style: &Style) -> Self {
        let period = Some(Period {
            boot_ns: boot_ns(),
            interval_us: 0,
        });
        Self {
            period,
            ..Self::new(tool, style)
        }
    }

    /// Says what the sums are made by: keys, separated by commas.
    pub fn by(&mut self, keys: &str) {
        self.by = Some(keys.to_owned());
    }

    /// Ends the period that the sums cover; the next one begins.
    pub fn next_period(&mut self) -> Period {
        self.end_period(boot_ns())
    }

    /// The same, if it has ended before, at this time since boot.
    pub fn end_period(&mut self, boot_ns: u64) -> Period {
        self.refresh_clock();
        let begin = self.period.map_or(boot_ns, |period| period.boot_ns);
        *self.period.insert(Period {
            boot_ns,
            interval_us: boot_ns.saturating_sub(begin) / 1000,
        })
    }

    /// Follows steps of the wall clock; call it from time to time.
    pub fn refresh_clock(&mut self) {
        self.clock.refresh();
    }

    /// As [`Clock::fix`].
    pub fn fix_clock(&mut self, boot_ns: u64, unix_ns: i64) {
        self.clock.fix(boot_ns, unix_ns);
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
        for (key, _) in &self.host {
            let _ = write!(out, ",{key}");
        }
        if self.time {
            out.extend_from_slice(b",time");
        }
        if self.timestamp {
            out.extend_from_slice(b",elapsed_s");
        }
        if self.period.is_some() {
            let _ = write!(out, ",{}", SUM_KEYS.join(","));
        }
        if self.by.is_some() {
            let _ = write!(out, ",{BY}");
        }
    }

    /// A line of CSV up to the first column.
    pub fn csv(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) {
        for part in [self.tool, ",", event, ","] {
            out.extend_from_slice(part.as_bytes());
        }
        self.ts(out, boot_ns);
        for (_, value) in &self.host {
            append::all(out, b",");
            Value::Text(value).csv(out);
        }
        if self.time {
            let _ = write!(out, ",{}", self.clock.local_time(boot_ns));
        }
        if self.timestamp {
            let _ = write!(out, ",{:.6}", self.elapsed(boot_ns));
        }
        if let Some(period) = self.period {
            let _ = write!(out, ",{boot_ns},{}", period.interval_us);
        }
        match &self.by {
            Some(by) if by.contains(',') => drop(write!(out, ",\"{by}\"")),
            Some(by) => drop(write!(out, ",{by}")),
            None => {}
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
        if let Some(period) = self.period {
            let [end, length] = SUM_KEYS;
            let us = period.interval_us;
            let _ = write!(out, r#","{end}":{boot_ns},"{length}":{us}"#);
        }
        if let Some(by) = &self.by {
            let _ = write!(out, r#","{BY}":"{by}""#);
        }
    }

    /// The last record of a run, in JSON or for logs: `fields` are its numbers.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        let Some(logs) = self.logs.take() else {
            return self.json_summary(out, fields);
        };
        convert(&logs, out, |out| self.json_summary(out, fields));
        self.logs = Some(logs);
    }

    fn json_summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        let now = boot_ns();
        self.json_only_ts(out, "summary", now);
        let _ = write!(out, r#","boot_ns":{now}"#);
        for (key, value) in fields {
            let _ = write!(out, r#","{key}":"#);
            let _ = match value {
                Some(value) => write!(out, "{value}"),
                None => write!(out, "null"),
            };
        }
        out.extend_from_slice(b"}\n");
    }

    /// The same for the summary, which is no row.
    pub fn json_only_ts(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) {
        for part in [&self.opening, event, r#"","ts":""#] {
            out.extend_from_slice(part.as_bytes());
        }
        self.ts(out, boot_ns);
        append::all(out, b"\"");
        out.extend_from_slice(&self.host_json);
    }

    /// Begins a record for logs, up to the first column; returns where. Call it only if the format is one of them.
    pub fn begin(&mut self, out: &mut Vec<u8>, event: &str, boot_ns: u64) -> usize {
        let mut ts = std::mem::take(&mut self.last).into_bytes();
        ts.clear();
        self.ts(&mut ts, boot_ns);
        self.last = String::from_utf8(ts).unwrap_or_default();
        let elapsed = self.timestamp.then(|| self.elapsed(boot_ns));
        let Some(logs) = &self.logs else {
            return out.len();
        };
        let when = When {
            unix_ns: self.clock.unix_ns(boot_ns),
            ts: &self.last,
        };
        let start = logs.begin(out, event, when);
        for (key, value) in &self.host {
            logs.add(out, key, &Value::Text(value));
        }
        if self.time {
            logs.add(out, "time", &Value::Text(self.clock.local_time(boot_ns)));
        }
        if let Some(elapsed) = elapsed {
            logs.add(out, "elapsed_s", &Value::Number(elapsed));
        }
        if let Some(period) = self.period {
            let values = [boot_ns, period.interval_us];
            for (key, value) in SUM_KEYS.into_iter().zip(values) {
                logs.add(out, key, &Value::Int(value));
            }
        }
        if let Some(by) = &self.by {
            logs.add(out, BY, &Value::Text(by));
        }
        start
    }

    /// Writes records for logs, if that is the format.
    pub fn logs(&self) -> Option<&Logs> {
        self.logs.as_ref()
    }

    /// Ends the record that [`Stamp::begin`] began.
    pub fn end(&self, out: &mut Vec<u8>, start: usize, event: &str, cells: &dyn Cells) {
        if let Some(logs) = &self.logs {
            logs.end(out, start, event, self.period.is_some(), cells);
        }
    }

    /// RFC 3339 in UTC.
    fn ts(&mut self, out: &mut Vec<u8>, boot_ns: u64) {
        let (second, ns) = self.clock.rfc3339(boot_ns);
        out.extend_from_slice(second.as_bytes());
        append::all(out, b".");
        padded(out, ns.into(), 9);
        append::all(out, b"Z");
    }
}
