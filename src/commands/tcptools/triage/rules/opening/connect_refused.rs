// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens that are answered by a reset: nobody listens there, or a firewall rejects.

use serde_json::Value;

use super::opens::{client, count, percent, tcpconnect};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "connect_refused_count",
    default: 5.0,
    unit: "opens",
    why: "A health check of a service that is down is refused now and then.",
};

const SHARE: Limit = Limit {
    name: "connect_refused_percent",
    default: 20.0,
    unit: "% of a program's opens to that port",
    why: "A server that restarts refuses for a moment, and then takes all.",
};

pub const KIND: Kind = Kind {
    name: "connect_refused",
    what: "Connections are refused: nothing listens on that address and port.",
    explain: "The other host, or this one, answers the SYN with a reset. The server is not running, \
listens on another address (127.0.0.1 instead of 0.0.0.0), port or network namespace, or a \
firewall rejects with tcp-reset. It is critical where a program of this host is refused, and a \
warning where this host refuses others, who may be scanning.\n\
It is told from a black hole (connect_timeout) by the answer, and from an overflow \
(listener_overflow) by the reset: a full queue drops SYNs in silence, unless \
net.ipv4.tcp_abort_on_overflow is set.\n\
If the server is on this host, tcpaccept --listeners shows whether it listens, and where.",
    limits: &[COUNT, SHARE],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    refused: u64,
    opens: u64,
}

#[derive(Default)]
pub struct ConnectRefused {
    clients: Subjects<Seen>,
    /// SYNs for ports of this host, by the port; their resets.
    closed: Subjects<u64>,
}

impl Rule for ConnectRefused {
    fn see(&mut self, row: &Row, _: &Limits) {
        if row.is("tcpconnect", "connect") {
            if let Some(seen) = self.clients.of(client(row)) {
                seen.opens += 1;
                seen.refused += u64::from(row.text("outcome") == Some("refused"));
            }
        } else if is_answer(row)
            && let Some(resets) = self.closed.of(Subject::listener(row))
        {
            *resets += 1;
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            seen.refused as f64 >= limits.of(&COUNT)
                && percent(seen.refused, seen.opens) >= limits.of(&SHARE)
        };
        let clients = self.clients.iter().filter(|(_, seen)| often(seen));
        let mut found: Vec<_> = clients
            .map(|(subject, seen)| seen.finding(subject, seconds))
            .collect();
        for (subject, &resets) in self.closed.iter() {
            // The clients say more, if they are here too.
            let known = found.iter().any(|one| one.subject.concerns(subject));
            if resets as f64 >= limits.of(&COUNT) && !known {
                found.push(refuses(subject, resets, seconds));
            }
        }
        found
    }
}

/// A reset for a SYN to a port without a listener. Before Linux 6.10 there are no reasons.
fn is_answer(row: &Row) -> bool {
    row.is("tcpreset", "reset")
        && row.text("direction") == Some("sent")
        && row.text("state").is_none()
        && row
            .text("reason")
            .is_none_or(|reason| reason == "NO_SOCKET")
        && row.text("trigger_flags") == Some("SYN")
}

impl Seen {
    fn finding(&self, subject: &Subject, seconds: f64) -> Finding {
        Finding {
            kind: &KIND,
            severity: Severity::Critical,
            subject: subject.clone(),
            text: format!(
                "{} of {} opens refused in {seconds:.0} s",
                self.refused, self.opens
            ),
            evidence: vec![
                ("refused", Value::from(self.refused)),
                ("opens", self.opens.into()),
            ],
            next: tcpconnect("--failed", subject),
            weight: self.refused as f64,
        }
    }
}

/// This host refuses others.
fn refuses(subject: &Subject, resets: u64, seconds: f64) -> Finding {
    Finding {
        kind: &KIND,
        severity: Severity::Warning,
        subject: subject.clone(),
        text: format!(
            "{} from other hosts refused in {seconds:.0} s: nothing listens there",
            count(resets, "open")
        ),
        evidence: vec![("refused", Value::from(resets))],
        next: match subject.listener {
            Some(at) => format!("tcpreset -L {}", at.port()),
            None => "tcpreset".into(),
        },
        weight: resets as f64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn open(pid: u64, outcome: &str) -> Row {
        let values = json!({
            "comm": "app", "pid": pid, "raddr": "10.0.0.2", "rport": 5432, "outcome": outcome,
        });
        row("tcpconnect", "connect", values)
    }

    fn reset(port: u64) -> Row {
        let values = json!({
            "direction": "sent", "state": null, "reason": "NO_SOCKET", "trigger_flags": "SYN",
            "netns": 1, "laddr": "10.0.0.2", "lport": port, "raddr": "10.0.0.9", "rport": 4000,
        });
        row("tcpreset", "reset", values)
    }

    #[test]
    fn refusals_of_many_processes_are_one_finding() {
        let rows: Vec<_> = (0..6).map(|pid| open(pid, "refused")).collect();
        let found = find::<ConnectRefused>(&rows);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "6 of 6 opens refused in 10 s");
        assert_eq!(found[0].next, "tcpconnect --failed -P 5432");
    }

    #[test]
    fn few_or_rare_refusals_are_not() {
        let few: Vec<_> = (0..4).map(|pid| open(pid, "refused")).collect();
        assert!(find::<ConnectRefused>(&few).is_empty());
        let mut rare: Vec<_> = (0..100).map(|_| open(1, "established")).collect();
        rare.extend((0..6).map(|_| open(1, "refused")));
        assert!(find::<ConnectRefused>(&rare).is_empty());
    }

    #[test]
    fn a_closed_port_of_this_host_is_found_without_its_clients() {
        let mut rows: Vec<_> = (0..6).map(|_| reset(5432)).collect();
        let found = find::<ConnectRefused>(&rows);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(found[0].to_json()["subject"]["listener"], "10.0.0.2:5432");
        // Both ends are here.
        rows.extend((0..6).map(|pid| open(pid, "refused")));
        let found = find::<ConnectRefused>(&rows);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Critical));
    }

    #[test]
    fn a_port_scan_is_not() {
        let rows: Vec<_> = (1..100).map(reset).collect();
        assert!(find::<ConnectRefused>(&rows).is_empty());
    }
}
