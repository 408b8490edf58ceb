// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listeners that share a port, one of which has most of the connections.

use std::collections::BTreeMap;

use serde_json::Value;

use super::look::{Look, watch};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::Subject;

const FACTOR: Limit = Limit {
    name: "reuseport_imbalance_factor",
    default: 1.8,
    unit: "times its even share of the connections",
    why: "The kernel deals them out by a hash, which is even within a few percent.",
};

const SIGMAS: Limit = Limit {
    name: "reuseport_imbalance_sigmas",
    default: 5.0,
    unit: "standard deviations above its even share",
    why: "Few connections are uneven by chance.",
};

pub const KIND: Kind = Kind {
    name: "reuseport_imbalance",
    what: "Of the listeners that share a port, one has most of the connections, or cannot take its own.",
    explain: "With SO_REUSEPORT each worker has a listener of its own, and the kernel chooses one by a \
hash of the addresses and ports. It does not look at the queues: connections of a worker that is \
slow or hangs wait or are dropped, while others are idle.\n\
Uneven numbers come from a program that chooses (SO_ATTACH_REUSEPORT_CBPF, SO_INCOMING_CPU), from \
few clients that use few ports, or from listeners bound to different addresses. A worker whose \
queue alone is full has a long task, or a leaked listener has no worker any more (a descriptor that \
a child has inherited).\n\
Look at the queues of all of them. Restart or fix the worker that is behind; close listeners that \
nobody serves.",
    limits: &[FACTOR, SIGMAS],
    effect_of: &[],
};

#[derive(Default)]
struct Member {
    subject: Subject,
    opens: u64,
    drops: u64,
    queue: u64,
    queue_max: u64,
    /// Looks at which it took nothing, though one waited.
    stuck: u64,
}

/// Listeners of one group, by their cookies.
type Group = BTreeMap<u64, Member>;

/// Groups, and members of each, that are kept.
const MOST: usize = 1024;

/// By namespace and port: the group's number may change with its members.
#[derive(Default)]
pub struct ReuseportImbalance(BTreeMap<(Option<u64>, u64, u64), Group>);

impl Rule for ReuseportImbalance {
    fn see(&mut self, row: &Row, _: &Limits) {
        let (Some(look), Some(group)) = (Look::of(row), row.number("reuseport_group")) else {
            return;
        };
        let (Some(cookie), Some(port)) = (row.number("cookie"), row.number("lport")) else {
            return;
        };
        let key = (row.number("netns"), port, group);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return;
        }
        let group = self.0.entry(key).or_default();
        if group.len() >= MOST && !group.contains_key(&cookie) {
            return;
        }
        let member = group.entry(cookie).or_default();
        member.subject = Subject::listener(row);
        member.opens += look.opens;
        member.drops += look.drops;
        member.queue = member.queue.max(look.waited_most);
        member.queue_max = look.waiting_max.unwrap_or_default();
        member.stuck += u64::from(row.text("verdict") == Some("not accepting"));
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let groups = self.0.values().filter(|group| group.len() > 1);
        groups
            .filter_map(|group| crowded(group, limits, seconds).or_else(|| behind(group)))
            .collect()
    }
}

/// One gets far more than the others.
fn crowded(group: &Group, limits: &Limits, seconds: f64) -> Option<Finding> {
    let all: u64 = group.values().map(|member| member.opens).sum();
    let even = all as f64 / group.len() as f64;
    let busiest = group.values().max_by_key(|member| member.opens)?;
    let more = busiest.opens as f64 - even;
    if more < limits.of(&SIGMAS) * even.sqrt()
        || (busiest.opens as f64) < limits.of(&FACTOR) * even
        || all == 0
    {
        return None;
    }
    let percent = 100.0 * busiest.opens as f64 / all as f64;
    // Uneven is no harm as long as it keeps up.
    let harms = busiest.drops > 0 || 2 * busiest.queue > busiest.queue_max.max(2);
    let severity = match harms {
        true => Severity::Warning,
        false => Severity::Note,
    };
    let text = format!(
        "it gets {percent:.0} % of {all} connections in {seconds:.0} s, one of {} listeners that share \
         the port; its accept queue had {} of {}",
        group.len(),
        busiest.queue,
        busiest.queue_max
    );
    Some(finding(busiest, group, all, severity, text))
}

/// One's queue is full, or does not move, and another's has room.
fn behind(group: &Group) -> Option<Finding> {
    let is_behind =
        |member: &&Member| member.drops > 0 && member.queue > member.queue_max || member.stuck > 1;
    let idle = group
        .values()
        .filter(|member| member.stuck == 0 && 2 * member.queue <= member.queue_max.max(2))
        .count();
    let worst = group.values().filter(is_behind);
    let worst = worst.max_by_key(|member| (member.drops, member.queue))?;
    if idle == 0 {
        return None;
    }
    let all = group.values().map(|member| member.opens).sum();
    let text = format!(
        "its accept queue has {} of {}, and {} connections were dropped, while {idle} of the {} \
         listeners that share the port have room",
        worst.queue,
        worst.queue_max,
        worst.drops,
        group.len()
    );
    Some(finding(worst, group, all, Severity::Warning, text))
}

fn finding(member: &Member, group: &Group, all: u64, severity: Severity, text: String) -> Finding {
    Finding {
        kind: &KIND,
        severity,
        subject: member.subject.clone(),
        text,
        evidence: vec![
            ("accepts", Value::from(member.opens)),
            ("accepts_of_all", all.into()),
            ("reuseport", group.len().into()),
            ("drops", member.drops.into()),
            ("accept_queue_high", member.queue.into()),
            ("accept_queue_max", member.queue_max.into()),
        ],
        next: watch(&member.subject),
        weight: (member.opens + member.drops) as f64,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn look(cookie: u64, opens: u64, queue: u64, more: Value) -> Row {
        let mut values = json!({
            "interval_us": 2_000_000, "netns": 1, "cookie": cookie, "comm": "worker",
            "pid": 100 + cookie, "laddr": "0.0.0.0", "lport": 80, "accepts": opens,
            "accept_queue": queue, "accept_queue_max": 8, "drops_per_s": 0.0, "reuseport": 4,
            "reuseport_group": 1, "verdict": null,
        });
        values
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row("tcpaccept", "listener", values)
    }

    #[test]
    fn one_that_gets_nearly_all_is_found() {
        let rows = [(1, 190), (2, 3), (3, 4), (4, 3)].map(|(id, n)| look(id, n, 2, json!({})));
        let found = find::<ReuseportImbalance>(&rows);
        assert!(
            found[0]
                .text
                .starts_with("it gets 95 % of 200 connections in 10 s")
        );
        assert_eq!(
            (found[0].severity, found[0].subject.pid),
            (Severity::Note, Some(101))
        );
    }

    #[test]
    fn chance_is_not() {
        let rows = [(1, 60), (2, 40), (3, 52), (4, 48)].map(|(id, n)| look(id, n, 2, json!({})));
        assert!(find::<ReuseportImbalance>(&rows).is_empty());
        let few = [(1, 4), (2, 0), (3, 0), (4, 0)].map(|(id, n)| look(id, n, 2, json!({})));
        assert!(find::<ReuseportImbalance>(&few).is_empty());
    }

    #[test]
    fn one_that_is_behind_alone_is_found() {
        let full = json!({ "drops_per_s": 4.0, "verdict": "full" });
        let mut rows: Vec<_> = (2..5).map(|id| look(id, 20, 1, json!({}))).collect();
        rows.push(look(1, 20, 9, full.clone()));
        let found = find::<ReuseportImbalance>(&rows);
        assert_eq!(
            (found[0].severity, found[0].subject.pid),
            (Severity::Warning, Some(101))
        );
        // All of them: the service is slow.
        let rows: Vec<_> = (1..5).map(|id| look(id, 20, 9, full.clone())).collect();
        assert!(find::<ReuseportImbalance>(&rows).is_empty());
    }

    #[test]
    fn a_listener_alone_is_not() {
        assert!(find::<ReuseportImbalance>(&[look(1, 500, 2, json!({}))]).is_empty());
    }
}
