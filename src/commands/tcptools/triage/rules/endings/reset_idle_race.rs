// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server closes kept-alive connections just as their clients use them.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::endings::ends::{Ends, filter};
use crate::commands::tcptools::triage::rules::listening::servers_first;
use crate::commands::tcptools::triage::rules::looks::count;

const COUNT: Limit = Limit {
    name: "reset_idle_race_resets",
    default: 2.0,
    unit: "resets of a server",
    why: "A server that is restarted closes all its connections once.",
};

const MS: Limit = Limit {
    name: "reset_idle_race_ms",
    default: 300.0,
    unit: "ms without data before the server closed, or of a connection's age",
    why: "A server that closes in the middle of an upload has had data a moment ago.",
};

pub const KIND: Kind = Kind {
    name: "reset_idle_race",
    what: "A server closes idle connections just as their clients send the next request.",
    explain: "The server's idle timeout (keepalive_timeout) is shorter than the client's or the \
balancer's. Its FIN and the client's request cross on the way: the request arrives at a socket that \
is closed, and the server's kernel answers with a reset. The client cannot know whether the request \
was done; its proxy says 502. The longer the round trip, the more often.\n\
It is told from a server that refuses a request by the silence before the close, which is as long \
as the timeout each time; from a crash by the FIN, which comes first; and from the farewell of TLS, \
which a closed server answers with a reset, too, by the port, or by a FIN that is not acknowledged.\n\
Let the client, or the balancer, close idle connections earlier than the server does: its timeout \
must be the shorter one. Repeating a request on a new connection is safe only if it is idempotent.",
    limits: &[COUNT, MS],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    resets: u64,
    /// The shortest and the longest silence before, where this end is the server's.
    idle_us: Option<(u64, u64)>,
}

#[derive(Default)]
pub struct ResetIdleRace(Ends<Seen>);

/// Ports of TLS: its farewell (close_notify) to a server that has closed is answered by a reset, and harmless.
const TLS: [u64; 8] = [443, 465, 636, 853, 993, 995, 6443, 8443];

fn is_tls(row: &Row, port: &str) -> bool {
    row.number(port).is_some_and(|port| TLS.contains(&port))
}

/// At the server: data for a connection that it had closed, after it had been idle.
fn at_server(row: &Row, least_us: f64) -> bool {
    let idle = row.number("idle_us").unwrap_or_default() as f64;
    let data = row.text("trigger_flags").is_some_and(|f| f.contains("PSH"));
    match row.text("reason") {
        // In FIN_WAIT1 the other end does not know yet: the two have crossed.
        Some("TCP_ABORT_ON_DATA") => {
            let crossed = row.text("state") == Some("FIN_WAIT1");
            idle >= least_us && (crossed || !is_tls(row, "lport"))
        }
        // The kernel keeps less of it: not how long it was idle.
        Some("TCP_TIMEWAIT_SOCKET") => data && !is_tls(row, "lport"),
        _ => false,
    }
}

/// At the client: the FIN had come when the reset does, which answers what was sent.
fn at_client(row: &Row, least_us: f64) -> bool {
    let number = |key| row.number(key).unwrap_or_default();
    let closed = matches!(row.text("state"), Some("CLOSE_WAIT" | "LAST_ACK"));
    let used = number("rx_bytes") > 0 && number("age_us") as f64 >= least_us;
    closed && used && !is_tls(row, "rport")
}

impl Rule for ResetIdleRace {
    fn see(&mut self, row: &Row, limits: &Limits) {
        let Some(reset) = self.0.see(row) else { return };
        let least_us = limits.of(&MS) * 1e3;
        let idle = row.number("idle_us");
        if reset.served && reset.sent && at_server(row, least_us) {
            if let Some(idle) = idle {
                let (low, high) = reset.seen.idle_us.unwrap_or((idle, idle));
                reset.seen.idle_us = Some((low.min(idle), high.max(idle)));
            }
        } else if reset.served || reset.sent || !at_client(row, least_us) {
            return;
        }
        reset.seen.resets += 1;
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let all = self.0.iter();
        let often = all.filter(|(_, ended)| ended.seen.resets as f64 >= limits.of(&COUNT));
        let found = often.map(|(subject, ended)| {
            let Seen { resets, idle_us } = ended.seen;
            let silence = match idle_us {
                Some((low, high)) => format!(
                    ", which had been idle for {:.1} to {:.1} s",
                    low as f64 / 1e6,
                    high as f64 / 1e6
                ),
                None => ", whose FIN crossed the request".into(),
            };
            Finding {
                kind: &KIND,
                severity: Severity::Critical,
                text: format!(
                    "{} of {} that ended in {time:.0} s: a request came as the server closed the \
                     connection{silence}",
                    count(resets, "reset"),
                    count(ended.total(resets), "connection")
                ),
                evidence: vec![
                    ("resets", Value::from(resets)),
                    ("ended", ended.total(resets).into()),
                    ("idle_us", idle_us.map(|(_, high)| high).into()),
                    ("idle_us_least", idle_us.map(|(low, _)| low).into()),
                ],
                next: format!("tcpreset --columns +idle{}", filter(&subject)),
                weight: resets as f64,
                subject,
            }
        });
        servers_first(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn server(rport: u64, reason: &str, idle_ms: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.0.0.1", "lport": 3000, "raddr": "10.0.0.2", "rport": rport,
            "direction": "sent", "reason": reason, "state": "FIN_WAIT2", "idle_us": idle_ms * 1000,
        });
        row("tcpreset", "reset", values)
    }

    fn client(lport: u64, state: &str, age_ms: u64) -> Row {
        let values = json!({
            "netns": 2, "comm": "haproxy", "pid": 7, "laddr": "10.0.0.2", "lport": lport,
            "raddr": "10.0.0.1", "rport": 3000, "direction": "received", "state": state,
            "rx_bytes": 19, "age_us": age_ms * 1000, "idle_us": 40_000,
        });
        row("tcpreset", "reset", values)
    }

    #[test]
    fn requests_to_closed_connections_are_found_at_either_end() {
        let servers = [
            server(1, "TCP_ABORT_ON_DATA", 1000),
            server(2, "TCP_ABORT_ON_DATA", 1010),
        ];
        // Ports of clients are high.
        let clients = [
            client(40_001, "CLOSE_WAIT", 1040),
            client(40_002, "CLOSE_WAIT", 1050),
        ];
        let found = find::<ResetIdleRace>(&clients);
        assert_eq!(
            found[0].subject.to_string(),
            "haproxy (pid 7) to 10.0.0.1:3000"
        );
        assert_eq!(
            found[0].text,
            "2 resets of 2 connections that ended in 10 s: a request came as the server closed the \
             connection, whose FIN crossed the request"
        );
        let listener = json!({ "netns": 1, "comm": "node", "pid": 9, "lport": 3000 });
        let mut both = vec![row("tcpaccept", "listener", listener)];
        both.extend(clients.into_iter().chain(servers));
        let found = find::<ResetIdleRace>(&both);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "node (pid 9) on 10.0.0.1:3000");
        assert!(
            one.text.ends_with("had been idle for 1.0 to 1.0 s"),
            "{}",
            one.text
        );
    }

    #[test]
    fn one_reset_busy_connections_and_others_are_not() {
        for (a, b) in [
            (server(40_001, "TCP_ABORT_ON_DATA", 1000), None),
            (
                server(40_001, "TCP_ABORT_ON_DATA", 20),
                Some(server(40_002, "TCP_ABORT_ON_DATA", 20)),
            ),
            (
                server(40_001, "TCP_ABORT_ON_CLOSE", 1000),
                Some(server(40_002, "TCP_STATE", 1000)),
            ),
            (
                client(40_001, "FIN_WAIT1", 1040),
                Some(client(40_002, "CLOSE_WAIT", 20)),
            ),
        ] {
            let rows: Vec<_> = [a].into_iter().chain(b).collect();
            assert!(find::<ResetIdleRace>(&rows).is_empty(), "{rows:?}");
        }
    }
}
