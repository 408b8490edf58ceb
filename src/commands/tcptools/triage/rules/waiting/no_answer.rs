// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections whose other end is gone: data or keepalives get no acknowledgement.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::listening::Listening;
use crate::commands::tcptools::triage::rules::looks::{
    Looks, Newest, connections, group, is_served, seconds, why,
};
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const SECONDS: Limit = Limit {
    name: "no_answer_seconds",
    default: 2.0,
    unit: "s without an acknowledgement",
    why: "A segment that is lost once is acknowledged after some 300 ms, twice after a second.",
};

const TIMEOUTS: Limit = Limit {
    name: "no_answer_timeouts",
    default: 3.0,
    unit: "timeouts in a row, or two keepalives without an answer",
    why: "On a path that loses every tenth segment one in a thousand is lost three times.",
};

const CLIENTS: Limit = Limit {
    name: "no_answer_clients",
    default: 3.0,
    unit: "clients of a server that are gone, if it has closed them all, or the kernel has given them up",
    why: "A client is switched off, or leaves its network, now and then.",
};

pub const KIND: Kind = Kind {
    name: "no_answer",
    what: "The other end of open connections is gone: nothing that is sent is acknowledged.",
    explain: "This end has sent data or keepalives, and no acknowledgement comes, though segments \
are sent again and again. The other host is down, or a firewall, a NAT or a load balancer between \
the two has forgotten the connection and drops its segments in silence. The kernel gives up after \
some 15 minutes (net.ipv4.tcp_retries2), and only then the program has an error.\n\
It is told from a closed window (peer_window_zero) by the acknowledgements, of which there are \
none; from a slow server (slow_server), whose kernel acknowledges the request; from loss \
(path_loss, mtu_black_hole), where some segments arrive, because no timeout was followed by an \
answer. An idle connection without keepalive does not notice that its other end is gone, and \
nothing on this host can: those to the same server are mentioned.\n\
Let connections have keepalives that are sent more often than the firewall forgets \
(TCP_KEEPIDLE), and TCP_USER_TIMEOUT, so that they fail in seconds.",
    limits: &[SECONDS, TIMEOUTS, CLIENTS],
    effect_of: &["mtu_black_hole"],
};

#[derive(Default)]
struct Seen {
    looks: Looks,
    /// Of the last look: those that their process has closed.
    orphans: u64,
    /// Of the last look: bytes that were not acknowledged, and timeouts or probes in a row.
    waits: u64,
    tries: u64,
    /// Connections that the kernel has given up meanwhile.
    ended: u64,
}

#[derive(Default)]
pub struct NoAnswer {
    of: Subjects<Seen>,
    /// Connections with a server that are quiet, without keepalive, whosever they are.
    idle: Subjects<Looks>,
    newest: Newest,
    listening: Listening,
}

/// Keepalives without an answer: one is under way.
const KEEPALIVES: u64 = 2;

/// Window probes without an answer: a peer that does not read answers them.
const PROBES: u64 = 3;

/// The connections with one server.
fn with_server(subject: &Subject) -> Subject {
    Subject {
        listener: subject.listener,
        destination: subject.destination,
        netns: subject.netns,
        ..Subject::default()
    }
}

impl NoAnswer {
    fn stalled(&mut self, row: &Row, limits: &Limits) {
        let number = |key| row.number(key).unwrap_or_default();
        let us = number("why_us");
        if why(row, "idle") && row.flag("keepalive") != Some(true) && !is_served(row) {
            if let Some(idle) = self.idle.of(with_server(&Subject::destination(row))) {
                idle.see(row, us);
            }
            return;
        }
        let opening = matches!(row.text("state"), Some("SYN_SENT" | "SYN_RECV"));
        let probing = row.text("timer") == Some("keepalive");
        let (probes, timeouts) = (number("probes"), number("retransmits"));
        let silent = if why(row, "no_ack") {
            timeouts as f64 >= limits.of(&TIMEOUTS) || probing && probes >= KEEPALIVES
        } else {
            why(row, "zero_window") && probes >= PROBES
        };
        if opening || !silent || (us as f64) < limits.of(&SECONDS) * 1e6 {
            return;
        }
        if let Some(seen) = self.of.of(group(row)) {
            if seen.looks.is_next(row) {
                (seen.orphans, seen.waits, seen.tries) = (0, 0, 0);
            }
            seen.looks.see(row, us);
            seen.orphans += u64::from(row.flag("orphan") == Some(true));
            seen.waits += number("wqueue_bytes");
            seen.tries = seen.tries.max(timeouts).max(probes);
        }
    }

    /// The kernel has given up: ETIMEDOUT.
    fn ended(&mut self, row: &Row) {
        let opening = matches!(row.text("state"), Some("SYN_SENT" | "SYN_RECV"));
        if opening || row.text("close_reason") != Some("timeout") {
            return;
        }
        let subject = match self.listening.is_served(row) {
            true => Subject::listener(row),
            false => Subject::destination(row),
        };
        if let Some(seen) = self.of.of(subject.any_pid()) {
            seen.ended += 1;
        }
    }

    fn finding(&self, group: &Subject, seen: &Seen, limits: &Limits) -> Option<Finding> {
        let lasts = self.newest.has(&seen.looks);
        let looks = &seen.looks;
        let now = if lasts { looks.now } else { 0 };
        let open = if lasts { now - seen.orphans } else { 0 };
        let served = group.listener.is_some();
        let clients = limits.of(&CLIENTS);
        let given_up = seen.ended as f64 >= if served { clients } else { 1.0 };
        if open == 0 && !given_up && ((now - open) as f64) < clients {
            return None;
        }
        let idle = self.idle.iter().find(|(to, _)| **to == with_server(group));
        let idle = idle.filter(|(_, idle)| self.newest.has(idle));
        let idle = idle.map_or(0, |(_, idle)| idle.now);
        let one_client = served && open <= 1 && !given_up;
        Some(Finding {
            kind: &KIND,
            severity: if one_client || open + seen.ended == 0 {
                Severity::Warning
            } else {
                Severity::Critical
            },
            subject: if now > 0 {
                looks.subject(group)
            } else {
                group.clone()
            },
            text: text(seen, now, open, idle),
            evidence: vec![
                ("connections", Value::from(now)),
                ("why_us", (if lasts { looks.longest_us } else { 0 }).into()),
                ("retransmits", (if lasts { seen.tries } else { 0 }).into()),
                ("wqueue_bytes", (if lasts { seen.waits } else { 0 }).into()),
                ("orphans", (now - open).into()),
                ("timed_out", seen.ended.into()),
                ("idle", idle.into()),
            ],
            next: format!("tcptop --stalled -b -w{}", looks.filter(group)),
            weight: (now + seen.ended) as f64,
        })
    }
}

fn text(seen: &Seen, now: u64, open: u64, idle: u64) -> String {
    let mut parts = Vec::new();
    if now > 0 {
        let closed = match now - open {
            0 => String::new(),
            closed => format!(" ({closed} closed by the process)"),
        };
        parts.push(format!(
            "no acknowledgement on {}{closed} for {}, after {} tries, {} bytes wait",
            connections(now),
            seconds(seen.looks.longest_us),
            seen.tries,
            seen.waits
        ));
    }
    if seen.ended > 0 {
        let ended = connections(seen.ended);
        parts.push(format!("{ended} ended with ETIMEDOUT meanwhile"));
    }
    if idle > 0 {
        parts.push(format!("{idle} idle without keepalive would not notice"));
    }
    parts.join("; ")
}

impl Rule for NoAnswer {
    fn see(&mut self, row: &Row, limits: &Limits) {
        self.newest.see(row);
        self.listening.see(row);
        match (row.tool(), row.event()) {
            ("tcptop", "stalled") => self.stalled(row, limits),
            ("tcplife", "session") => self.ended(row),
            _ => {}
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let all = self.of.iter();
        all.filter_map(|(group, seen)| self.finding(group, seen, limits))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{at, find};

    /// A client's connection, which has not moved for so many seconds.
    fn stalled(lport: u64, why: &str, seconds: u64, more: Value) -> Row {
        let mut values = json!({
            "netns": 1, "comm": "pool", "pid": 7, "laddr": "10.0.0.1", "lport": lport,
            "raddr": "10.0.0.2", "rport": 5432, "active_open": true, "state": "ESTABLISHED",
            "why": why, "why_us": seconds * 1_000_000, "wqueue_bytes": 8, "keepalive": false,
        });
        let object = values.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        at(10.0, "tcptop", "stalled", values)
    }

    fn lost(lport: u64) -> Row {
        stalled(lport, "no_ack", 8, json!({ "retransmits": 5 }))
    }

    fn ended(state: &str) -> Row {
        let values = json!({
            "netns": 1, "comm": "pool", "pid": 7, "laddr": "10.0.0.1", "lport": 40_009,
            "raddr": "10.0.0.2", "rport": 5432, "state": state, "close_reason": "timeout",
        });
        at(9.0, "tcplife", "session", values)
    }

    #[test]
    fn data_that_is_never_acknowledged_is_found() {
        let rows = [
            lost(1),
            lost(2),
            ended("ESTABLISHED"),
            stalled(3, "idle", 9, json!({})),
        ];
        let found = find::<NoAnswer>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            one.text,
            "no acknowledgement on 2 connections for 8 s, after 5 tries, 16 bytes wait; \
             1 connection ended with ETIMEDOUT meanwhile; 1 idle without keepalive would not notice"
        );
        assert_eq!(one.subject.to_string(), "pool (pid 7) to 10.0.0.2:5432");
        assert_eq!(one.severity, Severity::Critical);
    }

    #[test]
    fn unanswered_keepalives_or_their_end_are_found() {
        let probes = json!({ "timer": "keepalive", "probes": 2, "wqueue_bytes": 0 });
        assert_eq!(
            find::<NoAnswer>(&[stalled(1, "no_ack", 4, probes)]).len(),
            1
        );
        let found = find::<NoAnswer>(&[ended("ESTABLISHED")]);
        assert_eq!(found[0].text, "1 connection ended with ETIMEDOUT meanwhile");
        assert_eq!(found[0].next, "tcptop --stalled -b -w -D 5432");
    }

    #[test]
    fn waiting_idle_opening_and_retransmitting_ones_are_not() {
        for row in [
            stalled(1, "no_answer", 9, json!({})),
            stalled(1, "unanswered", 9, json!({ "active_open": false })),
            stalled(1, "idle", 9, json!({})),
            stalled(1, "zero_window", 9, json!({ "probes": 1 })),
            stalled(1, "no_ack", 1, json!({ "retransmits": 3 })),
            stalled(1, "no_ack", 3, json!({ "retransmits": 1 })),
            stalled(
                1,
                "no_ack",
                9,
                json!({ "retransmits": 5, "state": "SYN_SENT" }),
            ),
            ended("SYN_SENT"),
        ] {
            assert!(
                find::<NoAnswer>(std::slice::from_ref(&row)).is_empty(),
                "{row:?}"
            );
        }
    }

    #[test]
    fn what_moves_again_is_not() {
        let rows = [lost(1), at(12.0, "tcptop", "connection", json!({}))];
        assert!(find::<NoAnswer>(&rows).is_empty());
    }

    /// A client of a server that went away is a warning, and nothing if its server has closed.
    #[test]
    fn clients_that_leave_are_normal() {
        let more = json!({
            "retransmits": 5, "active_open": false, "lport": 80, "rport": 40_000, "orphan": true,
        });
        let closed = stalled(1, "no_ack orphan", 9, more.clone());
        assert!(find::<NoAnswer>(std::slice::from_ref(&closed)).is_empty());
        assert_eq!(
            find::<NoAnswer>(&[closed.clone(), closed.clone(), closed]).len(),
            1
        );
        let mut open = more;
        open["orphan"] = false.into();
        let found = find::<NoAnswer>(&[stalled(1, "no_ack", 9, open)]);
        assert_eq!(found[0].severity, Severity::Warning);
    }
}
