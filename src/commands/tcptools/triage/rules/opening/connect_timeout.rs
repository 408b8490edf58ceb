// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens without an answer: the SYN is lost, or its answer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dropped::{Dropped, Drops};
use super::opens::{client, count, merge, percent, tcpconnect};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "connect_timeout_count",
    default: 2.0,
    unit: "opens",
    why: "One lost SYN is normal; a second open that gets no answer is not.",
};

const SECONDS: Limit = Limit {
    name: "connect_timeout_seconds",
    default: 3.0,
    unit: "s without an answer",
    why: "So long, one open is enough: its SYN was sent three times.",
};

const SHARE: Limit = Limit {
    name: "connect_timeout_percent",
    default: 20.0,
    unit: "% of a program's opens to that port",
    why: "Fewer are a path that loses (slow_handshake).",
};

const RUN: Limit = Limit {
    name: "connect_timeout_run",
    default: 3.0,
    unit: "opens one after the other",
    why: "So many without an answer in between are a server that is gone, however many it has \
answered before.",
};

pub const KIND: Kind = Kind {
    name: "connect_timeout",
    what: "Connections are not answered: the SYN, or the answer to it, is lost.",
    explain: "A firewall or a security group drops the SYN, the address belongs to nobody, the host is \
down, or the way back is broken. connect() waits for its timeout, which is more than two minutes \
unless the program has one of its own; such opens are counted while they wait.\n\
It is told from a refusal (connect_refused, connect_unreachable) by the silence, from a slow path \
(slow_handshake) by opens that never end well, and from a full accept queue (listener_overflow) of \
a server on this host by its listener, which is then shown instead.\n\
If this host drops the segments itself, the finding says where and why. Otherwise capture on the \
server: does the SYN arrive (then its answer is lost), or not? Look at the firewalls in between.",
    limits: &[COUNT, SECONDS, SHARE, RUN],
    effect_of: &["listener_not_accepting", "listener_overflow", "syn_flood"],
};

/// An open that its program ended without an answer, though no SYN was sent again yet: no shorter timeout is usual.
const GAVE_UP_US: u64 = 500_000;

#[derive(Default)]
struct Seen {
    /// Ended without an answer, and ended.
    unanswered: u64,
    opens: u64,
    /// Without an answer since the last answer.
    run: u64,
    /// The longest that one has waited, and that one still waits.
    longest_us: u64,
    syns: u64,
}

/// An open that waits.
struct Waiting {
    client: Subject,
    us: u64,
    syns: u64,
}

/// Waiting opens that are kept.
const MOST: usize = 4096;

#[derive(Default)]
pub struct ConnectTimeout {
    clients: Subjects<Seen>,
    waiting: BTreeMap<u64, Waiting>,
    drops: Drops,
}

impl Rule for ConnectTimeout {
    fn see(&mut self, row: &Row, _: &Limits) {
        match (row.tool(), row.event()) {
            ("tcpconnect", "connect") => self.end(row),
            ("tcpconnect", "pending") => self.wait(row),
            ("tcpstates", "active") => self.still_waits(row),
            ("tcpdrop", "drop") => self.drops.see(row),
            _ => {}
        }
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let mut still: BTreeMap<&Subject, Vec<&Waiting>> = BTreeMap::new();
        for one in self.waiting.values() {
            still.entry(&one.client).or_default().push(one);
        }
        let found = self.clients.iter().filter_map(|(subject, seen)| {
            let waiting = still.get(subject).map_or(&[][..], |all| all);
            let all = seen.with(waiting);
            let dropped = self.drops.of(subject.destination);
            all.is_found(limits)
                .then(|| all.finding(subject, waiting.len() as u64, dropped, seconds))
        });
        merge(found.collect())
    }
}

impl ConnectTimeout {
    fn end(&mut self, row: &Row) {
        let latency_us = row.number("latency_us").unwrap_or_default();
        let retrans = row.number("syn_retrans").unwrap_or_default();
        let waited = row
            .number("cookie")
            .and_then(|cookie| self.waiting.remove(&cookie));
        let Some(seen) = self.clients.of(client(row)) else {
            return;
        };
        seen.opens += 1;
        match row.text("outcome") {
            Some("timeout") => {}
            Some("aborted") if waited.is_some() || retrans > 0 || latency_us >= GAVE_UP_US => {}
            // The program has changed its mind, or there is no port.
            Some("aborted" | "no_port") => return,
            _ => {
                seen.run = 0;
                return;
            }
        }
        let waited_us = waited.map_or(0, |waited| waited.us);
        seen.unanswered += 1;
        seen.run += 1;
        seen.longest_us = seen.longest_us.max(latency_us).max(waited_us);
        seen.syns += 1 + retrans;
    }

    fn wait(&mut self, row: &Row) {
        let client = client(row);
        // Its opens may all wait.
        if self.clients.of(client.clone()).is_none() || self.waiting.len() >= MOST {
            return;
        }
        if let Some(cookie) = row.number("cookie") {
            let waiting = Waiting {
                client,
                us: row.number("latency_us").unwrap_or_default(),
                syns: 1 + row.number("syn_retrans").unwrap_or_default(),
            };
            self.waiting.insert(cookie, waiting);
        }
    }

    /// A later look at one that is known to wait.
    fn still_waits(&mut self, row: &Row) {
        if row.text("state") != Some("SYN_SENT") {
            return;
        }
        let waiting = row
            .number("cookie")
            .and_then(|cookie| self.waiting.get_mut(&cookie));
        if let (Some(waiting), Some(us)) = (waiting, row.number("in_state_us")) {
            waiting.us = waiting.us.max(us);
        }
    }
}

impl Seen {
    /// And those that wait.
    fn with(&self, waiting: &[&Waiting]) -> Self {
        let more = waiting.len() as u64;
        let longest = waiting.iter().map(|one| one.us).max().unwrap_or_default();
        Self {
            unanswered: self.unanswered + more,
            opens: self.opens + more,
            run: self.run + more,
            longest_us: self.longest_us.max(longest),
            syns: self.syns + waiting.iter().map(|one| one.syns).sum::<u64>(),
        }
    }

    fn is_found(&self, limits: &Limits) -> bool {
        let many = self.unanswered as f64 >= limits.of(&COUNT)
            || self.unanswered > 0 && self.longest_us as f64 >= limits.of(&SECONDS) * 1e6;
        let often = percent(self.unanswered, self.opens) >= limits.of(&SHARE);
        many && (often || self.run as f64 >= limits.of(&RUN))
    }

    fn finding(
        &self,
        subject: &Subject,
        waiting: u64,
        dropped: Option<&Dropped>,
        seconds: f64,
    ) -> Finding {
        let mut text = format!(
            "{} of {} not answered in {seconds:.0} s ({waiting} still waiting), the longest for {:.1} s",
            self.unanswered,
            count(self.opens, "open"),
            self.longest_us as f64 / 1e6
        );
        let mut evidence = vec![
            ("unanswered", Value::from(self.unanswered)),
            ("opens", self.opens.into()),
            ("pending", waiting.into()),
            ("latency_us", self.longest_us.into()),
            ("syns", self.syns.into()),
        ];
        let mut next = tcpconnect("--failed", subject);
        if let Some(dropped) = dropped {
            text += &dropped.text();
            evidence.extend(dropped.evidence());
            if let Some(to) = subject.destination {
                next = format!("tcpdrop --port {}", to.port());
            }
        }
        Finding {
            kind: &KIND,
            severity: Severity::Critical,
            subject: subject.clone(),
            text,
            evidence,
            next,
            weight: self.unanswered as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn with(more: Value) -> Value {
        let mut values = json!({
            "comm": "sdk", "pid": 5, "raddr": "10.0.0.2", "rport": 80, "syn_retrans": 0,
        });
        values
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        values
    }

    fn end(cookie: u64, outcome: &str, us: u64) -> Row {
        let more = json!({
            "cookie": cookie, "outcome": outcome, "latency_us": us,
            "syn_retrans": us / 1_000_000,
        });
        row("tcpconnect", "connect", with(more))
    }

    fn pending(cookie: u64) -> Row {
        let more = json!({ "cookie": cookie, "outcome": "pending", "latency_us": 1_100_000 });
        row("tcpconnect", "pending", with(more))
    }

    fn syn_sent(cookie: u64, us: u64) -> Row {
        let more = json!({ "cookie": cookie, "state": "SYN_SENT", "in_state_us": us });
        row("tcpstates", "active", with(more))
    }

    fn dropped(flags: &str, direction: &str) -> Row {
        let values = json!({
            "netns": 8, "netns_name": "srv", "laddr": "10.0.0.2", "lport": 80, "raddr": "10.0.0.1",
            "rport": 4000, "flags": flags, "direction": direction, "reason": "NETFILTER_DROP",
            "where": "nft_do_chain",
        });
        row("tcpdrop", "drop", values)
    }

    #[test]
    fn opens_that_the_program_gave_up_are_found() {
        let rows = [
            pending(1),
            end(1, "aborted", 2_500_000),
            end(2, "timeout", 2_500_000),
        ];
        let found = find::<ConnectTimeout>(&rows);
        assert_eq!(
            found[0].text,
            "2 of 2 opens not answered in 10 s (0 still waiting), the longest for 2.5 s"
        );
        assert_eq!(found[0].subject.to_string(), "sdk to 10.0.0.2:80");
    }

    #[test]
    fn opens_that_wait_are_found() {
        let rows = [pending(1), pending(2), syn_sent(2, 7_000_000)];
        let found = find::<ConnectTimeout>(&rows);
        assert_eq!(
            found[0].text,
            "2 of 2 opens not answered in 10 s (2 still waiting), the longest for 7.0 s"
        );
        // One alone, after its third SYN.
        let one = [pending(1), syn_sent(1, 4_000_000)];
        assert_eq!(find::<ConnectTimeout>(&one).len(), 1);
        assert!(find::<ConnectTimeout>(&[pending(1)]).is_empty());
    }

    #[test]
    fn it_says_where_this_host_drops() {
        for drop in [dropped("SYN", "received"), dropped("SYN|ACK", "sent")] {
            let found = find::<ConnectTimeout>(&[pending(1), drop, pending(2)]);
            let ends = "itself: NETFILTER_DROP in nft_do_chain, netns srv";
            assert!(found[0].text.ends_with(ends), "{}", found[0].text);
            assert_eq!(found[0].next, "tcpdrop --port 80");
        }
        let found = find::<ConnectTimeout>(&[pending(1), dropped("ACK", "received"), pending(2)]);
        assert_eq!(found[0].next, "tcpconnect --failed -P 80");
    }

    #[test]
    fn a_server_that_is_gone_is_found_after_many_good_opens() {
        let mut rows: Vec<_> = (10..1000).map(|n| end(n, "established", 100)).collect();
        rows.extend([pending(1), pending(2), pending(3)]);
        assert_eq!(find::<ConnectTimeout>(&rows).len(), 1);
    }

    #[test]
    fn slow_opens_refusals_and_changed_minds_are_not() {
        let slow = [1, 2, 3].map(|n| [pending(n), end(n, "established", 1_050_000)]);
        assert!(find::<ConnectTimeout>(slow.as_flattened()).is_empty());
        let other = [
            end(1, "refused", 90),
            end(2, "aborted", 250_000),
            end(3, "aborted", 10),
        ];
        assert!(find::<ConnectTimeout>(&other).is_empty());
        let mut rare: Vec<_> = (10..100).map(|n| end(n, "established", 100)).collect();
        rare.extend([
            pending(1),
            end(1, "aborted", 2_000_000),
            end(5, "established", 100),
        ]);
        rare.extend([pending(2), end(2, "aborted", 2_000_000)]);
        assert!(find::<ConnectTimeout>(&rare).is_empty());
    }
}
