// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP drops data that has arrived, because the receive buffer has no room.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::{ByServer, Of, flag};
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const SEGMENTS: Limit = Limit {
    name: "receive_buffer_pruned_segments",
    default: 10.0,
    unit: "segments of one server, or of a network namespace",
    why: "A single burst into a small buffer is sent again at once.",
};

const TIMES: Limit = Limit {
    name: "receive_buffer_pruned_times",
    default: 5.0,
    unit: "times that queues of a network namespace had no room left, if data were dropped, too",
    why: "The kernel first makes queues smaller, which loses nothing.",
};

pub const KIND: Kind = Kind {
    name: "receive_buffer_pruned",
    what: "TCP throws data away that has arrived, because the receive buffer is full.",
    explain: "The window that was announced counts bytes, the buffer counts memory: many small segments \
take far more memory than their bytes. The kernel collapses and prunes the queue, and drops what has \
no room; the other end takes it for loss and sends again.\n\
It is told from path_loss by the drops, which this host sees itself, from peer_window_zero by the \
window, which is open, and from memory_pressure by the limit, which is the socket's own.\n\
Read faster; do not set SO_RCVBUF, which ends the kernel's own tuning, or set it larger; raise the \
third number of net.ipv4.tcp_rmem. The other end may send larger pieces.",
    limits: &[SEGMENTS, TIMES],
    effect_of: &["memory_pressure"],
};

/// `tcp_data_queue` and `tcp_data_queue_ofo` (`net/ipv4/tcp_input.c`) for lack of room; `tcp_add_backlog`
/// (`net/ipv4/tcp_ipv4.c`).
const REASONS: [&str; 5] = [
    "PROTO_MEM",
    "SOCKET_RCVBUFF",
    "TCP_OFO_QUEUE_PRUNE",
    "TCP_OFO_DROP",
    "SOCKET_BACKLOG",
];

/// `tcp_prune_queue`: how often a queue had no room left.
const CALLED: &str = "TcpExtPruneCalled";

/// The kernel's own counts of drops. Before Linux 5.18 those themselves have no such reason.
const COUNTERS: [&str; 3] = [
    "TcpExtOfoPruned",
    "TcpExtTCPRcvQDrop",
    "TcpExtTCPBacklogDrop",
];

/// How many, by reason or counter.
type Sums = BTreeMap<String, u64>;

#[derive(Default)]
pub struct ReceiveBufferPruned {
    drops: ByServer<(), Sums>,
    counted: Subjects<BTreeMap<&'static str, u64>>,
}

fn all<K>(sums: &BTreeMap<K, u64>) -> u64 {
    sums.values().sum()
}

impl Rule for ReceiveBufferPruned {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.drops.servers.see(row);
        let reason = row.text("reason").unwrap_or_default();
        if row.is("tcpdrop", "drop") && REASONS.contains(&reason) {
            let segs = row.number("segs").unwrap_or(1);
            self.drops.add(row, &(), None, |sums| {
                *sums.entry(reason.to_owned()).or_default() += segs;
            });
        }
        let name = row.text("name").unwrap_or_default();
        let mut names = COUNTERS.into_iter().chain([CALLED]);
        if row.is("sockbuf", "counter")
            && let Some(name) = names.find(|counter| *counter == name)
            && let Some(sums) = self.counted.of(Subject::netns(row))
        {
            *sums.entry(name).or_default() += row.number("count").unwrap_or_default();
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let least = limits.of(&SEGMENTS);
        let server = |of: Of<'_, (), Sums>| {
            let next = format!("tcpdrop --reason {}{}", names(of.sum), flag(&of.subject));
            pruned(of.subject, of.sum, "receive buffer", seconds, next)
        };
        let many = self.drops.each().filter(|of| all(of.sum) as f64 >= least);
        let mut found: Vec<_> = many.map(server).collect();
        for (subject, counts) in self.counted.iter() {
            let called = counts.get(CALLED).copied().unwrap_or_default();
            let drops = all(counts) - called;
            let often = called as f64 >= limits.of(&TIMES) && drops > 0;
            let known = found.iter().any(|one| one.subject.netns == subject.netns);
            if known || !often && (drops as f64) < least {
                continue;
            }
            let counts = counts.iter().map(|(name, n)| ((*name).to_owned(), *n));
            let next = "sockbuf --summary=1s".to_owned();
            let mut one = pruned(
                subject.clone(),
                &counts.collect(),
                "receive buffers",
                seconds,
                next,
            );
            // The one of which something was seen to be dropped.
            let here = self
                .drops
                .each()
                .filter(|of| of.subject.netns == subject.netns);
            if let Some(most) = here.max_by_key(|of| all(of.sum)) {
                one.subject = most.subject;
            }
            found.push(one);
        }
        found
    }
}

fn names(sums: &Sums) -> String {
    sums.keys().cloned().collect::<Vec<_>>().join(",")
}

fn pruned(subject: Subject, sums: &Sums, what: &str, seconds: f64, next: String) -> Finding {
    let called = sums.get(CALLED).copied().unwrap_or_default();
    let drops = all(sums) - called;
    let told: Vec<_> = sums.iter().map(|(name, n)| format!("{name} {n}")).collect();
    Finding {
        kind: &KIND,
        severity: Severity::Warning,
        subject,
        text: format!(
            "{what} full, {drops} segments that had arrived dropped in {seconds:.0} s ({})",
            told.join(", ")
        ),
        evidence: vec![
            ("drops", Value::from(drops)),
            ("reasons", serde_json::json!(sums)),
        ],
        next,
        weight: drops as f64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn drops(reason: &str, count: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.9.0.2", "lport": 80, "raddr": "10.9.0.1", "rport": 40000, "segs": count,
            "reason": reason, "where": "tcp_data_queue", "comm": "slow", "pid": 4, "direction": "received",
        });
        row("tcpdrop", "drop", values)
    }

    fn counter(name: &str, count: u64) -> Row {
        let values = json!({ "netns": 1, "name": name, "count": count });
        row("sockbuf", "counter", values)
    }

    #[test]
    fn the_socket_is_named_if_it_is_known() {
        let rows = [drops("PROTO_MEM", 12), counter("TcpExtTCPRcvQDrop", 12)];
        let found = find::<ReceiveBufferPruned>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "slow (pid 4) on 10.9.0.2:80");
        let found = find::<ReceiveBufferPruned>(&rows[1..]);
        assert_eq!(found[0].subject.to_string(), "network namespace 1");
    }

    #[test]
    fn queues_without_room_are_found_if_data_were_dropped() {
        let rows = [
            counter("TcpExtPruneCalled", 13),
            counter("TcpExtTCPRcvQDrop", 1),
            drops("PROTO_MEM", 1),
        ];
        let found = find::<ReceiveBufferPruned>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "slow (pid 4) on 10.9.0.2:80");
        assert_eq!(
            one.text,
            "receive buffers full, 1 segments that had arrived dropped in 10 s (TcpExtPruneCalled 13, \
             TcpExtTCPRcvQDrop 1)"
        );
    }

    #[test]
    fn few_and_others_are_not() {
        assert!(find::<ReceiveBufferPruned>(&[drops("PROTO_MEM", 9)]).is_empty());
        assert!(find::<ReceiveBufferPruned>(&[drops("NETFILTER_DROP", 99)]).is_empty());
        // The queue was made smaller, and nothing was lost.
        let rows = [
            counter("TcpExtPruneCalled", 99),
            counter("TcpExtTCPRcvCollapsed", 99),
        ];
        assert!(find::<ReceiveBufferPruned>(&rows).is_empty());
    }
}
