// SPDX-License-Identifier: MIT OR Apache-2.0
//! Round trips that are slow because the sender itself has filled a queue on the way.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::flag;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const MS: Limit = Limit {
    name: "bufferbloat_ms",
    default: 40.0,
    unit: "ms in the queue (srtt less the shortest round trip)",
    why: "A call or a shell beside it begins to suffer; a busy host alone adds a few ms.",
};

const RATIO: Limit = Limit {
    name: "bufferbloat_ratio",
    default: 3.0,
    unit: "times the shortest round trip",
    why: "One of a queue as long as the path is what TCP needs.",
};

const LOOKS: Limit = Limit {
    name: "bufferbloat_looks",
    default: 2.0,
    unit: "looks, and half of those at which it sent much",
    why: "A queue fills up for a moment when a transfer begins.",
};

pub const KIND: Kind = Kind {
    name: "bufferbloat",
    what: "A transfer fills a long queue on the way, and everything beside it waits in the queue, too.",
    explain: "The round-trip time of a connection that sends much is far above its shortest one: its \
segments wait in a queue at the slowest link, which is too long, and so do those of others that take \
the same way. Nothing need be lost.\n\
It is told from a long path by the shortest round trip, which is short; from a slow server, or one \
that delays its acknowledgements, by the load: what is sent in a round trip is many segments, and \
they are in flight. If the queue overflows, the loss is reported here, not as path_loss.\n\
If the slowest link is this host's (tc -s qdisc), use fq_codel or cake, and a limit below the link's \
rate. Otherwise limit the transfer: its rate (SO_MAX_PACING_RATE, --bwlimit), or its congestion \
control (bbr).",
    limits: &[MS, RATIO, LOOKS],
    effect_of: &["dropped_here"],
};

/// So many segments in the queue are load; fewer are a request.
const QUEUED: f64 = 10.0;

#[derive(Default)]
struct Seen {
    /// At which it sent much, and of these, at which round trips were slow.
    loaded: u64,
    slow: u64,
    /// Of the slowest one.
    srtt_us: u64,
    min_rtt_us: u64,
    tx_bytes_per_s: f64,
    queue_bytes: f64,
    raddr: String,
}

#[derive(Default)]
pub struct Bufferbloat(Subjects<Seen>);

/// The server, and the process; without the client's end.
pub fn server(row: &Row) -> Subject {
    match row.flag("active_open") {
        Some(false) => Subject::listener(row),
        _ => Subject::destination(row),
    }
}

impl Rule for Bufferbloat {
    fn see(&mut self, row: &Row, limits: &Limits) {
        if !row.is("tcptop", "connection") {
            return;
        }
        let number = |key| row.number(key).unwrap_or_default();
        let (srtt_us, min_us) = (number("srtt_us"), number("min_rtt_us"));
        if srtt_us == 0 || min_us == 0 || row.flag("closed") == Some(true) {
            return;
        }
        let queued_us = srtt_us.saturating_sub(min_us) as f64;
        let per_s = row.float("tx_bytes_per_s").unwrap_or_default();
        let queue_bytes = per_s * queued_us / 1e6;
        let mss = number("mss").max(500) as f64;
        let in_flight = number("packets_out") as f64;
        // What came in the time that a segment waits is what is in front of it.
        let loaded = per_s * srtt_us as f64 / 1e6 >= QUEUED * mss && in_flight >= QUEUED;
        let Some(seen) = loaded.then(|| self.0.of(server(row))).flatten() else {
            return;
        };
        seen.loaded += 1;
        let slow = queued_us >= limits.of(&MS) * 1000.0
            && srtt_us as f64 >= limits.of(&RATIO) * min_us as f64;
        seen.slow += u64::from(slow);
        if slow && srtt_us > seen.srtt_us {
            (seen.srtt_us, seen.min_rtt_us) = (srtt_us, min_us);
            (seen.tx_bytes_per_s, seen.queue_bytes) = (per_s, queue_bytes);
            row.text("raddr")
                .unwrap_or_default()
                .clone_into(&mut seen.raddr);
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let is =
            |seen: &Seen| seen.slow as f64 >= limits.of(&LOOKS) && seen.slow * 2 >= seen.loaded;
        let found = self.0.iter().filter(|(_, seen)| is(seen));
        found
            .map(|(subject, seen)| Finding {
                kind: &KIND,
                severity: Severity::Warning,
                subject: subject.clone(),
                text: format!(
                    "round trips to {} take {:.0} ms under load, {:.1} ms without: {:.0} KB wait in a queue \
                     on the way, sent at {:.1} Mbit/s",
                    seen.raddr,
                    seen.srtt_us as f64 / 1000.0,
                    seen.min_rtt_us as f64 / 1000.0,
                    seen.queue_bytes / 1000.0,
                    seen.tx_bytes_per_s * 8.0 / 1e6
                ),
                evidence: vec![
                    ("srtt_us", Value::from(seen.srtt_us)),
                    ("min_rtt_us", seen.min_rtt_us.into()),
                    ("tx_bytes_per_s", seen.tx_bytes_per_s.into()),
                    ("queue_bytes", (seen.queue_bytes as u64).into()),
                    ("raddr", seen.raddr.clone().into()),
                ],
                next: format!("tcpprobe --interval 500ms -w{}", flag(subject)),
                weight: seen.queue_bytes,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn look(srtt_us: u64, min_rtt_us: u64, tx_bytes_per_s: f64, packets_out: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "backup", "pid": 3, "laddr": "10.0.0.1", "lport": 40000,
            "raddr": "10.0.0.2", "rport": 5001, "active_open": true, "mss": 1448, "packets_out": packets_out,
            "srtt_us": srtt_us, "min_rtt_us": min_rtt_us, "tx_bytes_per_s": tx_bytes_per_s,
        });
        row("tcptop", "connection", values)
    }

    #[test]
    fn a_full_queue_is_found() {
        let full = look(410_000, 200, 1e6, 280);
        let found = find::<Bufferbloat>(&[look(90_000, 200, 1e6, 100), full.clone(), full]);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "backup (pid 3) to 10.0.0.2:5001");
        assert_eq!(
            one.text,
            "round trips to 10.0.0.2 take 410 ms under load, 0.2 ms without: 410 KB wait in a queue on the \
             way, sent at 8.0 Mbit/s"
        );
    }

    #[test]
    fn long_paths_delayed_acks_and_busy_hosts_are_not() {
        let not = |one: Row| assert!(find::<Bufferbloat>(&[one.clone(), one]).is_empty());
        not(look(410_000, 300_000, 1e7, 2000));
        not(look(41_000, 50, 800.0, 1));
        not(look(9000, 20, 1e9, 700));
        assert!(find::<Bufferbloat>(&[look(410_000, 200, 1e6, 280)]).is_empty());
    }
}
