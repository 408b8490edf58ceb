// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens that succeed after a SYN, or its answer, was sent again: a second or more is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::dropped::{Dropped, Drops};
use super::opens::{client, count, merge, percent, tcpconnect};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "slow_handshake_count",
    default: 2.0,
    unit: "SYNs, or SYN/ACKs, sent again",
    why: "One lost SYN is normal.",
};

const SHARE: Limit = Limit {
    name: "slow_handshake_percent",
    default: 2.0,
    unit: "% of a program's opens to that port",
    why: "The internet loses one segment in a hundred now and then.",
};

const CLIENTS: Limit = Limit {
    name: "slow_handshake_clients",
    default: 2.0,
    unit: "connections of a listener whose SYN/ACK was sent again",
    why: "A single client may be on a bad link, or gone.",
};

pub const KIND: Kind = Kind {
    name: "slow_handshake",
    what: "Connections open late: a SYN or a SYN/ACK is lost, and sent again after a second.",
    explain: "The first SYN is sent again after 1 s, then after 3 s and 7 s, as no round-trip time is \
known yet. A loss that costs an open connection milliseconds costs a new one a second: clients see \
opens of 1.0, 3.0 or 7.0 s. A rate limit for SYNs (a firewall, a load balancer) does the same.\n\
It is told from a slow server by the SYN that was sent again, from a black hole (connect_timeout) \
by opens that end well, and from a full accept queue (listener_overflow) of a server on this host by \
its listener, which is then shown instead. On a server, SYN/ACKs that are sent again say that these, \
or the answers to them, are lost.\n\
Look at the path (tcpretrans --summary), and at firewalls and conntrack tables in between. Keep \
connections open, so that fewer handshakes are needed.",
    limits: &[COUNT, SHARE, CLIENTS],
    effect_of: &[
        "listener_not_accepting",
        "listener_overflow",
        "syn_flood",
        "connect_timeout",
    ],
};

#[derive(Default)]
struct Seen {
    slow: u64,
    opens: u64,
    resent: u64,
    longest_us: u64,
}

/// The client's end, and the port of the server's.
type Flow = (Option<u64>, IpAddr, u64, u64);

/// A handshake whose SYN/ACK was sent again.
struct Late {
    server: Subject,
    resent: u64,
    completed: bool,
}

/// Such handshakes that are kept.
const MOST: usize = 4096;

#[derive(Default)]
pub struct SlowHandshake {
    clients: Subjects<Seen>,
    late: BTreeMap<Flow, Late>,
    drops: Drops,
}

impl Rule for SlowHandshake {
    fn see(&mut self, row: &Row, _: &Limits) {
        match (row.tool(), row.event()) {
            ("tcpconnect", "connect") => self.opened(row),
            ("tcpretrans", "retransmit") => self.resent(row),
            ("tcpdrop", "drop") => self.drops.see(row),
            // Later rows of a connection that was opened.
            ("tcplife", "session") | ("tcptop", "connection" | "stalled") => {
                let flow = flow(row);
                if let Some(late) = flow.and_then(|flow| self.late.get_mut(&flow)) {
                    late.completed = true;
                }
            }
            _ => {}
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            seen.resent as f64 >= limits.of(&COUNT)
                && percent(seen.slow, seen.opens) >= limits.of(&SHARE)
        };
        let clients = self.clients.iter().filter(|(_, seen)| often(seen));
        let found = clients.map(|(subject, seen)| {
            let dropped = self.drops.of(subject.destination);
            seen.finding(subject, dropped, seconds)
        });
        let mut found = merge(found.collect());
        for (server, late) in self.servers() {
            // The client says more, if it is here too.
            let known = self
                .clients
                .iter()
                .any(|(client, seen)| seen.resent > 0 && client.destination == server.listener);
            let many = late.resent as f64 >= limits.of(&COUNT);
            if many && late.clients as f64 >= limits.of(&CLIENTS) && !known {
                found.push(late.finding(server, seconds));
            }
        }
        found
    }
}

fn flow(row: &Row) -> Option<Flow> {
    let addr = row.addr("raddr")?;
    Some((
        row.number("netns"),
        addr,
        row.number("rport")?,
        row.number("lport")?,
    ))
}

impl SlowHandshake {
    fn opened(&mut self, row: &Row) {
        if row.text("outcome") != Some("established") {
            return;
        }
        let Some(seen) = self.clients.of(client(row)) else {
            return;
        };
        seen.opens += 1;
        let resent = row.number("syn_retrans").unwrap_or_default();
        if resent > 0 {
            seen.slow += 1;
            seen.resent += resent;
            let latency_us = row.number("latency_us").unwrap_or_default();
            seen.longest_us = seen.longest_us.max(latency_us);
        }
    }

    /// A SYN/ACK without an answer: not one that waits for data or for room in the queue.
    fn resent(&mut self, row: &Row) {
        if row.text("kind") != Some("synack") || row.text("hint").is_some() {
            return;
        }
        let Some(flow) = flow(row) else {
            return;
        };
        if self.late.len() >= MOST && !self.late.contains_key(&flow) {
            return;
        }
        let late = self.late.entry(flow).or_insert_with(|| Late {
            server: Subject::listener(row),
            resent: 0,
            completed: false,
        });
        late.resent += row.number("segs").unwrap_or(1);
    }

    fn servers(&self) -> BTreeMap<&Subject, Server> {
        let mut servers: BTreeMap<&Subject, Server> = BTreeMap::new();
        for late in self.late.values() {
            let server = servers.entry(&late.server).or_default();
            server.clients += 1;
            server.resent += late.resent;
            server.completed += u64::from(late.completed);
        }
        servers
    }
}

impl Seen {
    fn finding(&self, subject: &Subject, dropped: Option<&Dropped>, seconds: f64) -> Finding {
        let mut text = format!(
            "{} of {} in {seconds:.0} s only after a SYN was sent again, the slowest after {:.1} s",
            self.slow,
            count(self.opens, "open"),
            self.longest_us as f64 / 1e6
        );
        let mut evidence = vec![
            ("slow", Value::from(self.slow)),
            ("opens", self.opens.into()),
            ("syn_retrans", self.resent.into()),
            ("latency_us", self.longest_us.into()),
        ];
        if let Some(dropped) = dropped {
            text += &dropped.text();
            evidence.extend(dropped.evidence());
        }
        Finding {
            kind: &KIND,
            severity: Severity::Warning,
            subject: subject.clone(),
            text,
            evidence,
            next: tcpconnect("--min-ms 500", subject),
            weight: self.slow as f64,
        }
    }
}

/// Late handshakes of one listener's address.
#[derive(Default)]
struct Server {
    clients: u64,
    resent: u64,
    completed: u64,
}

impl Server {
    fn finding(&self, subject: &Subject, seconds: f64) -> Finding {
        Finding {
            kind: &KIND,
            severity: Severity::Warning,
            subject: subject.clone(),
            text: format!(
                "SYN/ACKs of {} sent again {} times in {seconds:.0} s: they, or the clients' answers, are \
                 lost; {} of the connections were completed",
                count(self.clients, "connection"),
                self.resent,
                self.completed
            ),
            evidence: vec![
                ("connections", Value::from(self.clients)),
                ("synack_retrans", self.resent.into()),
                ("completed", self.completed.into()),
            ],
            next: match subject.listener {
                Some(at) => format!("tcpretrans -w -L {}", at.port()),
                None => "tcpretrans -w".into(),
            },
            weight: self.clients as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn open(retrans: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "app", "pid": 5, "raddr": "10.0.0.2", "rport": 5000,
            "outcome": "established", "syn_retrans": retrans,
            "latency_us": 100 + 1_010_000 * retrans,
        });
        row("tcpconnect", "connect", values)
    }

    fn synack(client: u64, hint: Option<&str>) -> Row {
        let values = json!({
            "netns": 2, "comm": "svc", "pid": 9, "laddr": "10.0.0.2", "lport": 5000,
            "raddr": "10.0.0.1", "rport": client, "kind": "synack", "hint": hint, "segs": 1,
        });
        row("tcpretrans", "retransmit", values)
    }

    #[test]
    fn opens_that_needed_a_second_syn_are_found() {
        let mut rows: Vec<_> = (0..9).map(|_| open(0)).collect();
        rows.extend([open(1), open(1), open(1)]);
        let found = find::<SlowHandshake>(&rows);
        assert_eq!(
            found[0].text,
            "3 of 12 opens in 10 s only after a SYN was sent again, the slowest after 1.0 s"
        );
        assert_eq!(found[0].next, "tcpconnect --min-ms 500 -P 5000");
    }

    #[test]
    fn a_single_loss_or_a_rare_one_is_not() {
        assert!(find::<SlowHandshake>(&[open(0), open(1)]).is_empty());
        let mut rows: Vec<_> = (0..1000).map(|_| open(0)).collect();
        rows.extend([open(1), open(1), open(1)]);
        assert!(find::<SlowHandshake>(&rows).is_empty());
    }

    #[test]
    fn a_server_whose_synacks_are_lost_is_found_once() {
        let session = json!({
            "netns": 2, "laddr": "10.0.0.2", "lport": 5000, "raddr": "10.0.0.1", "rport": 41,
        });
        let mut rows = vec![synack(41, None), synack(42, None), synack(42, None)];
        rows.push(row("tcplife", "session", session));
        let found = find::<SlowHandshake>(&rows);
        assert!(
            found[0]
                .text
                .starts_with("SYN/ACKs of 2 connections sent again 3 times in 10 s")
        );
        assert!(
            found[0]
                .text
                .ends_with("1 of the connections were completed")
        );
        assert_eq!(found[0].subject.to_string(), "svc (pid 9) on 10.0.0.2:5000");
        rows.extend([open(1), open(1)]);
        let found = find::<SlowHandshake>(&rows);
        assert_eq!(
            (found.len(), found[0].subject.to_string()),
            (1, "app to 10.0.0.2:5000".into())
        );
    }

    #[test]
    fn handshakes_that_were_answered_are_not() {
        let defer = [41, 42, 43].map(|client| synack(client, Some("defer_accept")));
        assert!(find::<SlowHandshake>(&defer).is_empty());
        assert!(find::<SlowHandshake>(&[synack(41, None), synack(41, None)]).is_empty());
    }
}
