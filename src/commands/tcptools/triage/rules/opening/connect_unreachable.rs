// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens for which there is no way: no route, no such host on the link, or ICMP says so.

use std::collections::BTreeMap;

use serde_json::Value;

use super::opens::{client, merge, percent, tcpconnect};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "connect_unreachable_count",
    default: 2.0,
    unit: "opens",
    why: "It takes 3 s until a host is known not to be on the link, so there are few.",
};

const SHARE: Limit = Limit {
    name: "connect_unreachable_percent",
    default: 20.0,
    unit: "% of a program's opens to that port",
    why: "A route that moves is away for a moment.",
};

const ROUTES: Limit = Limit {
    name: "connect_unreachable_no_route",
    default: 5.0,
    unit: "of IpOutNoRoutes",
    why: "A connect() without a route (ENETUNREACH) sends nothing, and is seen by this counter only; \
multicast may count too.",
};

pub const KIND: Kind = Kind {
    name: "connect_unreachable",
    what: "Connections cannot be opened: the host or its network cannot be reached.",
    explain: "EHOSTUNREACH: no host answers for that address on the link (ARP, neighbour discovery), a \
router says so by ICMP, or a firewall rejects with an ICMP message. ENETUNREACH: the routing table \
has no route; connect() fails at once then, no segment is sent, and only the counter IpOutNoRoutes \
of the network namespace tells of it. For IPv6 that is a note: programs try it first on hosts that \
have none.\n\
It is told from a black hole (connect_timeout) by the error: something has answered. A refusal \
(connect_refused) is an answer of the host itself.\n\
Look at ip route get ADDRESS and ip neigh in the namespace of the program; is the address right, is \
the host up, is the interface?",
    limits: &[COUNT, SHARE, ROUTES],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    unreachable: u64,
    opens: u64,
    errors: BTreeMap<String, u64>,
}

#[derive(Default)]
pub struct ConnectUnreachable {
    clients: Subjects<Seen>,
    /// By namespace: of IPv4, of IPv6.
    no_route: Subjects<[u64; 2]>,
}

impl Rule for ConnectUnreachable {
    fn see(&mut self, row: &Row, _: &Limits) {
        if row.is("sockbuf", "counter") {
            let family = match row.text("name") {
                Some("IpOutNoRoutes") => 0,
                Some("Ip6OutNoRoutes") => 1,
                _ => return,
            };
            if let Some(counts) = self.no_route.of(Subject::netns(row)) {
                counts[family] += row.number("count").unwrap_or_default();
            }
        }
        if !row.is("tcpconnect", "connect") {
            return;
        }
        let Some(seen) = self.clients.of(client(row)) else {
            return;
        };
        seen.opens += 1;
        if row.text("outcome") == Some("unreachable") {
            seen.unreachable += 1;
            let error = row.text("error").unwrap_or("no error known");
            // There are few names.
            *seen.errors.entry(error.to_owned()).or_default() += 1;
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            seen.unreachable as f64 >= limits.of(&COUNT)
                && percent(seen.unreachable, seen.opens) >= limits.of(&SHARE)
        };
        let clients = self.clients.iter().filter(|(_, seen)| often(seen));
        let found = clients.map(|(subject, seen)| seen.finding(subject, seconds));
        let mut found = merge(found.collect());
        for (subject, counts) in self.no_route.iter() {
            let kinds = [
                ("IpOutNoRoutes", Severity::Warning),
                ("Ip6OutNoRoutes", Severity::Note),
            ];
            for ((name, severity), &count) in kinds.into_iter().zip(counts) {
                if count as f64 >= limits.of(&ROUTES) {
                    found.push(no_route(subject, name, count, severity, seconds));
                }
            }
        }
        found
    }
}

impl Seen {
    fn finding(&self, subject: &Subject, seconds: f64) -> Finding {
        let most = self.errors.iter().max_by_key(|(_, count)| **count);
        let error = most.map_or("", |(error, _)| error);
        Finding {
            kind: &KIND,
            severity: Severity::Critical,
            subject: subject.clone(),
            text: format!(
                "{} of {} opens failed with {error} in {seconds:.0} s",
                self.unreachable, self.opens
            ),
            evidence: vec![
                ("unreachable", Value::from(self.unreachable)),
                ("opens", self.opens.into()),
                ("error", error.into()),
            ],
            next: tcpconnect("--failed", subject),
            weight: self.unreachable as f64,
        }
    }
}

fn no_route(
    subject: &Subject,
    name: &'static str,
    count: u64,
    severity: Severity,
    seconds: f64,
) -> Finding {
    Finding {
        kind: &KIND,
        severity,
        subject: subject.clone(),
        text: format!(
            "{count} packets or calls of connect() found no route in {seconds:.0} s ({name}), as \
             connect() with ENETUNREACH"
        ),
        evidence: vec![("name", Value::from(name)), ("count", count.into())],
        next: match subject.netns {
            Some(netns) => format!("sockbuf --summary=2s --netns {netns}"),
            None => "sockbuf --summary=2s".into(),
        },
        weight: count as f64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn open(host: u64, outcome: &str) -> Row {
        let error = (outcome == "unreachable").then_some("EHOSTUNREACH");
        let values = json!({
            "comm": "app", "pid": 5, "raddr": format!("10.0.0.{host}"), "rport": 5432,
            "outcome": outcome, "error": error,
        });
        row("tcpconnect", "connect", values)
    }

    fn counter(name: &str, count: u64) -> Row {
        row(
            "sockbuf",
            "counter",
            json!({ "netns": 7, "name": name, "count": count }),
        )
    }

    #[test]
    fn opens_with_an_icmp_error_are_found() {
        let rows = [open(2, "unreachable"), open(2, "unreachable")];
        let found = find::<ConnectUnreachable>(&rows);
        assert_eq!(
            found[0].text,
            "2 of 2 opens failed with EHOSTUNREACH in 10 s"
        );
        assert_eq!(found[0].subject.to_string(), "app to 10.0.0.2:5432");
    }

    #[test]
    fn many_hosts_are_one_finding() {
        let rows: Vec<_> = (1..20).map(|n| open(n / 2, "unreachable")).collect();
        let found = find::<ConnectUnreachable>(&rows);
        assert_eq!(
            (found.len(), found[0].subject.to_string()),
            (1, "app".into())
        );
        assert_eq!(found[0].next, "tcpconnect --failed");
        assert!(
            found[0]
                .text
                .ends_with("; 8 other destinations fare the same")
        );
    }

    #[test]
    fn connect_without_a_route_is_found_by_the_counter() {
        let found =
            find::<ConnectUnreachable>(&[counter("IpOutNoRoutes", 4), counter("IpOutNoRoutes", 4)]);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(found[0].next, "sockbuf --summary=2s --netns 7");
        let found = find::<ConnectUnreachable>(&[counter("Ip6OutNoRoutes", 40)]);
        assert_eq!(found[0].severity, Severity::Note);
    }

    #[test]
    fn one_of_many_or_another_outcome_is_not() {
        let mut rows: Vec<_> = (0..50).map(|_| open(2, "established")).collect();
        rows.extend([open(2, "unreachable"), open(2, "unreachable")]);
        rows.push(open(3, "unreachable"));
        rows.push(counter("IpOutNoRoutes", 2));
        rows.push(counter("IpInNoRoutes", 20));
        assert!(find::<ConnectUnreachable>(&rows).is_empty());
        let other = ["refused", "timeout", "aborted"].map(|outcome| open(2, outcome));
        assert!(find::<ConnectUnreachable>(&other).is_empty());
    }
}
