// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams that are dropped because the receive buffer of their socket is full.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const DROPS: Limit = Limit {
    name: "udp_overflow_drops",
    default: 10.0,
    unit: "datagrams of a process",
    why: "One burst that is larger than the buffer loses a few.",
};

pub const KIND: Kind = Kind {
    name: "udp_overflow",
    what: "A UDP receive buffer is full, and the kernel drops datagrams.",
    explain: "The process does not read as fast as datagrams come, or the buffer is smaller than a burst. \
They are lost: UDP does not send again.\n\
It is told from loss in the network by the socket itself, which counts what did not fit, and from \
memory_pressure by the limit: the socket's own, not that of all sockets.\n\
If drops come at a steady rate, the reader is too slow: more threads, SO_REUSEPORT, recvmmsg(). If \
they come in bursts, a larger buffer helps: SO_RCVBUF, limited by net.core.rmem_max, or \
net.core.rmem_default if the program sets none.",
    limits: &[DROPS],
    effect_of: &["memory_pressure"],
};

#[derive(Default)]
struct Seen {
    drops: u64,
    lport: Option<u64>,
    limit: u64,
    tune: String,
}

#[derive(Default)]
pub struct UdpOverflow(Subjects<Seen>);

impl Rule for UdpOverflow {
    fn see(&mut self, row: &Row, _: &Limits) {
        let full = row.is("sockbuf", "count")
            && row.text("kind") == Some("udp_fail_queue_rcv")
            && row.text("cause") == Some("rcvbuf");
        if !full {
            return;
        }
        if let Some(seen) = self.0.of(Subject::process(row)) {
            seen.drops += row.number("count").unwrap_or_default();
            seen.lport = row.number("lport").or(seen.lport);
            seen.limit = row.number("limit_bytes").unwrap_or(seen.limit);
            row.text("tune")
                .unwrap_or_default()
                .clone_into(&mut seen.tune);
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let many = |seen: &Seen| seen.drops as f64 >= limits.of(&DROPS);
        let found = self.0.iter().filter(|(_, seen)| many(seen));
        found
            .map(|(subject, seen)| {
                let port = seen.lport.map(|port| format!(" of UDP port {port}"));
                Finding {
                    kind: &KIND,
                    severity: Severity::Critical,
                    subject: subject.clone(),
                    text: format!(
                        "receive buffer{} full ({} bytes), {} datagrams lost in {seconds:.0} s; {} limits it",
                        port.unwrap_or_default(),
                        seen.limit,
                        seen.drops,
                        seen.tune
                    ),
                    evidence: vec![
                        ("drops", Value::from(seen.drops)),
                        ("lport", seen.lport.into()),
                        ("limit_bytes", seen.limit.into()),
                        ("tune", seen.tune.clone().into()),
                    ],
                    next: match seen.lport {
                        Some(port) => format!("sockbuf -w -L {port}"),
                        None => "sockbuf -w".into(),
                    },
                    weight: seen.drops as f64,
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

    fn count(kind: &str, cause: &str, count: u64) -> Row {
        let values = json!({
            "netns": 1, "pid": 5, "comm": "statsd", "kind": kind, "proto": "UDP", "cause": cause,
            "lport": 8125, "limit_bytes": 212_992, "count": count, "tune": "net.core.rmem_default",
        });
        row("sockbuf", "count", values)
    }

    #[test]
    fn drops_of_all_intervals_are_one_finding() {
        let full = |n| count("udp_fail_queue_rcv", "rcvbuf", n);
        let found = find::<UdpOverflow>(&[full(8), full(4)]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].text,
            "receive buffer of UDP port 8125 full (212992 bytes), 12 datagrams lost in 10 s; \
             net.core.rmem_default limits it"
        );
    }

    #[test]
    fn few_drops_and_the_limit_of_all_sockets_are_not() {
        assert!(find::<UdpOverflow>(&[count("udp_fail_queue_rcv", "rcvbuf", 9)]).is_empty());
        assert!(find::<UdpOverflow>(&[count("exceed_buf_limit", "mem_max", 900)]).is_empty());
    }
}
