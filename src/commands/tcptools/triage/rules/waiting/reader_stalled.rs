// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data has come, and this end's application does not read it.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::looks::{
    Looks, Newest, connections, group, is_served, seconds, why,
};
use crate::commands::tcptools::triage::subject::Subjects;

const SECONDS: Limit = Limit {
    name: "reader_stalled_seconds",
    default: 2.0,
    unit: "s without a read, though there is data",
    why: "A process that is busy reads when it is done.",
};

const BYTES: Limit = Limit {
    name: "reader_stalled_bytes",
    default: 16384.0,
    unit: "bytes unread, unless the receive buffer is half full, or a request waits at its server",
    why: "An idle client of a pool does not read a farewell, or session tickets of TLS, until it asks again.",
};

pub const KIND: Kind = Kind {
    name: "reader_stalled",
    what: "A process of this host does not read what has come for it.",
    explain: "Data lies in the receive buffer, and the process does not call recv(). It hangs, is \
stopped, waits for a lock, a disk or another server, or has fewer threads than connections. Once \
the buffer is full the window is closed, and the other end can write no more (peer_window_zero).\n\
The kernel has the data, so it is neither the network nor the other end. It is told from a reader \
that is slow by the time for which nothing was read, and from idle clients, which leave a farewell \
or session tickets of TLS unread, by its size. Connections that nobody has accepted are their \
listener's (listener_not_accepting).\n\
Look at what the process does: its stack, its threads, its processor time. Its own connections in \
the other findings tell whether it waits for another server.",
    limits: &[SECONDS, BYTES],
    effect_of: &["listener_not_accepting"],
};

#[derive(Default)]
struct Seen {
    looks: Looks,
    /// Of the last look: bytes that were not read.
    unread: u64,
    /// Of the last look: receive buffers that are half full.
    full: u64,
}

#[derive(Default)]
pub struct ReaderStalled {
    of: Subjects<Seen>,
    newest: Newest,
}

/// The kernel grants a window of about half of what the buffer may take.
fn is_full(row: &Row) -> bool {
    let number = |key| row.number(key);
    match (number("rmem_alloc_bytes"), number("rcvbuf_bytes")) {
        (Some(used), Some(size)) => used * 2 >= size,
        _ => false,
    }
}

/// A request that its server has not read: it has sent nothing since it came, and the client still waits.
fn is_request(row: &Row) -> bool {
    let ago = |key| row.number(key).unwrap_or(u64::MAX);
    let waits = ago("last_data_recv_us") <= ago("last_data_sent_us");
    is_served(row) && waits && row.text("state") == Some("ESTABLISHED")
}

impl Rule for ReaderStalled {
    fn see(&mut self, row: &Row, limits: &Limits) {
        self.newest.see(row);
        if !row.is("tcptop", "stalled") || !why(row, "unread") {
            return;
        }
        let us = row.number("why_us").unwrap_or_default();
        let unread = row.number("rqueue_bytes").unwrap_or_default();
        let much = unread as f64 >= limits.of(&BYTES) || is_full(row);
        if !(much || is_request(row)) || (us as f64) < limits.of(&SECONDS) * 1e6 {
            return;
        }
        if let Some(seen) = self.of.of(group(row)) {
            if seen.looks.is_next(row) {
                (seen.unread, seen.full) = (0, 0);
            }
            seen.looks.see(row, us);
            seen.unread += unread;
            seen.full += u64::from(is_full(row));
        }
    }

    fn find(&self, _: &Limits, _: f64) -> Vec<Finding> {
        let lasts = |seen: &Seen| self.newest.has(&seen.looks);
        let found = self.of.iter().filter(|(_, seen)| lasts(seen));
        found
            .map(|(group, seen)| {
                let looks = &seen.looks;
                let full = match seen.full {
                    0 => String::new(),
                    full => format!(", the receive buffer of {full} is full"),
                };
                Finding {
                    kind: &KIND,
                    severity: Severity::Warning,
                    subject: looks.subject(group),
                    text: format!(
                        "the process has not read from {} for {}, {} bytes wait{full}",
                        connections(looks.now),
                        seconds(looks.longest_us),
                        seen.unread
                    ),
                    evidence: vec![
                        ("connections", Value::from(looks.now)),
                        ("why_us", looks.longest_us.into()),
                        ("rqueue_bytes", seen.unread.into()),
                        ("full", seen.full.into()),
                    ],
                    next: format!("tcptop --stalled -b -w{}", looks.filter(group)),
                    weight: looks.now as f64,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{at, find};

    struct Case {
        why: &'static str,
        ms: u64,
        unread: u64,
        used: u64,
        client: bool,
        state: &'static str,
    }

    const FULL: Case = Case {
        why: "unread",
        ms: 3000,
        unread: 60_000,
        used: 120_000,
        client: true,
        state: "ESTABLISHED",
    };

    fn stalled(second: f64, case: &Case) -> Row {
        let values = json!({
            "comm": "app", "pid": 7, "laddr": "10.0.0.1", "lport": 9000, "raddr": "10.0.0.2",
            "rport": 40_000, "active_open": case.client, "why": case.why, "state": case.state,
            "why_us": case.ms * 1000, "rqueue_bytes": case.unread, "rmem_alloc_bytes": case.used,
            "rcvbuf_bytes": 131_072, "last_data_recv_us": 3_000_000, "last_data_sent_us": 4_000_000,
        });
        at(second, "tcptop", "stalled", values)
    }

    #[test]
    fn full_buffer_or_a_request_at_a_server_is_found() {
        let found = find::<ReaderStalled>(&[stalled(3.0, &FULL)]);
        assert_eq!(
            found[0].text,
            "the process has not read from 1 connection for 3 s, 60000 bytes wait, \
             the receive buffer of 1 is full"
        );
        let request = Case {
            unread: 50,
            used: 500,
            client: false,
            ..FULL
        };
        let found = find::<ReaderStalled>(&[stalled(3.0, &request)]);
        assert_eq!(found[0].next, "tcptop --stalled -b -w -L 9000 -D 40000");
    }

    #[test]
    fn short_times_unaccepted_ones_and_farewells_are_not() {
        for case in [
            Case { ms: 500, ..FULL },
            Case {
                why: "unaccepted",
                ..FULL
            },
            Case {
                unread: 500,
                used: 2000,
                ..FULL
            },
            Case {
                unread: 25,
                used: 700,
                client: false,
                state: "CLOSE_WAIT",
                ..FULL
            },
        ] {
            assert!(find::<ReaderStalled>(&[stalled(3.0, &case)]).is_empty());
        }
    }

    #[test]
    fn reader_that_reads_again_is_not() {
        let rows = [stalled(3.0, &FULL), at(9.0, "tcptop", "summary", json!({}))];
        assert!(find::<ReaderStalled>(&rows).is_empty());
    }
}
