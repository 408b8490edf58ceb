// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stories of connections: which rows are told, and how.

use std::time::Duration;

use super::about::About;
use super::page::{Page, owner};
use super::words;
use crate::commands::tcptools::feed::{Connections, MOST, Row};

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Page,
    Json,
}

/// Tells rows as they come.
pub struct Story {
    form: Form,
    every_ns: u64,
    connections: Connections<About>,
    /// The connection of the last line.
    last: u64,
    pub rows: u64,
    /// Events that the commands lost.
    pub lost: u64,
}

impl Story {
    /// `every`: how far samples of a connection are apart.
    pub fn new(form: Form, every: Duration) -> Self {
        Self {
            form,
            every_ns: every.as_nanos() as u64,
            connections: Connections::new(MOST),
            last: 0,
            rows: 0,
            lost: 0,
        }
    }

    /// How many connections it was about.
    pub fn connections(&self) -> u64 {
        self.connections.count
    }

    /// Whether something was told of the row's connection.
    pub fn knows(&self, row: &Row) -> bool {
        self.connections.find(row).is_some()
    }

    /// Appends the row's lines, if it has any.
    pub fn tell(&mut self, row: &Row, out: &mut String) {
        if row.event() == "summary" {
            self.lost += row.number("lost").unwrap_or_default();
        }
        let Some((word, said)) = words::of(row) else {
            return;
        };
        let Some(found) = self.connections.of(row) else {
            return;
        };
        let (one, owner) = (found.one, owner(row));
        let opened = one.about.window(row);
        if opened.is_none() && !one.about.is_news(row, self.every_ns) {
            return;
        }
        if self.form == Form::Json {
            self.rows += 1;
            out.push_str(row.line());
            out.push('\n');
            return;
        }
        if row.number("lport") == Some(0) && one.about.held.is_none() {
            one.about.held = Some(row.clone());
            return;
        }
        let mut page = Page {
            rows: &mut self.rows,
            last: &mut self.last,
            out,
        };
        if let Some(held) = one.about.held.take() {
            page.held(one, &held);
        }
        page.row(one, row, &owner, opened, (word, said));
    }

    /// What waited for more.
    pub fn end(&mut self, out: &mut String) {
        for mut one in self.connections.drain() {
            let mut page = Page {
                rows: &mut self.rows,
                last: &mut self.last,
                out,
            };
            if let Some(held) = one.about.held.take() {
                page.held(&mut one, &held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(tool: &str, event: &str, ms: u64, values: Value) -> Row {
        let mut row = json!({
            "tool": tool, "event": event, "ts": format!("2026-01-02T03:04:05.{ms:03}000000Z"),
            "boot_ns": 1_000_000_000 + ms * 1_000_000, "netns": 1, "cookie": 7,
            "laddr": "10.0.0.1", "lport": 40000, "raddr": "10.0.0.2", "rport": 6000,
            "pid": 12, "comm": "app",
        });
        let object = row.as_object_mut().unwrap();
        object.extend(values.as_object().unwrap().clone());
        Row::parse(row.to_string(), 0).unwrap()
    }

    fn told(form: Form, rows: &[Row]) -> String {
        let mut story = Story::new(form, Duration::from_secs(1));
        let mut out = String::new();
        rows.iter().for_each(|row| story.tell(row, &mut out));
        story.end(&mut out);
        out
    }

    #[test]
    fn rows_are_told_below_their_connection() {
        let nobody = json!({ "pid": null, "comm": null, "old_state": "CLOSE", "new_state": "SYN_SENT", "in_state_us": null, "lport": 0 });
        let other = json!({ "cookie": 8, "lport": 40001, "direction": "sent", "state": "ESTABLISHED", "reason": "TCP_STATE" });
        let rows = [
            row("tcpstates", "state_change", 0, nobody),
            row(
                "tcpconnect",
                "connect",
                1,
                json!({ "outcome": "established", "latency_us": 333, "syn_retrans": 1 }),
            ),
            row("tcpreset", "reset", 2, other),
            row(
                "tcpretrans",
                "retransmit",
                250,
                json!({ "kind": "rto", "tcp_flags": "PSH,ACK", "len_bytes": 1, "attempt": 1, "rto_us": 200_000 }),
            ),
        ];
        assert_eq!(
            told(Form::Page, &rows),
            "  TIME (UTC)        SECONDS  EVENT       WHAT
#1 10.0.0.1:40000 to 10.0.0.2:6000, cookie 7
  03:04:05.000     0.000000  state       CLOSE -> SYN_SENT
  03:04:05.001     0.001000  owner       app (pid 12)
  03:04:05.001     0.001000  open        established, after 0.333 ms, SYN sent 2
                                         times
#2 app (pid 12) 10.0.0.1:40001 to 10.0.0.2:6000, cookie 8
  03:04:05.002     0.000000  reset       sent, in ESTABLISHED, TCP_STATE
#1 app (pid 12) 10.0.0.1:40000 to 10.0.0.2:6000, cookie 7
  03:04:05.250     0.250000  retransmit  rto, PSH,ACK, 1 byte, attempt 1, RTO
                                         200.0 ms
"
        );
        let json = told(Form::Json, &rows);
        let lines: Vec<_> = rows.iter().map(Row::line).collect();
        assert_eq!(json.lines().collect::<Vec<_>>(), lines);
    }

    fn words_of(rows: &[Row]) -> Vec<String> {
        let text = told(Form::Page, rows);
        let lines = text.lines().filter(|line| line.starts_with("  03"));
        lines
            .map(|line| line[29..].split(' ').next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn samples_are_thinned_but_for_the_window() {
        let sample = |ms, window| {
            let values = json!({ "snd_cwnd": 10, "snd_wnd_bytes": window, "mss": 1000 });
            row("tcpprobe", "sample", ms, values)
        };
        let rows = [
            sample(0, 5000),
            sample(100, 5000),
            sample(200, 0),
            sample(300, 0),
            sample(400, 500),
            sample(500, 6000),
            sample(600, 6000),
        ];
        assert_eq!(
            words_of(&rows),
            ["sample", "window", "sample", "window", "sample"]
        );
        assert!(told(Form::Page, &rows).contains("open again, 6000 bytes, after 300.0 ms"));
    }

    #[test]
    fn a_stall_is_told_again_when_it_has_lasted_twice_as_long() {
        let stalled = |ms: u64| {
            let values = json!({ "why": "no_ack", "why_us": ms * 1000 });
            row("tcptop", "stalled", ms, values)
        };
        let rows: Vec<_> = (1..=8).map(|n| stalled(n * 100)).collect();
        assert_eq!(words_of(&rows).len(), 4, "1, 2, 4, 8");
    }

    #[test]
    fn names_and_addresses_are_shown_as_elsewhere() {
        let values = json!({
            "lport": 0, "laddr": "fe80::1%eth0", "raddr": "fe80::2%eth0", "comm": "a\u{1b}b",
            "old_state": "CLOSE", "new_state": "SYN_SENT", "netns_name": "web",
        });
        let text = told(Form::Page, &[row("tcpstates", "state_change", 0, values)]);
        let heading = text.lines().nth(1).unwrap();
        assert_eq!(
            heading,
            "#1 a\\x1bb (pid 12) [fe80::1]:0 to [fe80::2]:6000, netns web, cookie 7"
        );
    }
}
