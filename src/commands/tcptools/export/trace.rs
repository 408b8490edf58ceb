// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Trace Event Format, which Perfetto and chrome://tracing open: a JSON object with a list of events.

use std::io::{self, Write};

use serde_json::{Value, json};

/// A line of the viewer: the thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    pub pid: u64,
    pub tid: u64,
}

/// Writes events. Times are nanoseconds since boot.
pub struct Trace<W: Write> {
    out: W,
    pub events: u64,
}

/// Microseconds, as the format has them, with all digits.
fn micros(ns: u64) -> Value {
    let text = format!("{}.{:03}", ns / 1000, ns % 1000);
    serde_json::from_str(&text).unwrap_or_default()
}

impl<W: Write> Trace<W> {
    /// # Errors
    /// As write(2); so below.
    pub fn begin(mut out: W) -> io::Result<Self> {
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Self { out, events: 0 })
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        let comma = if self.events == 0 { "" } else { "," };
        self.events += 1;
        write!(self.out, "{comma}\n{event}")
    }

    /// `process_name`, `thread_name`
    pub fn name(&mut self, what: &str, track: Track, name: &str) -> io::Result<()> {
        let Track { pid, tid } = track;
        self.event(
            &json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } }),
        )
    }

    /// A slice begins. It ends by [`end_slice`](Self::end_slice) of the same track, those within it before.
    pub fn begin_slice(&mut self, track: Track, ns: u64, name: &str) -> io::Result<()> {
        let Track { pid, tid } = track;
        self.event(&json!({
            "ph": "B", "cat": "tcp", "name": name, "pid": pid, "tid": tid, "ts": micros(ns),
        }))
    }

    pub fn end_slice(&mut self, track: Track, ns: u64) -> io::Result<()> {
        let Track { pid, tid } = track;
        self.event(&json!({ "ph": "E", "cat": "tcp", "pid": pid, "tid": tid, "ts": micros(ns) }))
    }

    /// Something that happens at one time. `what`: shown when it is selected.
    pub fn instant(&mut self, track: Track, ns: u64, name: &str, what: &str) -> io::Result<()> {
        let Track { pid, tid } = track;
        self.event(&json!({
            "ph": "i", "s": "t", "cat": "tcp", "name": name, "pid": pid, "tid": tid,
            "ts": micros(ns), "args": { "what": what },
        }))
    }

    /// A value from now on. Counters are of a process: their names tell connections apart.
    pub fn counter(&mut self, pid: u64, ns: u64, name: &str, value: u64) -> io::Result<()> {
        self.event(&json!({
            "ph": "C", "cat": "tcp", "name": name, "pid": pid, "ts": micros(ns),
            "args": { "value": value },
        }))
    }

    pub fn end(mut self) -> io::Result<()> {
        writeln!(self.out, "\n]}}")?;
        self.out.flush()
    }
}
