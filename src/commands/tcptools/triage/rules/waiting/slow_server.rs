// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that take long to answer: this host's, or those that its clients wait for.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::listening::{Listening, servers_first};
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const MS: Limit = Limit {
    name: "slow_server_ms",
    default: 100.0,
    unit: "ms for a turn",
    why: "What people notice; a healthy server takes less for most.",
};

const TURNS: Limit = Limit {
    name: "slow_server_turns",
    default: 5.0,
    unit: "turns that take so long",
    why: "A process waits for its turn now and then.",
};

const SHARE: Limit = Limit {
    name: "slow_server_percent",
    default: 8.0,
    unit: "% of all turns",
    why: "Any server has some requests that need more. Percentiles tell of an interval that a tenth or half of its turns are slow.",
};

const LONGEST: Limit = Limit {
    name: "slow_server_longest_ms",
    default: 2000.0,
    unit: "ms for a turn: longer ones are waits",
    why: "A long poll, or a push that nobody asked for just then, is answered when something happens.",
};

pub const KIND: Kind = Kind {
    name: "slow_server",
    what: "A server takes long to answer, and it is not the network.",
    explain: "A turn is from the last byte of a request to the first of its answer. At a server of \
this host it is the application's (app: it had read the request, and worked or waited for another \
server), or data lay unread (read: the process was busy with others, or accepted late). At a client \
of this host it is what remains when the network's round trip is taken off (peer).\n\
It is told from the network by the round trips of the same connections, and by segments that were \
sent again. It is told from waits that are meant, as long polls, by their length only: turns of more \
than two seconds are taken for waits, unless the request lay unread. Connections that are pushed to \
(websockets) have no turns, but may look as if they had.\n\
If it is app, look at what the process waits for: triage may have found that server, too. If it is \
read, it has too few workers or threads, or they hang.",
    limits: &[MS, TURNS, SHARE, LONGEST],
    effect_of: &[
        "listener_not_accepting",
        "listener_overflow",
        "mtu_black_hole",
        "no_answer",
        "path_loss",
        "bufferbloat",
        "peer_window_zero",
        "reader_stalled",
        "memory_pressure",
        "receive_buffer_pruned",
    ],
};

#[derive(Default)]
struct Seen {
    turns: u64,
    /// At least so many of them were slow.
    slow: u64,
    /// The longest of the percentiles that are slow, and the longest turn.
    typical_us: u64,
    max_us: u64,
    /// In slow intervals: where the time went.
    app_us: u64,
    read_us: u64,
    network_us: u64,
    peer_us: u64,
}

#[derive(Default)]
pub struct SlowServer {
    of: Subjects<Seen>,
    listening: Listening,
}

/// Turns of an interval that took at least as long as one of its percentiles, which is slow.
fn slow(row: &Row, limits: &Limits) -> Option<(u64, u64)> {
    let number = |key| row.number(key).unwrap_or_default();
    let (app, read) = (number("app_us"), number("read_us"));
    let (network, peer) = (number("network_us"), number("peer_us"));
    let turns = number("turns");
    // What the way takes is no time of the server: not the shortest one only, as a queue may be longer now.
    let way = match row.text("role") {
        Some("client") => number("srtt_avg_us"),
        _ => 0,
    };
    let waits_unread = read > app.max(peer);
    if network > app.max(read).max(peer) {
        return None;
    }
    let least = way as f64 + limits.of(&MS) * 1e3;
    let longest = limits.of(&LONGEST) * 1e3;
    [50, 90].into_iter().find_map(|percent| {
        let us = number(if percent == 50 { "p50_us" } else { "p90_us" });
        // A server's turn begins when the request was read.
        let us = if waits_unread && way == 0 {
            us.max(read / turns.max(1))
        } else {
            us
        };
        let is_slow = us as f64 >= least && (us as f64 <= longest || waits_unread);
        is_slow.then(|| (turns - (turns * percent).div_ceil(100) + 1, us))
    })
}

impl SlowServer {
    fn total(&mut self, row: &Row, limits: &Limits) {
        let server = match row.text("role") {
            Some("server") => Subject::listener(row),
            Some("client") => Subject::destination(row),
            _ => return,
        };
        if server.server().is_none() {
            return;
        }
        let Some(seen) = self.of.of(server) else {
            return;
        };
        let number = |key| row.number(key).unwrap_or_default();
        seen.turns += number("turns");
        if let Some((slow, us)) = slow(row, limits) {
            seen.slow += slow;
            seen.typical_us = seen.typical_us.max(us);
            seen.max_us = seen.max_us.max(number("max_us"));
            seen.app_us += number("app_us");
            seen.read_us += number("read_us");
            seen.network_us += number("network_us");
            seen.peer_us += number("peer_us");
        }
    }
}

impl Seen {
    fn finding(&self, subject: Subject, time: f64) -> Finding {
        let parts = [
            ("app", self.app_us, "in the application"),
            ("read", self.read_us, "until it was read"),
            ("peer", self.peer_us, "at the other end"),
        ];
        let largest = parts.iter().max_by_key(|(_, us, _)| *us);
        let (place, _, place_text) = largest.copied().unwrap_or_default();
        let all: u64 = self.network_us + parts.iter().map(|(_, us, _)| us).sum::<u64>();
        let of_all = |us: u64| 100 * us / all.max(1);
        let at = parts.iter().find(|(name, ..)| *name == place);
        let share = of_all(at.map_or(0, |(_, us, _)| *us));
        Finding {
            kind: &KIND,
            severity: Severity::Warning,
            text: format!(
                "at least {} of {} turns in {time:.0} s took {:.0} ms or more, {share} % of the \
                 time {place_text}, {} % in the network",
                self.slow,
                self.turns,
                self.typical_us as f64 / 1e3,
                of_all(self.network_us)
            ),
            evidence: vec![
                ("turns", Value::from(self.turns)),
                ("slow_turns", self.slow.into()),
                ("slow_us", self.typical_us.into()),
                ("max_us", self.max_us.into()),
                ("where", place.into()),
                ("app_us", self.app_us.into()),
                ("read_us", self.read_us.into()),
                ("network_us", self.network_us.into()),
                ("peer_us", self.peer_us.into()),
            ],
            next: match (subject.listener, subject.destination) {
                (Some(at), _) => format!("tcplat --min-ms 100 -L {}", at.port()),
                (_, Some(to)) => format!("tcplat --min-ms 100 -D {}", to.port()),
                _ => "tcplat --min-ms 100".into(),
            },
            weight: self.slow as f64,
            subject,
        }
    }
}

impl Rule for SlowServer {
    fn see(&mut self, row: &Row, limits: &Limits) {
        self.listening.see(row);
        if row.is("tcplat", "total") {
            self.total(row, limits);
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            let percent = 100.0 * seen.slow as f64 / seen.turns.max(1) as f64;
            seen.slow as f64 >= limits.of(&TURNS) && percent >= limits.of(&SHARE)
        };
        let found = self.of.iter().filter(|(_, seen)| often(seen));
        let found = found.map(|(server, seen)| {
            let subject = self.listening.with_process(server.clone());
            seen.finding(subject, time)
        });
        servers_first(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    /// An interval of a server: turns, percentiles in ms, and what is not of the application.
    fn server(turns: u64, p50: u64, p90: u64, read_ms: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "api", "laddr": "10.0.0.1", "lport": 8080, "role": "server",
            "turns": turns, "p50_us": p50 * 1000, "p90_us": p90 * 1000, "max_us": p90 * 1100,
            "app_us": turns * (p50 + p90) * 500, "read_us": read_ms * 1000,
        });
        row("tcplat", "total", values)
    }

    fn client(p50: u64, p90: u64, srtt: u64, network: u64, peer: u64) -> Row {
        let values = json!({
            "netns": 2, "comm": "web", "raddr": "10.0.0.1", "rport": 8080, "role": "client",
            "turns": 40, "p50_us": p50 * 1000, "p90_us": p90 * 1000, "max_us": p90 * 1100,
            "srtt_avg_us": srtt * 1000, "network_us": network * 1000, "peer_us": peer * 1000,
            "read_us": 0,
        });
        row("tcplat", "total", values)
    }

    #[test]
    fn server_whose_application_is_slow_is_found_once() {
        let listener = json!({ "netns": 1, "pid": 7, "comm": "api", "lport": 8080 });
        let rows = [
            row("tcpaccept", "listener", listener),
            server(40, 1, 300, 5),
            client(1, 300, 1, 40, 3000),
        ];
        let found = find::<SlowServer>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            one.text,
            "at least 5 of 40 turns in 10 s took 300 ms or more, 99 % of the time in the \
             application, 0 % in the network"
        );
        assert_eq!(one.subject.to_string(), "api (pid 7) on 10.0.0.1:8080");
        assert_eq!(one.next, "tcplat --min-ms 100 -L 8080");
    }

    #[test]
    fn slow_other_end_is_found_by_its_client() {
        let found = find::<SlowServer>(&[client(150, 300, 1, 40, 3000)]);
        assert_eq!(found[0].subject.to_string(), "web to 10.0.0.1:8080");
        assert_eq!(found[0].evidence[1].1, 21);
    }

    #[test]
    fn requests_that_lie_unread_are_found_however_short_the_turns() {
        assert_eq!(
            find::<SlowServer>(&[server(20, 2, 5, 9000)])[0].evidence[4].1,
            "read"
        );
    }

    #[test]
    fn fast_rare_far_and_waiting_ones_are_not() {
        for rows in [
            vec![server(40, 1, 20, 5)],
            vec![server(4, 300, 300, 0)],
            vec![server(40, 5000, 9000, 0)],
            vec![client(3000, 3000, 1, 40, 100_000)],
            vec![client(110, 250, 200, 2000, 9000)],
            vec![client(150, 300, 90, 9000, 300)],
            [vec![server(40, 1, 300, 0)], vec![server(900, 1, 2, 0); 3]].concat(),
        ] {
            assert!(find::<SlowServer>(&rows).is_empty(), "{rows:?}");
        }
    }
}
