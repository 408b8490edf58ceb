// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many of a server's connections end by a reset, by direction and reason.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::endings::ends::{Ends, filter};
use crate::commands::tcptools::triage::rules::listening::servers_first;
use crate::commands::tcptools::triage::rules::looks::count;

const COUNT: Limit = Limit {
    name: "reset_storm_resets",
    default: 5.0,
    unit: "resets by a server",
    why: "Each is an error at a client. A worker that is stopped may have some connections.",
};

const BY_CLIENTS: Limit = Limit {
    name: "reset_storm_by_clients",
    default: 50.0,
    unit: "resets by clients of a server",
    why: "Clients close with a reset on purpose: health checks, downloads that are given up.",
};

const SHARE: Limit = Limit {
    name: "reset_storm_percent",
    default: 30.0,
    unit: "% of its connections that ended",
    why: "On a busy server some end by a reset at any time.",
};

pub const KIND: Kind = Kind {
    name: "reset_storm",
    what: "Many of a server's connections end by a reset.",
    explain: "A reset ends a connection at once: the other end's reads and writes fail with \
ECONNRESET or EPIPE. Here it is no exception, but how a large share of the connections ends. The \
reason is the kernel's (since Linux 6.10), and the direction tells who did it.\n\
STATE: the program closed with SO_LINGER 0, or a listener was closed with connections that nobody \
had accepted. ABORT_ON_CLOSE: it closed, or died, with unread data. ABORT_ON_DATA: data came after \
it had closed. NO_SOCKET: nothing listens on the port, or the connection is no longer known here, \
as after a restart or behind a balancer that sends to the wrong host. Received resets have no \
reason: look at the host that sends them, or at a firewall between that rejects. More than one cause \
has a kind of its own: reset_unread_data, reset_idle_race, nat_broken, connect_refused.\n\
tcpreset --explain REASON says what to look at.",
    limits: &[COUNT, BY_CLIENTS, SHARE],
    effect_of: &[
        "reset_unread_data",
        "reset_idle_race",
        "nat_broken",
        "listener_overflow",
        "listener_not_accepting",
        "connect_refused",
    ],
};

#[derive(Default)]
struct Seen {
    /// By the server: sent at its end, received at a client's.
    by_server: u64,
    by_client: u64,
    /// By direction, state and reason.
    kinds: BTreeMap<String, u64>,
}

/// How many directions, states and reasons are kept apart: all that there are.
const KINDS: usize = 256;

#[derive(Default)]
pub struct ResetStorm(Ends<Seen>);

/// `sent ABORT_ON_CLOSE in ESTABLISHED`; a reset that was received has no reason.
fn describe(row: &Row) -> String {
    let mut text = row.text("direction").unwrap_or_default().to_owned();
    if let Some(reason) = row.text("reason") {
        text = format!("{text} {}", reason.strip_prefix("TCP_").unwrap_or(reason));
    }
    match row.text("state") {
        Some(state) => format!("{text} in {state}"),
        None => text,
    }
}

impl Rule for ResetStorm {
    fn see(&mut self, row: &Row, _: &Limits) {
        let Some(reset) = self.0.see(row) else { return };
        // Refused attempts, what follows an earlier reset, and packets that were not translated are other kinds.
        let refused = row.text("state") == Some("SYN_SENT");
        let other = matches!(
            row.text("hint"),
            Some("late_segment" | "address_translation")
        );
        if refused || other {
            return;
        }
        if reset.served == reset.sent {
            reset.seen.by_server += 1;
        } else {
            reset.seen.by_client += 1;
        }
        let kinds = &mut reset.seen.kinds;
        let kind = describe(row);
        if kinds.len() < KINDS || kinds.contains_key(&kind) {
            *kinds.entry(kind).or_default() += 1;
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let found = self.0.iter().filter_map(|(subject, ended)| {
            let seen = &ended.seen;
            let by_server = seen.by_server as f64 >= limits.of(&COUNT);
            let by_client = seen.by_client as f64 >= limits.of(&BY_CLIENTS);
            let resets = if by_server { seen.by_server } else { 0 }
                + if by_client { seen.by_client } else { 0 };
            if resets == 0 || ended.percent(resets) < limits.of(&SHARE) {
                return None;
            }
            let who = match (by_server, by_client) {
                (true, false) => "by the server",
                (false, _) => "by its clients",
                (true, true) => "by both ends",
            };
            Some(Finding {
                kind: &KIND,
                severity: if by_server {
                    Severity::Critical
                } else {
                    Severity::Warning
                },
                text: format!(
                    "{} {who} in {time:.0} s, of {} that ended: {}",
                    count(resets, "reset"),
                    count(ended.total(resets), "connection"),
                    most(&seen.kinds)
                ),
                evidence: vec![
                    ("resets", Value::from(resets)),
                    ("by_server", seen.by_server.into()),
                    ("by_client", seen.by_client.into()),
                    ("ended", ended.total(resets).into()),
                    ("kinds", json!(seen.kinds)),
                ],
                next: format!("tcpreset --summary=2s --by comm,reason{}", filter(&subject)),
                weight: resets as f64,
                subject,
            })
        });
        servers_first(found.collect())
    }
}

/// The two that are most often.
fn most(kinds: &BTreeMap<String, u64>) -> String {
    let mut kinds: Vec<_> = kinds.iter().collect();
    kinds.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let texts = kinds.iter().take(2);
    let texts: Vec<_> = texts
        .map(|(kind, number)| format!("{number} {kind}"))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn reset(lport: u64, rport: u64, direction: &str, reason: Option<&str>) -> Row {
        let values = json!({
            "netns": 1, "comm": "redis", "pid": 7, "laddr": "10.0.0.1", "lport": lport,
            "raddr": "10.0.0.2", "rport": rport, "direction": direction, "reason": reason,
            "state": "ESTABLISHED",
        });
        row("tcpreset", "reset", values)
    }

    fn sessions(number: u64) -> impl Iterator<Item = Row> {
        (0..number).map(|n| {
            let values = json!({
                "netns": 1, "laddr": "10.0.0.1", "lport": 6379, "raddr": "10.0.0.2",
                "rport": 40_000 + n, "state": "ESTABLISHED",
            });
            row("tcplife", "session", values)
        })
    }

    #[test]
    fn resets_by_a_server_are_found_at_either_end() {
        let sent = (0..6).map(|n| reset(6379, 40_000 + n, "sent", Some("TCP_STATE")));
        let found = find::<ResetStorm>(&sent.chain(sessions(10)).collect::<Vec<_>>());
        assert_eq!(
            found[0].text,
            "6 resets by the server in 10 s, of 10 connections that ended: 6 sent STATE in ESTABLISHED"
        );
        assert_eq!(
            found[0].next,
            "tcpreset --summary=2s --by comm,reason -L 6379"
        );
        let received = (0..6).map(|n| reset(40_000 + n, 6379, "received", None));
        let found = find::<ResetStorm>(&received.collect::<Vec<_>>());
        assert_eq!(
            found[0].subject.to_string(),
            "redis (pid 7) to 10.0.0.2:6379"
        );
        assert_eq!(found[0].severity, Severity::Critical);
    }

    /// On purpose, now and then.
    #[test]
    fn resets_by_clients_need_to_be_many() {
        let by_clients = |number| (0..number).map(|n| reset(6379, 40_000 + n, "received", None));
        assert!(find::<ResetStorm>(&by_clients(20).collect::<Vec<_>>()).is_empty());
        let found = find::<ResetStorm>(&by_clients(60).collect::<Vec<_>>());
        assert_eq!(found[0].severity, Severity::Warning);
        let rare = by_clients(60).chain(sessions(1000));
        assert!(find::<ResetStorm>(&rare.collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn rare_ones_refused_attempts_and_other_kinds_are_not() {
        let rare = (0..6).map(|n| reset(6379, 40_000 + n, "sent", Some("TCP_STATE")));
        let rare = rare.chain(sessions(100));
        assert!(find::<ResetStorm>(&rare.collect::<Vec<_>>()).is_empty());
        let with = |key: &str, value: &str| {
            let mut values = json!({
                "netns": 1, "laddr": "10.0.0.1", "lport": 40_000, "raddr": "10.0.0.2",
                "rport": 6379, "direction": "received",
            });
            values[key] = value.into();
            vec![row("tcpreset", "reset", values); 9]
        };
        assert!(find::<ResetStorm>(&with("state", "SYN_SENT")).is_empty());
        assert!(find::<ResetStorm>(&with("hint", "late_segment")).is_empty());
    }
}
