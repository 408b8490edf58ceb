// SPDX-License-Identifier: MIT OR Apache-2.0
//! After each pause the congestion window begins anew, on a path on which that takes time.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::listening::Listening;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "idle_restart_sends",
    default: 3.0,
    unit: "sends that began with a small window after a pause",
    why: "After a pause that is an exception, it does not matter.",
};

const SHARE: Limit = Limit {
    name: "idle_restart_percent",
    default: 20.0,
    unit: "% of turns",
    why: "What most turns of a server do not have is no cause of their time.",
};

const MS: Limit = Limit {
    name: "idle_restart_ms",
    default: 5.0,
    unit: "ms of a round trip, the shortest of each connection, on average",
    why: "In a data centre some round trips more are nothing.",
};

pub const KIND: Kind = Kind {
    name: "idle_restart",
    what: "Large messages after a pause begin with a small congestion window each time.",
    explain: "A connection that has sent nothing for longer than its retransmission timeout loses its \
congestion window: the next message begins with the initial one (10 segments), and takes some round \
trips more than the one before (net.ipv4.tcp_slow_start_after_idle, on by default). On a long path \
kept-alive connections then are hardly faster than new ones.\n\
It is told from a loss, after which the window is small, too, by the congestion state, which is open, \
and from a new connection by the window that there has been. It is seen where a process sends and \
receives in turns (tcplat: restarts); BBR does not do it. A path with a short round trip is left \
out, as the time does not matter there.\n\
Set net.ipv4.tcp_slow_start_after_idle=0 on this host, if its path is not shared with what it could \
hurt, or send more often than the timeout.",
    limits: &[COUNT, SHARE, MS],
    effect_of: &["path_loss", "bufferbloat"],
};

#[derive(Default)]
struct Seen {
    turns: u64,
    restarts: u64,
    /// Of the turns in intervals with restarts, multiplied.
    rtt_us: u64,
    rtts: u64,
}

#[derive(Default)]
pub struct IdleRestart {
    of: Subjects<Seen>,
    listening: Listening,
}

impl Seen {
    fn rtt_us(&self) -> u64 {
        self.rtt_us.checked_div(self.rtts).unwrap_or_default()
    }
}

impl Rule for IdleRestart {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.listening.see(row);
        if !row.is("tcplat", "total") {
            return;
        }
        let server = match row.text("role") {
            Some("server") => Subject::listener(row),
            _ => Subject::destination(row),
        };
        let number = |key| row.number(key).unwrap_or_default();
        let (turns, restarts) = (number("turns"), number("restarts"));
        if server.server().is_none() {
            return;
        }
        let Some(seen) = self.of.of(server) else {
            return;
        };
        seen.turns += turns;
        seen.restarts += restarts;
        if let Some(rtt) = row.number("min_rtt_avg_us").filter(|_| restarts > 0) {
            seen.rtt_us += rtt * turns;
            seen.rtts += turns;
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let often = |seen: &Seen| {
            let percent = 100.0 * seen.restarts as f64 / seen.turns.max(1) as f64;
            seen.restarts as f64 >= limits.of(&COUNT)
                && percent >= limits.of(&SHARE)
                && seen.rtt_us() as f64 >= limits.of(&MS) * 1e3
        };
        let found = self.of.iter().filter(|(_, seen)| often(seen));
        found
            .map(|(server, seen)| {
                let subject = self.listening.with_process(server.clone());
                Finding {
                    kind: &KIND,
                    severity: Severity::Note,
                    text: format!(
                        "{} sends in {} turns in {time:.0} s began with a small congestion window \
                         after a pause, and need several round trips of {:.0} ms",
                        seen.restarts,
                        seen.turns,
                        seen.rtt_us() as f64 / 1e3
                    ),
                    evidence: vec![
                        ("restarts", Value::from(seen.restarts)),
                        ("turns", seen.turns.into()),
                        ("min_rtt_avg_us", seen.rtt_us().into()),
                    ],
                    next: match (subject.listener, subject.destination) {
                        (Some(at), _) => format!("tcplat --columns +restarts -L {}", at.port()),
                        (_, Some(to)) => format!("tcplat --columns +restarts -D {}", to.port()),
                        _ => "tcplat --columns +restarts".into(),
                    },
                    weight: seen.restarts as f64,
                    subject,
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

    fn total(turns: u64, restarts: u64, rtt_ms: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "web", "laddr": "10.0.0.1", "lport": 8080, "role": "server",
            "turns": turns, "restarts": restarts, "min_rtt_avg_us": rtt_ms * 1000,
        });
        row("tcplat", "total", values)
    }

    #[test]
    fn restarts_on_a_long_path_are_found() {
        let found = find::<IdleRestart>(&[total(4, 3, 40), total(3, 2, 40)]);
        assert_eq!(
            found[0].text,
            "5 sends in 7 turns in 10 s began with a small congestion window after a pause, and need \
             several round trips of 40 ms"
        );
        assert_eq!(found[0].next, "tcplat --columns +restarts -L 8080");
        assert_eq!(found[0].severity, Severity::Note);
    }

    #[test]
    fn few_rare_or_near_ones_are_not() {
        assert!(find::<IdleRestart>(&[total(4, 2, 40)]).is_empty());
        assert!(find::<IdleRestart>(&[total(400, 5, 40)]).is_empty());
        assert!(find::<IdleRestart>(&[total(5, 5, 1)]).is_empty());
    }
}
