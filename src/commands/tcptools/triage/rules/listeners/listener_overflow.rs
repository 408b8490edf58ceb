// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener whose accept queue is full: new connections are dropped.

use serde_json::Value;

use super::look::{Look, watch};
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

const PERCENT: Limit = Limit {
    name: "listener_overflow_percent",
    default: 1.0,
    unit: "% of what came",
    why: "From here on it is critical; a rare burst is a warning.",
};

pub const KIND: Kind = Kind {
    name: "listener_overflow",
    what: "A listener's accept queue is full, and the kernel drops connections.",
    explain: "The server does not call accept() as fast as connections come, or the backlog that it \
gave to listen() is smaller than a burst of them. Clients see slow opens (the SYN is sent again \
after 1 s, 3 s, 7 s) or time out.\n\
It is told from a firewall by the kernel's own count of drops at this listener, from a SYN flood by \
the accept queue, which is full of connections whose handshake is done, and from a server that \
hangs (listener_not_accepting) by a queue that moves.\n\
If the server has no free worker, look at what its workers do (tcplat shows how long requests \
take). If it answers fast and bursts are large, raise the backlog of listen() and \
net.core.somaxconn, the lower of which counts.",
    limits: &[DROPS, PERCENT],
    effect_of: &["listener_not_accepting"],
};

#[derive(Default)]
struct Seen {
    drops: u64,
    opens: u64,
    queue: u64,
    queue_max: u64,
    group: u64,
}

#[derive(Default)]
pub struct ListenerOverflow(Subjects<Seen>);

impl Rule for ListenerOverflow {
    fn see(&mut self, row: &Row, _: &Limits) {
        let Some(look) = Look::of(row) else {
            return;
        };
        // Room is for those in trouble: a host may have thousands.
        if look.drops == 0 && !look.was_full() {
            return;
        }
        let Some(seen) = self.0.of(Subject::listener(row)) else {
            return;
        };
        seen.opens += look.opens;
        // Those of another look are of another cause.
        if look.was_full() {
            seen.drops += look.drops;
            seen.queue = seen.queue.max(look.waited_most);
            seen.queue_max = look.waiting_max.unwrap_or_default();
        }
        seen.group = row.number("reuseport").unwrap_or_default();
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let found = self
            .0
            .iter()
            .filter(|(_, seen)| seen.drops as f64 >= limits.of(&DROPS));
        found
            .map(|(subject, seen)| Finding {
                kind: &KIND,
                severity: seen.severity(limits),
                subject: subject.clone(),
                text: seen.text(seconds),
                evidence: vec![
                    ("drops", Value::from(seen.drops)),
                    ("accepts", seen.opens.into()),
                    ("accept_queue_high", seen.queue.into()),
                    ("accept_queue_max", seen.queue_max.into()),
                ],
                next: watch(subject),
                weight: seen.drops as f64,
            })
            .collect()
    }
}

impl Seen {
    fn severity(&self, limits: &Limits) -> Severity {
        let percent = 100.0 * self.drops as f64 / (self.drops + self.opens) as f64;
        if percent >= limits.of(&PERCENT) {
            Severity::Critical
        } else {
            Severity::Warning
        }
    }

    fn text(&self, seconds: f64) -> String {
        let Self {
            queue,
            queue_max,
            drops,
            opens,
            group,
        } = self;
        let others = match group {
            0 | 1 => String::new(),
            n => format!("; one of {n} listeners that share the port"),
        };
        format!(
            "accept queue full ({queue} of {queue_max}), {drops} drops and {opens} completed \
             handshakes in {seconds:.0} s{others}"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn listener(drops: u64, queue: u64, opens: u64) -> Row {
        let values = json!({
            "interval_us": 2_000_000, "netns": 1, "comm": "slowapp", "pid": 7,
            "laddr": "10.0.0.1", "lport": 8080, "accepts": opens,
            "drops": 1_000_000 + drops, "drops_per_s": drops as f64 / 2.0,
            "accept_queue": queue, "accept_queue_high": queue, "accept_queue_max": 4,
        });
        row("tcpaccept", "listener", values)
    }

    #[test]
    fn a_full_queue_that_drops_is_found() {
        let found = find::<ListenerOverflow>(&[listener(10, 5, 5), listener(7, 5, 5)]);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.evidence[0], ("drops", 17.into()));
        assert_eq!(one.severity, Severity::Critical);
        assert_eq!(one.subject.to_string(), "slowapp (pid 7) on 10.0.0.1:8080");
        assert_eq!(one.next, "tcpaccept --listeners=1s -w -L 8080");
    }

    #[test]
    fn a_rare_burst_of_a_busy_server_is_a_warning() {
        let found = find::<ListenerOverflow>(&[listener(5, 5, 100_000)]);
        assert_eq!(found[0].severity, Severity::Warning);
    }

    #[test]
    fn a_single_drop_or_drops_of_another_cause_are_not() {
        assert!(find::<ListenerOverflow>(&[listener(1, 5, 5)]).is_empty());
        assert!(find::<ListenerOverflow>(&[listener(50, 1, 5)]).is_empty());
    }

    #[test]
    fn a_full_queue_of_before_is_not() {
        assert!(find::<ListenerOverflow>(&[listener(0, 4, 100)]).is_empty());
    }
}
