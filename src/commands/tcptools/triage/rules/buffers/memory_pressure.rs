// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that are refused memory: the protocol's limit, the zone below it, or that of a memory cgroup.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::Subject;

const REFUSALS: Limit = Limit {
    name: "memory_pressure_refusals",
    default: 5.0,
    unit: "refusals by one limit",
    why: "The kernel tries again after it has made room: a few are met by that.",
};

pub const KIND: Kind = Kind {
    name: "memory_pressure",
    what: "Sockets get no more memory: the limit of TCP or UDP, or of a memory cgroup, is reached.",
    explain: "All sockets of a protocol on this host share a limit (net.ipv4.tcp_mem, net.ipv4.udp_mem, in \
pages), and those of a container that of its memory cgroup. At it, segments and datagrams are dropped, \
windows shrink, and sends wait.\n\
It is told from a full buffer of one socket (udp_overflow, receive_buffer_pruned) by the limit that \
refused: the tracepoint sock:sock_exceed_buf_limit is met at these limits only.\n\
Look for who holds the memory: tcptop --sort rmem_alloc_bytes --all, ss -m; mostly processes that do \
not read, or very many connections. Then raise the limit that is named.",
    limits: &[REFUSALS],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    count: u64,
    /// Of the process with most.
    most: u64,
    subject: Subject,
    limit: Option<u64>,
}

/// By what refused: protocol, cause, setting; of a cgroup, also by process.
type What = (String, String, String, Option<u64>);

#[derive(Default)]
pub struct MemoryPressure {
    by_limit: BTreeMap<What, Seen>,
    by_process: BTreeMap<(What, Subject), u64>,
}

const MOST: usize = 4096;

impl Rule for MemoryPressure {
    fn see(&mut self, row: &Row, _: &Limits) {
        if !row.is("sockbuf", "count") || row.text("kind") != Some("exceed_buf_limit") {
            return;
        }
        let text = |key| row.text(key).unwrap_or_default().to_owned();
        let proto = text("proto").replace("v6", "");
        let cause = text("cause");
        let group = row.number("pid").filter(|_| cause == "memcg");
        let what = (proto, cause, text("tune"), group);
        if self.by_process.len() >= MOST {
            return;
        }
        let count = row.number("count").unwrap_or_default();
        let subject = Subject::process(row);
        let mine = self.by_process.entry((what.clone(), subject.clone()));
        let mine = mine.or_default();
        *mine += count;
        let seen = self.by_limit.entry(what).or_default();
        seen.count += count;
        seen.limit = row.number("limit_bytes").or(seen.limit);
        if *mine > seen.most {
            (seen.most, seen.subject) = (*mine, subject);
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let many = |seen: &Seen| seen.count as f64 >= limits.of(&REFUSALS);
        let found = self.by_limit.iter().filter(|(_, seen)| many(seen));
        found
            .map(|((proto, cause, tune, _), seen)| {
                let place = match &**cause {
                    "mem_max" => format!("the limit of all {proto} sockets of this host is reached"),
                    "pressure" => format!("{proto} is under memory pressure on this host"),
                    _ => "its memory cgroup has no room for its sockets".to_owned(),
                };
                let lost = *cause != "pressure";
                Finding {
                    kind: &KIND,
                    severity: if lost { Severity::Critical } else { Severity::Warning },
                    subject: seen.subject.clone(),
                    text: format!(
                        "{place}: refused {} times in {seconds:.0} s, {} of them here; {tune} limits it",
                        seen.count, seen.most
                    ),
                    evidence: vec![
                        ("proto", Value::from(proto.clone())),
                        ("cause", cause.clone().into()),
                        ("count", seen.count.into()),
                        ("limit_bytes", seen.limit.into()),
                        ("tune", tune.clone().into()),
                    ],
                    next: "sockbuf -w".into(),
                    weight: seen.count as f64,
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

    fn refused(pid: u64, cause: &str, count: u64) -> Row {
        let values = json!({
            "netns": 1, "pid": pid, "comm": "hog", "kind": "exceed_buf_limit", "proto": "TCP", "cause": cause,
            "limit_bytes": 1 << 20, "count": count, "tune": "net.ipv4.tcp_mem",
        });
        row("sockbuf", "count", values)
    }

    #[test]
    fn the_process_with_most_is_named() {
        let found = find::<MemoryPressure>(&[refused(1, "mem_max", 3), refused(2, "mem_max", 7)]);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (one.subject.pid, one.severity),
            (Some(2), Severity::Critical)
        );
        assert_eq!(
            one.text,
            "the limit of all TCP sockets of this host is reached: refused 10 times in 10 s, 7 of them here; \
             net.ipv4.tcp_mem limits it"
        );
    }

    #[test]
    fn cgroups_are_apart_and_few_refusals_are_not() {
        let found = find::<MemoryPressure>(&[refused(1, "memcg", 30), refused(2, "memcg", 40)]);
        assert_eq!(found.len(), 2);
        assert!(find::<MemoryPressure>(&[refused(1, "pressure", 4)]).is_empty());
    }
}
