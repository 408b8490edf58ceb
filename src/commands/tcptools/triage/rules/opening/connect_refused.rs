// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens that are answered by a reset: nobody listens there, or a firewall rejects.

use serde_json::Value;

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
    unit: "% of a process's opens to that port",
    why: "A server that restarts refuses for a moment, and then takes all.",
};

pub const KIND: Kind = Kind {
    name: "connect_refused",
    what: "Connections are refused: nothing listens on that address and port.",
    explain: "The other host, or this one, answers the SYN with a reset. The server is not running, \
listens on another address (127.0.0.1 instead of 0.0.0.0), port or network namespace, or a \
firewall rejects with tcp-reset.\n\
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
pub struct ConnectRefused(Subjects<Seen>);

impl Rule for ConnectRefused {
    fn see(&mut self, row: &Row, _: &Limits) {
        if !row.is("tcpconnect", "connect") {
            return;
        }
        // A program that is started for each request has a new pid each time.
        if let Some(seen) = self.0.of(Subject::destination(row).any_pid()) {
            seen.opens += 1;
            seen.refused += u64::from(row.text("outcome") == Some("refused"));
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            let percent = 100.0 * seen.refused as f64 / seen.opens.max(1) as f64;
            seen.refused as f64 >= limits.of(&COUNT) && percent >= limits.of(&SHARE)
        };
        let found = self.0.iter().filter(|(_, seen)| often(seen));
        found
            .map(|(subject, seen)| Finding {
                kind: &KIND,
                severity: Severity::Critical,
                subject: subject.clone(),
                text: format!(
                    "{} of {} opens refused in {seconds:.0} s",
                    seen.refused, seen.opens
                ),
                evidence: vec![
                    ("refused", Value::from(seen.refused)),
                    ("opens", seen.opens.into()),
                ],
                next: match subject.destination {
                    Some(to) => format!("tcpconnect --failed -P {}", to.port()),
                    None => "tcpconnect --failed".into(),
                },
                weight: seen.refused as f64,
            })
            .collect()
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

    #[test]
    fn refusals_of_many_processes_are_one_finding() {
        let rows: Vec<_> = (0..6).map(|pid| open(pid, "refused")).collect();
        let found = find::<ConnectRefused>(&rows);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "6 of 6 opens refused in 10 s");
    }

    #[test]
    fn few_or_rare_refusals_are_not() {
        let few: Vec<_> = (0..4).map(|pid| open(pid, "refused")).collect();
        assert!(find::<ConnectRefused>(&few).is_empty());
        let mut rare: Vec<_> = (0..100).map(|_| open(1, "established")).collect();
        rare.extend((0..6).map(|_| open(1, "refused")));
        assert!(find::<ConnectRefused>(&rare).is_empty());
    }
}
