// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queueing discipline of this host drops what its own connections send.

use super::drops::{Drops, finding};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;

const SEGMENTS: Limit = Limit {
    name: "qdisc_drops_segments",
    default: 20.0,
    unit: "segments of one server",
    why: "A sender finds out how fast it may be by losing some.",
};

const PERCENT: Limit = Limit {
    name: "qdisc_drops_percent",
    default: 0.5,
    unit: "% of the segments that were sent there",
    why: "As path_loss_percent.",
};

pub const KIND: Kind = Kind {
    name: "qdisc_drops",
    what: "A queue of this host's own interface is full, and drops what connections send.",
    explain: "The queueing discipline (tc) of the interface that the segments were to leave by has no room, \
or limits the rate: a shaper, a policer, a short txqueuelen. The network is not to blame.\n\
It is told from path_loss by the drops, which are seen here, and from bufferbloat by the queue, which \
is short: round trips stay fast, and segments are lost. Some drops are how TCP finds its rate; it is \
a finding from a share on that slows a connection down.\n\
tc -s qdisc show dev DEV has the limit and the drops. Raise the limit or the rate, or use fq_codel or \
cake instead of a short FIFO.",
    limits: &[SEGMENTS, PERCENT],
    effect_of: &["bufferbloat"],
};

/// `include/net/dropreason-core.h`, those of `net/sched/`.
fn is_queue(reason: &str) -> bool {
    let families = ["QDISC_", "FQ_", "CAKE_", "DUALPI2_"];
    families.iter().any(|family| reason.starts_with(family))
}

#[derive(Default)]
pub struct QdiscDrops(Drops);

impl Rule for QdiscDrops {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.0.see(row, |reason, direction| {
            direction == "sent" && is_queue(reason)
        });
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let found = self.0.by.each().filter(|of| {
            of.sum.drops as f64 >= limits.of(&SEGMENTS) && self.0.percent(of) >= limits.of(&PERCENT)
        });
        found
            .map(|of| finding(&KIND, Severity::Warning, of))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn drops(count: u64) -> Vec<Row> {
        let one = |seq| {
            let values = json!({
                "netns": 1, "laddr": "10.77.1.1", "lport": 40000, "raddr": "10.77.1.2", "rport": 5001,
                "direction": "sent", "flags": "ACK", "seq": seq, "segs": 1, "comm": "backup", "pid": 3,
                "reason": "QDISC_DROP", "where": "tbf_enqueue",
            });
            row("tcpdrop", "drop", values)
        };
        (0..count).map(one).collect()
    }

    fn sent(segments: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.77.1.1", "lport": 40000, "raddr": "10.77.1.2", "rport": 5001,
            "active_open": true, "mss": 1448, "tx_bytes": 1448 * segments,
        });
        row("tcptop", "connection", values)
    }

    #[test]
    fn a_share_that_slows_down_is_found() {
        let found = find::<QdiscDrops>(&[drops(40), vec![sent(2000)]].concat());
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].subject.to_string(),
            "backup (pid 3) to 10.77.1.2:5001"
        );
    }

    #[test]
    fn how_a_sender_finds_its_rate_is_not() {
        assert!(find::<QdiscDrops>(&[drops(40), vec![sent(20_000)]].concat()).is_empty());
        assert!(find::<QdiscDrops>(&drops(10)).is_empty());
    }
}
