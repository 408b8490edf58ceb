// SPDX-License-Identifier: MIT OR Apache-2.0
//! Senders that mostly wait for the other end's receive window.

use std::collections::BTreeMap;

use serde_json::Value;

use super::bufferbloat::server;
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::flag;
use crate::commands::tcptools::triage::subject::Subject;

const PERCENT: Limit = Limit {
    name: "rwnd_limited_percent",
    default: 30.0,
    unit: "% of the time in which there was something to send",
    why: "What limits most is what to change; the kernel's clock does not count pauses of pacing.",
};

const SECONDS: Limit = Limit {
    name: "rwnd_limited_seconds",
    default: 1.0,
    unit: "s of waiting for the window",
    why: "A window grows while a transfer begins.",
};

const RATE: Limit = Limit {
    name: "rwnd_limited_mbit",
    default: 40.0,
    unit: "Mbit/s, above which it is fast enough, unless the path is long",
    why: "Over a short path the reader sets the pace of every fast transfer.",
};

pub const KIND: Kind = Kind {
    name: "rwnd_limited",
    what: "A transfer is slow because the receive window of the other end is too small.",
    explain: "The sender has data, and the network would take them, but all that the receiver's window \
allows is in flight. The other end reads slowly, or its buffer is smaller than what fits into a round \
trip: window / round trip is the highest rate.\n\
It is told from a slow network, which limits by the congestion window, by the kernel's own clock \
(rwnd_limited of ss -ti); from peer_window_zero by the window, which stays open; from a fast local \
transfer, which waits for its reader as a matter of course, by its rate and round trip.\n\
At the receiver: do not set SO_RCVBUF, which ends the kernel's own tuning; raise net.ipv4.tcp_rmem; \
check that window scaling is not lost on the way (ss -ti: wscale). tcprcvspace there shows the buffer \
as it grows; tcptop --stalled whether the process reads.",
    limits: &[PERCENT, SECONDS, RATE],
    effect_of: &[
        "peer_window_zero",
        "reader_stalled",
        "receive_buffer_pruned",
    ],
};

/// How many connections are remembered.
const MOST: usize = 4096;

/// A path is long from here on: a window of 64 KB allows 100 Mbit/s.
const LONG_US: u64 = 5000;

/// Of a connection: the kernel's clocks at the first look, and how far they went.
struct Seen {
    subject: Subject,
    base: (u64, u64),
    busy_us: u64,
    limited_us: u64,
    tx_bytes: u64,
    window: u64,
    min_rtt_us: u64,
    srtt_us: u64,
    /// Looks, and those at which all that the window allows was in flight, and more was there to send.
    looks: u64,
    full: u64,
    raddr: String,
}

#[derive(Default)]
pub struct RwndLimited(BTreeMap<u64, Seen>);

impl Seen {
    fn new(row: &Row, clocks: (u64, u64)) -> Self {
        let number = |key| row.number(key).unwrap_or_default();
        // What it did before this host was looked at does not count.
        let fresh = number("age_us") <= number("interval_us") && row.flag("partial") != Some(true);
        Self {
            subject: server(row),
            base: if fresh { (0, 0) } else { clocks },
            busy_us: 0,
            limited_us: 0,
            tx_bytes: 0,
            window: 0,
            min_rtt_us: u64::MAX,
            srtt_us: 0,
            looks: 0,
            full: 0,
            raddr: row.text("raddr").unwrap_or_default().to_owned(),
        }
    }

    fn mbit(&self) -> f64 {
        self.tx_bytes as f64 * 8.0 / self.busy_us.max(1) as f64
    }

    fn percent(&self) -> f64 {
        100.0 * self.limited_us as f64 / self.busy_us.max(1) as f64
    }
}

impl Rule for RwndLimited {
    fn see(&mut self, row: &Row, _: &Limits) {
        if !row.is("tcptop", "connection") {
            return;
        }
        let number = |key| row.number(key).unwrap_or_default();
        let Some(cookie) = row.number("cookie") else {
            return;
        };
        let clocks = (number("busy_time_us"), number("rwnd_limited_us"));
        let known = self.0.contains_key(&cookie);
        if !known && self.0.len() >= MOST {
            return;
        }
        let seen = self
            .0
            .entry(cookie)
            .or_insert_with(|| Seen::new(row, clocks));
        seen.busy_us = clocks.0.saturating_sub(seen.base.0);
        seen.limited_us = clocks.1.saturating_sub(seen.base.1);
        if known || seen.base == (0, 0) {
            seen.tx_bytes += number("tx_bytes");
        }
        seen.window = seen.window.max(number("snd_wnd_bytes"));
        if let Some(us) = row.number("min_rtt_us") {
            seen.min_rtt_us = seen.min_rtt_us.min(us);
        }
        seen.srtt_us = number("srtt_us");
        let (mss, window) = (number("mss"), number("snd_wnd_bytes"));
        let full = number("packets_out") * mss + mss > window && number("notsent_bytes") > 0;
        seen.looks += 1;
        seen.full += u64::from(full);
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let mut worst: BTreeMap<&Subject, (&Seen, u64)> = BTreeMap::new();
        for seen in self.0.values() {
            let long = seen.min_rtt_us != u64::MAX && seen.min_rtt_us >= LONG_US;
            let is = seen.percent() >= limits.of(&PERCENT)
                && seen.limited_us as f64 >= limits.of(&SECONDS) * 1e6
                && seen.full * 2 >= seen.looks
                && (long || seen.mbit() < limits.of(&RATE));
            if !is {
                continue;
            }
            let entry = worst.entry(&seen.subject).or_insert((seen, 0));
            entry.1 += 1;
            if seen.limited_us > entry.0.limited_us {
                entry.0 = seen;
            }
        }
        let found = worst.into_iter();
        found
            .map(|(subject, (seen, connections))| Finding {
                kind: &KIND,
                severity: Severity::Warning,
                subject: subject.clone(),
                text: text(seen, connections),
                evidence: vec![
                    ("connections", Value::from(connections)),
                    ("rwnd_limited_us", seen.limited_us.into()),
                    ("busy_time_us", seen.busy_us.into()),
                    ("snd_wnd_bytes", seen.window.into()),
                    ("srtt_us", seen.srtt_us.into()),
                    ("tx_bytes", seen.tx_bytes.into()),
                    ("raddr", seen.raddr.clone().into()),
                ],
                next: format!(
                    "tcptop -b -w --columns +snd_wnd_bytes,rwnd_limited_us{}",
                    flag(subject)
                ),
                weight: seen.limited_us as f64,
            })
            .collect()
    }
}

fn text(seen: &Seen, connections: u64) -> String {
    let mut text = format!(
        "waits for the receive window of {} {:.0} % of the time ({:.1} of {:.1} s), {:.1} Mbit/s; window up \
         to {} bytes, round trip {:.1} ms",
        seen.raddr,
        seen.percent(),
        seen.limited_us as f64 / 1e6,
        seen.busy_us as f64 / 1e6,
        seen.mbit(),
        seen.window,
        seen.srtt_us as f64 / 1000.0
    );
    if connections > 1 {
        text += &format!("; {connections} connections");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    /// A look: clocks in ms, bytes of the interval.
    fn look(busy: u64, limited: u64, tx_bytes: u64, min_rtt_us: u64) -> Row {
        let values = json!({
            "netns": 1, "cookie": 4, "comm": "backup", "pid": 3, "laddr": "10.0.0.1", "lport": 40000,
            "raddr": "10.0.0.2", "rport": 5001, "active_open": true, "partial": true,
            "age_us": 60_000_000, "interval_us": 2_000_000, "busy_time_us": busy * 1000,
            "rwnd_limited_us": limited * 1000, "tx_bytes": tx_bytes, "snd_wnd_bytes": 8192,
            "mss": 1448, "packets_out": 5, "notsent_bytes": 90_000, "min_rtt_us": min_rtt_us, "srtt_us": min_rtt_us + 100,
        });
        row("tcptop", "connection", values)
    }

    #[test]
    fn a_small_window_is_found() {
        let rows = [
            look(9000, 0, 400_000, 20_000),
            look(11_000, 1900, 400_000, 20_000),
        ];
        let found = find::<RwndLimited>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            one.text,
            "waits for the receive window of 10.0.0.2 95 % of the time (1.9 of 2.0 s), 1.6 Mbit/s; window up \
             to 8192 bytes, round trip 20.1 ms"
        );
    }

    #[test]
    fn fast_transfers_and_what_was_before_are_not() {
        let fast = [look(0, 0, 1 << 30, 40), look(2000, 1900, 1 << 30, 40)];
        assert!(find::<RwndLimited>(&fast).is_empty());
        let before = [
            look(60_000, 59_000, 4000, 40),
            look(62_000, 59_100, 4000, 40),
        ];
        assert!(find::<RwndLimited>(&before).is_empty());
    }
}
