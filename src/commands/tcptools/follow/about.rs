// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was told of a connection, and whether a row is news.

use super::words;
use crate::commands::tcptools::feed::Row;

/// What was told of a connection.
#[derive(Default)]
pub struct About {
    sampled_ns: Option<u64>,
    /// Since when the other end's window is shut.
    shut_ns: Option<u64>,
    /// Why it does not move, and for how long it did not when that was told.
    why: String,
    why_us: u64,
    /// Size and growth of the receive buffer.
    buffer: Option<(u64, String)>,
    /// As the heading has it.
    pub owner: String,
    /// The row of an open that has no local port yet: the next one has it, for the heading.
    pub held: Option<Row>,
}

impl About {
    /// What has become of the other end's window, if that is news: shut, or open again.
    ///
    /// tcptop says itself that it is shut, as soon as it has no room for the next segment.
    pub fn window(&mut self, row: &Row) -> Option<String> {
        let window = row.number("snd_wnd_bytes")?;
        let why = row.text("why").unwrap_or_default();
        let is_shut = why.contains("zero_window") || row.tool() == "tcpprobe" && window == 0;
        match self.shut_ns {
            None if is_shut => {
                let since = row.number("why_us").unwrap_or_default();
                self.shut_ns = Some(row.boot_ns().saturating_sub(since * 1000));
                Some("shut: the other end does not read".into())
            }
            Some(since) if !is_shut && window >= row.number("mss").unwrap_or(1) => {
                self.shut_ns = None;
                let us = row.boot_ns().saturating_sub(since) / 1000;
                let time = words::time(us);
                Some(format!("open again, {window} bytes, after {time}"))
            }
            _ => None,
        }
    }

    /// Whether a row of those that come again and again is told.
    pub fn is_news(&mut self, row: &Row, every_ns: u64) -> bool {
        match (row.tool(), row.event()) {
            ("tcpprobe", "sample") | ("tcptop", "connection") => {
                let now = row.boot_ns();
                let due = |then: u64| now.saturating_sub(then) >= every_ns;
                let is_due = self.sampled_ns.is_none_or(due);
                if is_due {
                    self.sampled_ns = Some(now);
                }
                is_due
            }
            ("tcptop", "stalled") => {
                let why = row.text("why").unwrap_or_default();
                let us = row.number("why_us").unwrap_or_default();
                let is_same = self.why == why && (self.why_us..self.why_us * 2).contains(&us);
                if !is_same {
                    (self.why, self.why_us) = (why.to_owned(), us);
                }
                !is_same
            }
            ("tcprcvspace", "adjust") => {
                let growth = row.text("growth").unwrap_or_default();
                let size = row.number("rcvbuf_bytes").unwrap_or_default();
                let is_same = |(old, how): &(u64, String)| *old == size && how == growth;
                let is_new = !self.buffer.as_ref().is_some_and(is_same);
                if is_new {
                    self.buffer = Some((size, growth.to_owned()));
                }
                is_new
            }
            _ => true,
        }
    }
}
