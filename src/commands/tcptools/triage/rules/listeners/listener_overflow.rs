// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener whose accept queue is full: new connections are dropped.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const DROPS: Limit = Limit {
    name: "listener_overflow_drops",
    default: 3.0,
    unit: "segments",
    why: "One drop is a burst, which the client's next SYN survives.",
};

pub const KIND: Kind = Kind {
    name: "listener_overflow",
    what: "A listener's accept queue is full, and the kernel drops connections.",
    explain: "The server does not call accept() as fast as connections come, or the backlog that it \
gave to listen() is smaller than a burst of them. Clients see slow opens (the SYN is sent again \
after 1 s, 3 s, 7 s) or time out.\n\
It is told from a firewall by the kernel's own count of drops at this listener, and from a SYN \
flood by the accept queue, which is full of connections whose handshake is done.\n\
If accepts per second are near zero, look at what the server does: it hangs, or has no free \
worker. If they are many, raise the backlog and net.core.somaxconn, the lower of which counts.",
    limits: &[DROPS],
    effect_of: &["listener_not_accepting"],
};

#[derive(Default)]
struct Seen {
    drops: u64,
    accepts: u64,
    queue: u64,
    queue_max: u64,
}

#[derive(Default)]
pub struct ListenerOverflow(Subjects<Seen>);

impl Rule for ListenerOverflow {
    fn see(&mut self, row: &Row, _: &Limits) {
        if !row.is("tcpaccept", "listener") {
            return;
        }
        let Some(seen) = self.0.of(Subject::listener(row)) else {
            return;
        };
        let number = |key| row.number(key).unwrap_or_default();
        // Of the interval: the first look has what was counted since listen(), long ago perhaps.
        if row.number("interval_us").is_some() {
            seen.drops += number("drops");
            seen.accepts += number("accepts");
        }
        seen.queue = seen
            .queue
            .max(number("accept_queue_high"))
            .max(number("accept_queue"));
        seen.queue_max = number("accept_queue_max");
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let full =
            |seen: &Seen| seen.drops as f64 >= limits.of(&DROPS) && seen.queue > seen.queue_max;
        let found = self.0.iter().filter(|(_, seen)| full(seen));
        found
            .map(|(subject, seen)| Finding {
                kind: &KIND,
                severity: Severity::Critical,
                subject: subject.clone(),
                text: format!(
                    "accept queue full ({} of {}), {} drops and {} accepts in {seconds:.0} s",
                    seen.queue, seen.queue_max, seen.drops, seen.accepts
                ),
                evidence: vec![
                    ("drops", Value::from(seen.drops)),
                    ("accepts", seen.accepts.into()),
                    ("accept_queue_high", seen.queue.into()),
                    ("accept_queue_max", seen.queue_max.into()),
                ],
                next: match subject.listener {
                    Some(at) => format!("tcpaccept --listeners=1s -L {}", at.port()),
                    None => "tcpaccept --listeners=1s".into(),
                },
                weight: seen.drops as f64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn listener(drops: u64, queue: u64) -> Row {
        let values = json!({
            "interval_us": 2_000_000, "netns": 1, "comm": "slowapp", "pid": 7,
            "laddr": "10.0.0.1", "lport": 8080, "accepts": 5, "drops": drops,
            "accept_queue": queue, "accept_queue_high": queue, "accept_queue_max": 4,
        });
        row("tcpaccept", "listener", values)
    }

    #[test]
    fn a_full_queue_that_drops_is_found() {
        let found = find::<ListenerOverflow>(&[listener(10, 5), listener(7, 5)]);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.evidence[0], ("drops", 17.into()));
        assert_eq!(one.subject.to_string(), "slowapp (pid 7) on 10.0.0.1:8080");
        assert_eq!(one.next, "tcpaccept --listeners=1s -L 8080");
    }

    #[test]
    fn a_burst_or_drops_of_another_cause_are_not() {
        assert!(find::<ListenerOverflow>(&[listener(1, 5)]).is_empty());
        assert!(find::<ListenerOverflow>(&[listener(50, 1)]).is_empty());
    }
}
