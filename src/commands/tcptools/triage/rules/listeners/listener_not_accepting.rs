// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener from which nobody takes connections: the server hangs.

use serde_json::Value;

use super::look::{Look, watch};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const SECONDS: Limit = Limit {
    name: "listener_not_accepting_seconds",
    default: 2.0,
    unit: "s without accept() while a connection waits",
    why: "A server that is busy calls it again within a request.",
};

const CONNECTIONS: Limit = Limit {
    name: "listener_not_accepting_connections",
    default: 3.0,
    unit: "waiting connections",
    why: "From here on it is critical, and so it is if connections are dropped; one may wait for \
a server that takes one at a time.",
};

pub const KIND: Kind = Kind {
    name: "listener_not_accepting",
    what: "Connections wait for accept(), and the server takes none.",
    explain: "Handshakes are completed by the kernel, so that clients are connected and get no \
answer, until the accept queue is full; then new ones time out. The process is stopped, hangs in a \
lock or a disk, has used up its descriptors (EMFILE), or all its workers are busy for long.\n\
It is told from an overflow (listener_overflow) by its queue, the first of which is the same at \
each look: a server that is only slow takes one now and then.\n\
Look at what the process does: its state and stack (ps, gdb, py-spy, jstack), its descriptors \
against its limit (ls /proc/PID/fd | wc -l), its log.",
    limits: &[SECONDS, CONNECTIONS],
    effect_of: &[],
};

/// Times without accept(): each a run of looks.
#[derive(Default)]
struct Seen {
    /// The run that goes on, and its last look.
    now_us: u64,
    last_ns: u64,
    /// The two longest that are over.
    longest_us: u64,
    second_us: u64,
    interval_us: u64,
    waiting: u64,
    waiting_max: u64,
    oldest_us: u64,
    drops: u64,
    group: u64,
}

#[derive(Default)]
pub struct ListenerNotAccepting(Subjects<Seen>);

impl Rule for ListenerNotAccepting {
    fn see(&mut self, row: &Row, _: &Limits) {
        let Some(look) = Look::of(row) else {
            return;
        };
        if row.text("verdict") != Some("not accepting") {
            return;
        }
        // Listeners that share the port hang one by one.
        let subject = Subject {
            cookie: row.number("cookie"),
            ..Subject::listener(row)
        };
        let Some(seen) = self.0.of(subject) else {
            return;
        };
        seen.add(row, &look);
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let hangs = |seen: &Seen| {
            let (longest, second) = seen.runs();
            let least = limits.of(&SECONDS) * 1e6;
            // One that takes a connection now and then has several runs of about one length. One look is a moment.
            longest as f64 >= least && longest >= 2 * second.max(seen.interval_us)
        };
        let found = self.0.iter().filter(|(_, seen)| hangs(seen));
        found
            .map(|(subject, seen)| {
                let many = seen.waiting as f64 >= limits.of(&CONNECTIONS);
                let severity = match many || seen.drops > 0 {
                    true => Severity::Critical,
                    false => Severity::Warning,
                };
                Finding {
                    kind: &KIND,
                    severity,
                    subject: Subject {
                        cookie: None,
                        ..subject.clone()
                    },
                    text: seen.text(),
                    evidence: vec![
                        ("accept_queue", Value::from(seen.waiting)),
                        ("accept_queue_max", seen.waiting_max.into()),
                        ("oldest_wait_us", seen.oldest_us.into()),
                        ("drops", seen.drops.into()),
                        ("duration_us", seen.runs().0.into()),
                    ],
                    next: watch(subject),
                    weight: (seen.waiting + seen.drops) as f64,
                }
            })
            .collect()
    }
}

impl Seen {
    fn add(&mut self, row: &Row, look: &Look) {
        // The look before is one interval older, and not in the run if it had another verdict.
        let gap_us = row.boot_ns().saturating_sub(self.last_ns) / 1000;
        if self.last_ns != 0 && gap_us > look.interval_us * 3 / 2 {
            (self.longest_us, self.second_us) = self.runs();
            self.now_us = 0;
        }
        self.last_ns = row.boot_ns();
        self.now_us += look.interval_us;
        self.interval_us = look.interval_us;
        self.waiting = self.waiting.max(look.waiting);
        self.waiting_max = look.waiting_max.unwrap_or_default();
        let oldest = row.number("oldest_wait_us").unwrap_or_default();
        self.oldest_us = self.oldest_us.max(oldest);
        self.drops += look.drops;
        self.group = row.number("reuseport").unwrap_or_default();
    }

    /// The longest, and the one after it.
    fn runs(&self) -> (u64, u64) {
        if self.now_us > self.longest_us {
            (self.now_us, self.longest_us)
        } else {
            (self.longest_us, self.second_us.max(self.now_us))
        }
    }

    fn text(&self) -> String {
        let others = match self.group {
            0 | 1 => String::new(),
            n => format!("; one of {n} listeners that share the port"),
        };
        let wait = match self.waiting {
            1 => "1 connection waits".to_owned(),
            n => format!("{n} connections wait"),
        };
        format!(
            "no accept() for {:.0} s, {wait} (of {}), the oldest for {:.0} s, {} drops{others}",
            self.runs().0 as f64 / 1e6,
            self.waiting_max,
            self.oldest_us as f64 / 1e6,
            self.drops
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    /// A look at this second, of the two seconds before.
    fn look(second: u64, waiting: u64, drops: u64, verdict: &str) -> Row {
        let values = json!({
            "boot_ns": second * 1_000_000_000, "interval_us": 2_000_000, "netns": 1, "cookie": 5,
            "comm": "billing", "pid": 9, "laddr": "::", "lport": 8082, "verdict": verdict,
            "accept_queue": waiting, "accept_queue_max": 4, "drops_per_s": drops as f64 / 2.0,
            "oldest_wait_us": 9_000_000,
        });
        row("tcpaccept", "listener", values)
    }

    #[test]
    fn a_queue_that_does_not_move_is_found() {
        let looks = [2, 4, 6].map(|second| look(second, 5, 3, "not accepting"));
        let found = find::<ListenerNotAccepting>(&looks);
        assert_eq!(
            found[0].text,
            "no accept() for 6 s, 5 connections wait (of 4), the oldest for 9 s, 9 drops"
        );
        assert_eq!(found[0].severity, Severity::Critical);
        assert_eq!(found[0].subject.to_string(), "billing (pid 9) on [::]:8082");
    }

    #[test]
    fn one_that_waits_is_a_warning() {
        let looks = [2, 4].map(|second| look(second, 1, 0, "not accepting"));
        let found = find::<ListenerNotAccepting>(&looks);
        assert_eq!(found[0].severity, Severity::Warning);
    }

    #[test]
    fn a_server_that_takes_one_now_and_then_is_not() {
        let once = [look(2, 5, 3, "not accepting"), look(4, 5, 3, "full")];
        assert!(find::<ListenerNotAccepting>(&once).is_empty());
        let slow = [2, 4, 8, 10].map(|second| look(second, 5, 3, "not accepting"));
        assert!(find::<ListenerNotAccepting>(&slow).is_empty());
    }

    #[test]
    fn one_that_hung_and_has_recovered_is_found() {
        let looks = [2, 4, 6, 8, 20].map(|second| look(second, 5, 0, "not accepting"));
        let found = find::<ListenerNotAccepting>(&looks);
        assert_eq!(found[0].evidence[4], ("duration_us", 8_000_000.into()));
    }
}
