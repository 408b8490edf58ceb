// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets whose address was not translated back: no socket knows them, and a reset answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::looks::{Same, connections};
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "nat_broken_resets",
    default: 2.0,
    unit: "connections that were reset so",
    why: "One may be a port that is used again for another address by chance.",
};

pub const KIND: Kind = Kind {
    name: "nat_broken",
    what: "Packets come from a translated address as if there were no translation, and are reset.",
    explain: "A client is connected to a virtual address (a service of Kubernetes, a DNAT rule), and \
gets a packet from the server's own address instead: no socket knows that, so the client's kernel \
answers it with a reset, which is translated and ends the good connection at the server, and then \
at the client. Mostly connection tracking takes a packet for INVALID, because it is out of the \
window (a late duplicate, or a host that saw one direction only), and invalid packets are not \
translated; or answers take another way than requests.\n\
It is told from other resets by two of them within 3 seconds: one without a socket to an address to \
which there is no connection, and one received on the same local port of a connection to another \
address (tcpreset: address_translation).\n\
Set net.netfilter.nf_conntrack_tcp_be_liberal=1 where the translation is done, or drop invalid \
packets there (nft: ct state invalid drop) before they are forwarded.",
    limits: &[COUNT],
    effect_of: &[],
};

/// Of a namespace.
#[derive(Default)]
struct Seen {
    resets: u64,
    /// Where packets come from that no socket knows.
    from: Same<SocketAddr>,
    /// The address that clients were connected to, and they.
    to: Same<SocketAddr>,
    comm: Same<String>,
    pid: Same<u64>,
    place: Same<String>,
}

/// The last resets of a local port: the one without a socket, and the one that was received.
#[derive(Clone, Default)]
struct Port {
    unknown: Option<SocketAddr>,
    received: Subject,
}

#[derive(Default)]
pub struct NatBroken {
    of: Subjects<Seen>,
    /// By namespace and local port.
    ports: BTreeMap<(u64, u64), Port>,
}

/// How many local ports are remembered.
const PORTS: usize = 4096;

impl Rule for NatBroken {
    fn see(&mut self, row: &Row, _: &Limits) {
        if !row.is("tcpreset", "reset") {
            return;
        }
        let (Some(netns), Some(port)) = (row.number("netns"), row.number("lport")) else {
            return;
        };
        let remote = Subject::destination(row);
        let key = (netns, port);
        if self.ports.len() >= PORTS && !self.ports.contains_key(&key) {
            // Only those of the last three seconds matter.
            self.ports.clear();
        }
        let ends = self.ports.entry(key).or_default();
        match row.text("direction") {
            Some("sent") if row.text("state").is_none() => ends.unknown = remote.destination,
            Some("received") => ends.received = remote,
            _ => {}
        }
        if row.text("hint") != Some("address_translation") {
            return;
        }
        let ends = ends.clone();
        let Some(seen) = self.of.of(Subject::netns(row)) else {
            return;
        };
        seen.resets += 1;
        seen.from.see(ends.unknown);
        seen.to.see(ends.received.destination);
        seen.comm.see(ends.received.comm);
        seen.pid.see(ends.received.pid);
        seen.place.see(ends.received.place);
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let often = |seen: &Seen| seen.resets as f64 >= limits.of(&COUNT);
        let found = self.of.iter().filter(|(_, seen)| often(seen));
        found
            .map(|(netns, seen)| {
                let (from, to) = (seen.from.one(), seen.to.one());
                let from = from.map_or_else(|| "several addresses".into(), |at| at.to_string());
                Finding {
                    kind: &KIND,
                    severity: Severity::Critical,
                    subject: Subject {
                        comm: seen.comm.one(),
                        pid: seen.pid.one(),
                        place: seen.place.one(),
                        destination: to,
                        ..netns.clone()
                    },
                    text: format!(
                        "{} reset in {time:.0} s, because packets came from {from}, which were not \
                         translated back",
                        connections(seen.resets)
                    ),
                    evidence: vec![
                        ("resets", Value::from(seen.resets)),
                        ("hint", "address_translation".into()),
                        (
                            "untranslated",
                            seen.from.one().map(|at| at.to_string()).into(),
                        ),
                    ],
                    next: "tcpreset -w --peer".into(),
                    weight: seen.resets as f64,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn reset(lport: u64, raddr: &str, rport: u64, sent: bool, hint: Option<&str>) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.0.0.1", "lport": lport, "raddr": raddr, "rport": rport,
            "direction": if sent { "sent" } else { "received" }, "hint": hint,
            "state": (!sent).then_some("ESTABLISHED"), "comm": (!sent).then_some("client"),
            "pid": (!sent).then_some(7),
        });
        row("tcpreset", "reset", values)
    }

    #[test]
    fn packets_that_are_not_translated_are_found() {
        let mut rows = Vec::new();
        for port in [40_001, 40_002, 40_003] {
            rows.push(reset(port, "10.77.2.2", 8080, true, None));
            rows.push(reset(
                port,
                "10.96.0.10",
                80,
                false,
                Some("address_translation"),
            ));
        }
        let found = find::<NatBroken>(&rows);
        assert_eq!(
            found[0].subject.to_string(),
            "client (pid 7) to 10.96.0.10:80"
        );
        assert_eq!(
            found[0].text,
            "3 connections reset in 10 s, because packets came from 10.77.2.2:8080, which were not \
             translated back"
        );
        assert!(find::<NatBroken>(&rows[..2]).is_empty());
    }

    #[test]
    fn other_resets_are_not() {
        let rows = vec![reset(40_001, "10.77.2.2", 8080, true, Some("no_listener")); 9];
        assert!(find::<NatBroken>(&rows).is_empty());
    }
}
