// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end's receive window is closed: its application does not read.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::looks::{
    Looks, Newest, connections, group, seconds, why,
};
use crate::commands::tcptools::triage::subject::Subjects;

const SECONDS: Limit = Limit {
    name: "peer_window_zero_seconds",
    default: 2.0,
    unit: "s without room for a segment",
    why: "A reader that is slower than the network closes its window for moments.",
};

pub const KIND: Kind = Kind {
    name: "peer_window_zero",
    what: "The other end's receive window is closed: its application does not read.",
    explain: "What this end has written waits in its send buffer, and write() blocks once that is \
full. The other end's kernel acknowledges everything, but its process has stopped to read: it \
hangs, waits for something else, or works on what it has read.\n\
It is told from a loss by the acknowledgements, which come and say that the window is 0, and from \
a peer that is gone (no_answer) because its kernel answers the window probes. A reader that is \
only slow (rwnd_limited) opens the window again and again.\n\
Look at the process at the other end: tcptop --stalled shows the connection there as unread. On \
this host, --peer names it. Set a limit for how long a write may block.",
    limits: &[SECONDS],
    effect_of: &["reader_stalled", "listener_not_accepting"],
};

#[derive(Default)]
struct Seen {
    looks: Looks,
    /// Of the last look: bytes that were written and not acknowledged.
    waits: u64,
}

#[derive(Default)]
pub struct PeerWindowZero {
    of: Subjects<Seen>,
    newest: Newest,
}

/// Unanswered window probes of a peer that is gone: one is under way.
const PROBES: u64 = 2;

impl Rule for PeerWindowZero {
    fn see(&mut self, row: &Row, limits: &Limits) {
        self.newest.see(row);
        if !row.is("tcptop", "stalled") || !why(row, "zero_window") {
            return;
        }
        let us = row.number("why_us").unwrap_or_default();
        let gone = row.number("probes").is_some_and(|probes| probes > PROBES);
        if gone || (us as f64) < limits.of(&SECONDS) * 1e6 {
            return;
        }
        if let Some(seen) = self.of.of(group(row)) {
            if seen.looks.is_next(row) {
                seen.waits = 0;
            }
            seen.looks.see(row, us);
            seen.waits += row.number("wqueue_bytes").unwrap_or_default();
        }
    }

    fn find(&self, _: &Limits, _: f64) -> Vec<Finding> {
        let lasts = |seen: &Seen| self.newest.has(&seen.looks);
        let found = self.of.iter().filter(|(_, seen)| lasts(seen));
        found
            .map(|(group, Seen { looks, waits })| Finding {
                kind: &KIND,
                severity: Severity::Warning,
                subject: looks.subject(group),
                text: format!(
                    "the other end has closed its window on {}, for {}, {} KiB wait",
                    connections(looks.now),
                    seconds(looks.longest_us),
                    waits.div_ceil(1024)
                ),
                evidence: vec![
                    ("connections", Value::from(looks.now)),
                    ("why_us", looks.longest_us.into()),
                    ("wqueue_bytes", (*waits).into()),
                ],
                next: format!("tcptop --stalled -b -w --peer{}", looks.filter(group)),
                weight: looks.now as f64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{at, find};

    fn stalled(second: f64, lport: u64, why: &str, ms: u64, probes: u64) -> Row {
        let values = json!({
            "comm": "feeder", "pid": 7, "laddr": "10.0.0.1", "lport": lport, "raddr": "10.0.0.2",
            "rport": 9000, "active_open": true, "why": why, "why_us": ms * 1000, "probes": probes,
            "wqueue_bytes": 100_000,
        });
        at(second, "tcptop", "stalled", values)
    }

    #[test]
    fn closed_window_is_found() {
        let found = find::<PeerWindowZero>(&[stalled(3.0, 40_000, "zero_window", 3000, 0)]);
        assert_eq!(
            found[0].text,
            "the other end has closed its window on 1 connection, for 3 s, 98 KiB wait"
        );
        assert_eq!(
            found[0].subject.to_string(),
            "feeder (pid 7) from 10.0.0.1:40000 to 10.0.0.2:9000"
        );
        let two = [40_000, 40_001].map(|port| stalled(3.0, port, "zero_window", 3000, 1));
        assert_eq!(find::<PeerWindowZero>(&two)[0].evidence[0].1, 2);
    }

    #[test]
    fn moments_other_reasons_and_a_peer_that_is_gone_are_not() {
        for row in [
            stalled(3.0, 1, "zero_window", 900, 0),
            stalled(3.0, 1, "rwnd", 3000, 0),
            stalled(3.0, 1, "no_ack", 3000, 0),
            stalled(3.0, 1, "zero_window", 3000, 6),
        ] {
            assert!(find::<PeerWindowZero>(&[row]).is_empty());
        }
    }

    #[test]
    fn window_that_has_opened_is_not() {
        let rows = [
            stalled(3.0, 1, "zero_window", 3000, 0),
            at(9.0, "tcptop", "summary", json!({})),
        ];
        assert!(find::<PeerWindowZero>(&rows).is_empty());
    }
}
