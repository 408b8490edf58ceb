// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that opens a connection for each request, where others keep theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::opens::{client, percent};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "connection_churn_sessions",
    default: 100.0,
    unit: "short sessions of a program to one server",
    why: "A pool that fills, or a few scripts, are fewer.",
};

const RATE: Limit = Limit {
    name: "connection_churn_per_s",
    default: 10.0,
    unit: "of these per second, while they come",
    why: "Fewer cost nothing that one would notice.",
};

const KEEPERS: Limit = Limit {
    name: "connection_churn_keepers",
    default: 2.0,
    unit: "connections to the same server that are kept",
    why: "They prove that the server lets clients keep theirs; one may be a person's.",
};

const PORTS: Limit = Limit {
    name: "connection_churn_ports_percent",
    default: 50.0,
    unit: "% of the local ports in TIME_WAIT",
    why: "At this rate the rest may follow within the minute that TIME_WAIT lasts.",
};

pub const KIND: Kind = Kind {
    name: "connection_churn",
    what: "A program opens a connection for each request, and could keep one.",
    explain: "Each request pays for a handshake, a slow start, and at a server with processes or TLS \
for much more; each leaves a port in TIME_WAIT for 60 s at the end that closes first. A pool is \
missing, is too small, or is made anew for each request; a client library or a proxy has keep-alive \
off.\n\
Many short connections alone are no finding: many servers and protocols want them. It is one if, \
meanwhile, other connections of this host to the same server are kept and carry request after \
request, so that it is this program's choice; or if its TIME_WAIT sockets take most of the local \
ports to that server (no_ports follows), which over loopback are reused.\n\
Find the pool in the program's settings (its size, maximum idle connections, idle time), and whether \
each request closes its connection.",
    limits: &[COUNT, RATE, KEEPERS, PORTS],
    effect_of: &["no_ports"],
};

/// Longer ones have done something.
const SHORT_US: u64 = 1_000_000;

/// How many times as much a connection that is kept lasts, and carries, as a short one.
const TIMES_LONGER: u64 = 10;
const TIMES_MORE: u64 = 5;

/// What carries more than this is a transfer, and no answer to many requests.
const TRANSFER_BYTES: u64 = 16 << 20;

/// Short sessions of a program to a server.
#[derive(Default)]
struct Seen {
    opens: u64,
    sessions: u64,
    bytes: u64,
    duration_us: u64,
    first_ns: u64,
    last_ns: u64,
}

/// A connection that has lasted for a while.
#[derive(Default)]
struct Kept {
    duration_us: u64,
    bytes: u64,
}

/// Of a server, by cookie.
type Keepers = BTreeMap<u64, Kept>;

/// Servers that are remembered, and kept connections of one.
const MOST: usize = 4096;
const MOST_KEPT: usize = 64;

#[derive(Default)]
pub struct ConnectionChurn {
    clients: Subjects<Seen>,
    kept: BTreeMap<SocketAddr, Keepers>,
    /// The most ports in TIME_WAIT, and all, by namespace and server.
    ports: BTreeMap<(Option<u64>, SocketAddr), (u64, u64)>,
}

impl Rule for ConnectionChurn {
    fn see(&mut self, row: &Row, _: &Limits) {
        match (row.tool(), row.event()) {
            ("tcpconnect", "connect") if row.text("outcome") == Some("established") => {
                if let Some(seen) = self.clients.of(client(row)) {
                    seen.opens += 1;
                }
                if let Some(to) = Subject::destination(row).destination
                    && self.kept.len() < MOST
                {
                    self.kept.entry(to).or_default();
                }
            }
            ("tcplife", "session") => self.ended(row),
            ("tcptop", "connection") if row.flag("active_open") == Some(true) => {
                self.keep(row, row.number("age_us"), ("bytes_sent", "bytes_received"))
            }
            ("tcpstates", "ports") => self.look(row),
            _ => {}
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (subject, seen) in self.clients.iter() {
            let Some(to) = subject.destination else {
                continue;
            };
            if !seen.is_churn(limits) {
                continue;
            }
            let kept = self.kept.get(&to).map_or(0, |kept| seen.keepers(kept));
            let ports = self.ports.get(&(subject.netns, to)).copied();
            let (time_wait, all) = ports.unwrap_or_default();
            let takes = percent(time_wait, all) >= limits.of(&PORTS);
            if kept as f64 >= limits.of(&KEEPERS) || takes {
                found.push(seen.finding(subject, kept, ports, seconds));
            }
        }
        found
    }
}

impl ConnectionChurn {
    /// A session's end: a short one of a program that opens, or a kept one.
    fn ended(&mut self, row: &Row) {
        let to = Subject::destination(row).destination;
        // A session of a server, whose other end is a client, is of nobody who opened.
        if to.is_none_or(|to| !self.kept.contains_key(&to)) {
            return;
        }
        let duration_us = row.number("duration_us").unwrap_or_default();
        if duration_us > SHORT_US {
            self.keep(row, Some(duration_us), ("tx_bytes", "rx_bytes"));
            return;
        }
        let ended = row.text("close_reason").unwrap_or_default();
        if !ended.starts_with("fin") && ended != "rst_sent" {
            return;
        }
        let Some(seen) = self.clients.of(client(row)) else {
            return;
        };
        if seen.sessions == 0 {
            seen.first_ns = row.boot_ns();
        }
        seen.sessions += 1;
        seen.last_ns = row.boot_ns();
        seen.duration_us += duration_us;
        seen.bytes += sum(row, ("tx_bytes", "rx_bytes"));
    }

    fn keep(&mut self, row: &Row, age_us: Option<u64>, bytes: (&str, &str)) {
        let to = Subject::destination(row).destination;
        let age_us = age_us.filter(|&us| us > SHORT_US);
        let (Some(to), Some(age_us), Some(cookie)) = (to, age_us, row.number("cookie")) else {
            return;
        };
        if self.kept.len() >= MOST && !self.kept.contains_key(&to) {
            return;
        }
        let kept = self.kept.entry(to).or_default();
        if kept.len() < MOST_KEPT || kept.contains_key(&cookie) {
            let one = kept.entry(cookie).or_default();
            one.duration_us = one.duration_us.max(age_us);
            one.bytes = one.bytes.max(sum(row, bytes));
        }
    }

    fn look(&mut self, row: &Row) {
        let to = Subject::destination(row).destination;
        // Over loopback the kernel reuses them.
        let Some(to) = to.filter(|to| !to.ip().to_canonical().is_loopback()) else {
            return;
        };
        let number = |key| row.number(key).unwrap_or_default();
        if self.ports.len() < MOST {
            let most = self.ports.entry((row.number("netns"), to)).or_default();
            *most = (number("time_wait"), number("ports")).max(*most);
        }
    }
}

fn sum(row: &Row, (sent, received): (&str, &str)) -> u64 {
    let number = |key| row.number(key).unwrap_or_default();
    number(sent) + number(received)
}

impl Seen {
    fn is_churn(&self, limits: &Limits) -> bool {
        let span = self.last_ns.saturating_sub(self.first_ns) as f64 / 1e9;
        let rate = self.sessions as f64 / span.max(0.1);
        // Most of what it opens ends soon; the rest is a pool that works.
        self.sessions as f64 >= limits.of(&COUNT)
            && rate >= limits.of(&RATE)
            && 2 * self.sessions >= self.opens
            && self.bytes / self.sessions.max(1) < TRANSFER_BYTES
    }

    /// Connections that have each done the work of several of these.
    fn keepers(&self, kept: &Keepers) -> u64 {
        let sessions = self.sessions.max(1);
        let longer = TIMES_LONGER * self.duration_us / sessions;
        let more = TIMES_MORE * self.bytes / sessions;
        let is_one = |one: &&Kept| {
            one.duration_us >= longer
                && (more..TRANSFER_BYTES).contains(&one.bytes)
                && one.bytes > 0
        };
        kept.values().filter(is_one).count() as u64
    }

    fn finding(
        &self,
        subject: &Subject,
        kept: u64,
        ports: Option<(u64, u64)>,
        seconds: f64,
    ) -> Finding {
        let sessions = self.sessions.max(1);
        let mut text = format!(
            "{} connections opened and closed in {seconds:.0} s, of {:.1} ms and {} bytes on average",
            self.sessions,
            self.duration_us as f64 / sessions as f64 / 1e3,
            self.bytes / sessions
        );
        if kept > 0 {
            text += &format!(", while {kept} others to the same server are kept");
        }
        let mut evidence = vec![
            ("sessions", Value::from(self.sessions)),
            ("opens", self.opens.into()),
            ("duration_us", (self.duration_us / sessions).into()),
            ("bytes", (self.bytes / sessions).into()),
            ("kept", kept.into()),
        ];
        if let Some((time_wait, all)) = ports {
            text += &format!("; {time_wait} of {all} local ports to it are in TIME_WAIT");
            evidence.push(("time_wait", time_wait.into()));
            evidence.push(("ports", all.into()));
        }
        Finding {
            kind: &KIND,
            severity: Severity::Warning,
            subject: subject.clone(),
            text,
            evidence,
            next: match subject.destination {
                Some(to) => format!("tcpconnect -c=5s --by comm -P {}", to.port()),
                None => "tcpconnect -c=5s --by comm".into(),
            },
            weight: self.sessions as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    /// What a program does every 10 ms: opens a connection, says a byte, closes it.
    fn session(n: u64, comm: &str, to: &str) -> [Row; 2] {
        let values = |more: Value| {
            let mut values = json!({
                "boot_ns": n * 10_000_000, "cookie": n, "netns": 1, "comm": comm, "pid": 5,
                "raddr": to, "rport": 5432,
            });
            values
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            values
        };
        let open = json!({ "outcome": "established", "latency_us": 50 });
        let end = json!({
            "close_reason": "fin_local", "duration_us": 400, "tx_bytes": 1, "rx_bytes": 1,
        });
        [
            row("tcpconnect", "connect", values(open)),
            row("tcplife", "session", values(end)),
        ]
    }

    fn churn(to: &str) -> Vec<Row> {
        (1..=400).flat_map(|n| session(n, "orm-bad", to)).collect()
    }

    fn pooled(cookie: u64, bytes: u64) -> Row {
        let values = json!({
            "cookie": cookie, "netns": 1, "comm": "pooled", "raddr": "10.0.0.2", "rport": 5432,
            "active_open": true, "age_us": 2_000_000, "bytes_sent": bytes, "bytes_received": bytes,
        });
        row("tcptop", "connection", values)
    }

    fn ports(to: &str, time_wait: u64) -> Row {
        let values = json!({
            "netns": 1, "raddr": to, "rport": 5432, "ports": 1000, "ports_taken": time_wait,
            "time_wait": time_wait,
        });
        row("tcpstates", "ports", values)
    }

    #[test]
    fn one_beside_others_that_keep_theirs_is_found() {
        let mut rows = churn("10.0.0.2");
        rows.extend([pooled(9001, 30), pooled(9002, 30), pooled(9003, 30)]);
        let found = find::<ConnectionChurn>(&rows);
        assert_eq!(found[0].subject.to_string(), "orm-bad to 10.0.0.2:5432");
        assert_eq!(
            found[0].text,
            "400 connections opened and closed in 10 s, of 0.4 ms and 2 bytes on average, while 3 \
             others to the same server are kept"
        );
    }

    #[test]
    fn one_that_takes_the_ports_is_found() {
        let mut rows = churn("10.0.0.2");
        rows.push(ports("10.0.0.2", 600));
        assert!(
            find::<ConnectionChurn>(&rows)[0]
                .text
                .ends_with("in TIME_WAIT")
        );
    }

    #[test]
    fn a_storm_alone_is_not() {
        let mut rows = churn("10.0.0.2");
        rows.push(ports("10.0.0.2", 400));
        assert!(find::<ConnectionChurn>(&rows).is_empty());
        let mut rows = churn("127.0.0.1");
        rows.push(ports("127.0.0.1", 1000));
        assert!(find::<ConnectionChurn>(&rows).is_empty());
    }

    #[test]
    fn transfers_and_slow_answers_beside_a_storm_are_not() {
        let mut rows = churn("10.0.0.2");
        rows.extend([pooled(9001, 1 << 30), pooled(9002, 1 << 30)]);
        rows.extend([pooled(9003, 1), pooled(9004, 1)]);
        rows.push(pooled(9005, 30));
        assert!(find::<ConnectionChurn>(&rows).is_empty());
    }

    #[test]
    fn a_few_sessions_are_not() {
        let mut rows: Vec<_> = (1..=50)
            .flat_map(|n| session(n, "cron", "10.0.0.2"))
            .collect();
        rows.extend([pooled(9001, 30), pooled(9002, 30)]);
        assert!(find::<ConnectionChurn>(&rows).is_empty());
    }
}
