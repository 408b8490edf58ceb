// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nagle's algorithm against delayed acknowledgements: each small write waits for up to 40 ms.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::looks::{Looks, group, why};
use crate::commands::tcptools::triage::subject::Subjects;

const LOOKS: Limit = Limit {
    name: "nagle_delay_looks",
    default: 2.0,
    unit: "looks that find data held back",
    why: "The last, small segment of any transfer waits for a moment.",
};

const MS: Limit = Limit {
    name: "nagle_delay_ms",
    default: 8.0,
    unit: "ms by which the average round trip is above the shortest",
    why: "Every second acknowledgement is late by 40 ms. On a long path all of them are, and waiting is no delay of the receiver's.",
};

pub const KIND: Kind = Kind {
    name: "nagle_delay",
    what: "Small writes wait for acknowledgements that the other end delays.",
    explain: "The program writes a request or an answer in two pieces. The first one is sent at \
once; the second one is less than a segment, and Nagle's algorithm holds it back until the first \
is acknowledged. The other end has nothing to answer yet, and delays its acknowledgement by 40 ms, \
to send it with data. Each turn takes 40 ms, on a path of whatever speed.\n\
It is told from a slow server by the unsent bytes, which tcptop sees wait (nagle), and from a long \
path by the shortest round trip, which is far below the average. A stream that goes one way only \
is not found: nobody waits for it.\n\
Write the whole message with one call (writev(), a buffer), or set TCP_NODELAY on this end's \
socket. net.ipv4.tcp_autocorking does not matter here.",
    limits: &[LOOKS, MS],
    effect_of: &["path_loss", "no_answer", "bufferbloat"],
};

#[derive(Default)]
struct Seen {
    looks: Looks,
    srtt_us: u64,
    min_rtt_us: u64,
}

#[derive(Default)]
pub struct NagleDelay(Subjects<Seen>);

impl Rule for NagleDelay {
    fn see(&mut self, row: &Row, limits: &Limits) {
        let seen = row.is("tcptop", "stalled") || row.is("tcptop", "connection");
        if !seen || !why(row, "nagle") {
            return;
        }
        let number = |key| row.number(key);
        let (Some(srtt), Some(min)) = (number("srtt_us"), number("min_rtt_us")) else {
            return;
        };
        let asks = row.number("tx_bytes") > Some(0) && row.number("rx_bytes") > Some(0);
        let late = srtt.saturating_sub(min) as f64 >= limits.of(&MS) * 1e3;
        if !asks || !late {
            return;
        }
        if let Some(seen) = self.0.of(group(row)) {
            seen.looks.see(row, number("why_us").unwrap_or_default());
            (seen.srtt_us, seen.min_rtt_us) = (srtt, min);
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let often = |seen: &Seen| seen.looks.looks as f64 >= limits.of(&LOOKS);
        let found = self.0.iter().filter(|(_, seen)| often(seen));
        found
            .map(|(group, seen)| Finding {
                kind: &KIND,
                severity: Severity::Warning,
                subject: seen.looks.subject(group),
                text: format!(
                    "small writes wait for delayed acknowledgements, seen {} times in {time:.0} s; \
                     round trip {:.1} ms, the shortest {:.1} ms",
                    seen.looks.looks,
                    seen.srtt_us as f64 / 1e3,
                    seen.min_rtt_us as f64 / 1e3
                ),
                evidence: vec![
                    ("looks", Value::from(seen.looks.looks)),
                    ("connections", seen.looks.now.into()),
                    ("srtt_us", seen.srtt_us.into()),
                    ("min_rtt_us", seen.min_rtt_us.into()),
                    ("nodelay", false.into()),
                ],
                next: format!("tcptop --stalled -b -i 200ms{}", seen.looks.filter(group)),
                weight: seen.looks.looks as f64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{at, find};

    fn held(second: f64, why: &str, srtt: u64, min: u64, rx: u64) -> Row {
        let values = json!({
            "comm": "rpc", "pid": 7, "laddr": "10.0.0.1", "lport": 40_000, "raddr": "10.0.0.2",
            "rport": 80, "active_open": true, "why": why, "why_us": 20_000, "srtt_us": srtt,
            "min_rtt_us": min, "tx_bytes": 900, "rx_bytes": rx,
        });
        let event = if second.fract() == 0.0 {
            "stalled"
        } else {
            "connection"
        };
        at(second, "tcptop", event, values)
    }

    #[test]
    fn small_writes_that_wait_are_found() {
        let rows = [
            held(1.0, "nagle", 19_000, 40, 300),
            held(2.5, "nagle", 21_000, 40, 300),
        ];
        let found = find::<NagleDelay>(&rows);
        assert_eq!(
            found[0].text,
            "small writes wait for delayed acknowledgements, seen 2 times in 10 s; \
             round trip 21.0 ms, the shortest 0.0 ms"
        );
    }

    #[test]
    fn one_look_a_long_path_and_a_stream_are_not() {
        let twice =
            |why, srtt, min, rx| [held(1.0, why, srtt, min, rx), held(2.0, why, srtt, min, rx)];
        assert!(find::<NagleDelay>(&twice("nagle", 21_000, 40, 300)[..1]).is_empty());
        assert!(find::<NagleDelay>(&twice("nagle", 81_000, 80_000, 300)).is_empty());
        assert!(find::<NagleDelay>(&twice("nagle", 21_000, 40, 0)).is_empty());
        assert!(find::<NagleDelay>(&twice("cork", 21_000, 40, 300)).is_empty());
        assert!(find::<NagleDelay>(&twice("nagle", 60, 40, 300)).is_empty());
    }
}
