// SPDX-License-Identifier: MIT OR Apache-2.0
//! No local port is left for a destination, or soon none will be.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::opens::{client, count, percent, tcpconnect};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "no_ports_count",
    default: 3.0,
    unit: "opens without a port",
    why: "The kernel tries all ports before it fails: there is no chance in it.",
};

const PERCENT: Limit = Limit {
    name: "no_ports_percent",
    default: 80.0,
    unit: "% of the ports taken",
    why: "From here on connect() searches long, and the rest may be gone within seconds.",
};

pub const KIND: Kind = Kind {
    name: "no_ports",
    what: "Local ports to a destination run out: connect() fails with EADDRNOTAVAIL.",
    explain: "Each connection to one address and port needs a local port of its own, of \
net.ipv4.ip_local_port_range. One that this end has closed first keeps it for 60 s in TIME_WAIT. A \
program that opens a connection for each request, or keeps very many, takes them all; other \
destinations still have theirs.\n\
It is told from a server's trouble by the time, which is none: nothing is sent, and a capture shows \
nothing. TIME_WAIT of connections over loopback does not count towards the warning, nor where opens \
go on with all ports taken: the kernel reuses those (net.ipv4.tcp_tw_reuse).\n\
Keep connections open (keep-alive, a pool). Else set net.ipv4.tcp_tw_reuse to 1, widen the range, or \
give the server or the client a second address.",
    limits: &[COUNT, PERCENT],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    no_port: u64,
    opens: u64,
}

/// Of a destination, at the look with most.
#[derive(Clone, Debug, Default)]
struct Ports {
    netns: Subject,
    all: u64,
    taken: u64,
    time_wait: u64,
    /// Without what may be reused.
    percent: f64,
    /// Looks at which all were taken.
    full: u64,
}

/// Destinations that are kept.
const MOST: usize = 4096;

/// By namespace.
type Server = (Option<u64>, SocketAddr);

#[derive(Default)]
pub struct NoPorts {
    clients: Subjects<Seen>,
    ports: BTreeMap<Server, Ports>,
}

impl Rule for NoPorts {
    fn see(&mut self, row: &Row, _: &Limits) {
        if row.is("tcpstates", "ports") {
            self.look(row);
        }
        if !row.is("tcpconnect", "connect") {
            return;
        }
        if let Some(seen) = self.clients.of(client(row)) {
            seen.opens += 1;
            seen.no_port += u64::from(row.text("outcome") == Some("no_port"));
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (subject, seen) in self.clients.iter() {
            if seen.no_port as f64 >= limits.of(&COUNT) {
                let server = subject.destination.map(|to| (subject.netns, to));
                let ports = server.and_then(|server| self.ports.get(&server));
                found.push(seen.finding(subject, ports, seconds));
            }
        }
        for (&(netns, to), ports) in &self.ports {
            let fails =
                |one: &Finding| one.subject.destination == Some(to) && one.subject.netns == netns;
            // With all taken at two looks, and no open that failed, the kernel reuses them.
            let reuses = ports.full > 1;
            if ports.percent >= limits.of(&PERCENT) && !reuses && !found.iter().any(fails) {
                found.push(ports.finding(self.whose(netns, to, ports)));
            }
        }
        found
    }
}

impl NoPorts {
    fn look(&mut self, row: &Row) {
        let to = Subject::destination(row).destination;
        let Some(to) = to.filter(|_| self.ports.len() < MOST) else {
            return;
        };
        let number = |key| row.number(key).unwrap_or_default();
        let (all, taken, time_wait) = (number("ports"), number("ports_taken"), number("time_wait"));
        // net.ipv4.tcp_tw_reuse is 2, for loopback alone, if nobody has changed it.
        let counts = match to.ip().to_canonical().is_loopback() {
            true => taken.saturating_sub(time_wait),
            false => taken,
        };
        let netns = Subject::netns(row);
        let ports = self.ports.entry((netns.netns, to)).or_default();
        let full = ports.full + u64::from(taken >= all);
        if taken >= ports.taken {
            *ports = Ports {
                netns,
                all,
                taken,
                time_wait,
                percent: percent(counts, all).max(ports.percent),
                full,
            };
        }
        ports.full = full;
    }

    /// The program with most opens to there; without one, the namespace.
    fn whose(&self, netns: Option<u64>, to: SocketAddr, ports: &Ports) -> Subject {
        let there = |subject: &Subject| subject.destination == Some(to) && subject.netns == netns;
        let most = self.clients.iter().filter(|(subject, _)| there(subject));
        let most = most.max_by_key(|(_, seen)| seen.opens);
        most.map_or_else(
            || Subject {
                destination: Some(to),
                ..ports.netns.clone()
            },
            |(subject, _)| subject.clone(),
        )
    }
}

impl Seen {
    fn finding(&self, subject: &Subject, ports: Option<&Ports>, seconds: f64) -> Finding {
        let mut text = format!(
            "{} of {} failed in {seconds:.0} s with EADDRNOTAVAIL: no local port is free",
            self.no_port,
            count(self.opens, "open")
        );
        let mut evidence = vec![
            ("no_port", Value::from(self.no_port)),
            ("opens", self.opens.into()),
        ];
        if let Some(ports) = ports {
            text += &format!(" ({})", ports.text());
            evidence.extend(ports.evidence());
        }
        Finding {
            kind: &KIND,
            severity: Severity::Critical,
            subject: subject.clone(),
            text,
            evidence,
            next: look_at(subject),
            weight: self.no_port as f64,
        }
    }
}

impl Ports {
    fn text(&self) -> String {
        format!(
            "{} of {} are taken, {} of them in TIME_WAIT",
            self.taken, self.all, self.time_wait
        )
    }

    fn evidence(&self) -> [(&'static str, Value); 3] {
        [
            ("ports", self.all.into()),
            ("ports_taken", self.taken.into()),
            ("time_wait", self.time_wait.into()),
        ]
    }

    fn finding(&self, subject: Subject) -> Finding {
        Finding {
            kind: &KIND,
            severity: Severity::Warning,
            text: format!("local ports run out: {}", self.text()),
            evidence: self.evidence().into(),
            next: look_at(&subject),
            weight: self.percent,
            subject,
        }
    }
}

fn look_at(subject: &Subject) -> String {
    match subject.destination {
        Some(to) => format!("tcpstates --summary -d 1s -D {}", to.port()),
        None => tcpconnect("--failed", subject),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn open(comm: &str, outcome: &str) -> Row {
        let values = json!({
            "netns": 3, "comm": comm, "pid": 5, "raddr": "10.0.0.2", "rport": 5432,
            "outcome": outcome,
        });
        row("tcpconnect", "connect", values)
    }

    fn look(to: &str, taken: u64, time_wait: u64) -> Row {
        let values = json!({
            "netns": 3, "raddr": to, "rport": 5432, "laddr": "10.0.0.1", "ports": 100,
            "ports_taken": taken, "time_wait": time_wait,
        });
        row("tcpstates", "ports", values)
    }

    #[test]
    fn opens_without_a_port_are_found() {
        let mut rows: Vec<_> = (0..5).map(|_| open("api-gw", "no_port")).collect();
        rows.push(look("10.0.0.2", 100, 98));
        let found = find::<NoPorts>(&rows);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].text,
            "5 of 5 opens failed in 10 s with EADDRNOTAVAIL: no local port is free (100 of 100 are \
             taken, 98 of them in TIME_WAIT)"
        );
        assert_eq!(found[0].next, "tcpstates --summary -d 1s -D 5432");
    }

    #[test]
    fn the_limit_is_near() {
        let rows = [open("cron", "established"), look("10.0.0.2", 85, 80)];
        let found = find::<NoPorts>(&rows);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(found[0].subject.to_string(), "cron to 10.0.0.2:5432");
        let found = find::<NoPorts>(&[look("127.0.0.1", 85, 2)]);
        assert_eq!(
            found[0].subject.destination.unwrap().to_string(),
            "127.0.0.1:5432"
        );
    }

    #[test]
    fn ports_that_are_reused_are_not() {
        for to in ["127.0.0.1", "::1"] {
            assert!(find::<NoPorts>(&[look(to, 100, 95)]).is_empty());
        }
        let looks = [look("10.0.0.2", 100, 100), look("10.0.0.2", 100, 99)];
        assert!(find::<NoPorts>(&looks).is_empty());
        assert!(find::<NoPorts>(&[look("10.0.0.2", 50, 50)]).is_empty());
        assert!(find::<NoPorts>(&[open("a", "no_port"), open("a", "aborted")]).is_empty());
    }
}
