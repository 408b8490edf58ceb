// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network namespace of this host that forwards drops what passes through, between ends that this host has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::dropped_here::REASONS;
use super::drops::{Drops, finding};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;

const SEGMENTS: Limit = Limit {
    name: "forward_drops_segments",
    default: 5.0,
    unit: "segments of one reason to one server",
    why: "As dropped_here_segments.",
};

const PERCENT: Limit = Limit {
    name: "forward_drops_percent",
    default: 0.5,
    unit: "% of the segments of that server",
    why: "As path_loss_percent.",
};

const HEAVY: Limit = Limit {
    name: "forward_drops_heavy_percent",
    default: 10.0,
    unit: "% of the segments of that server, for a warning",
    why: "No connection works well with so few, whatever it was meant to stop.",
};

pub const KIND: Kind = Kind {
    name: "forward_drops",
    what: "This host drops segments that it should pass on, of connections of its own containers.",
    explain: "A rule in the forward chain, a missing route, or a filter in a network namespace between the two \
ends: that of the host, for containers. It may be the cause of a path_loss or connect_timeout that is \
reported of the container.\n\
It is told from dropped_here by the direction: the segments were for another namespace or host. A \
router that drops what is not allowed is no trouble: only drops are counted whose connection a \
process of this host sends again for.\n\
nft list chain, or iptables-save -c, in the namespace named: look for the rule whose counter grows.",
    limits: &[SEGMENTS, PERCENT, HEAVY],
    effect_of: &[],
};

const MOST: usize = 4096;

#[derive(Default)]
pub struct ForwardDrops {
    drops: Drops,
    /// Both ends of what is sent again on this host.
    again: BTreeSet<(IpAddr, u64)>,
}

impl Rule for ForwardDrops {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.drops.see(row, |reason, direction| {
            direction == "forwarded" && REASONS.contains(&reason)
        });
        if !row.is("tcpretrans", "retransmit") {
            return;
        }
        for (addr, port) in [("laddr", "lport"), ("raddr", "rport")] {
            if let (Some(addr), Some(port)) = (row.addr(addr), row.number(port))
                && self.again.len() < MOST
            {
                self.again.insert((addr, port));
            }
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let found = self.drops.by.each().filter(|of| {
            let server = of.subject.server();
            let ours = |at: std::net::SocketAddr| self.again.contains(&(at.ip(), at.port().into()));
            let many = of.sum.drops as f64 >= limits.of(&SEGMENTS);
            many && self.drops.percent(of) >= limits.of(&PERCENT) && server.is_some_and(ours)
        });
        let severity = |percent: f64| match percent >= limits.of(&HEAVY) {
            true => Severity::Warning,
            false => Severity::Note,
        };
        found
            .map(|of| {
                let severity = severity(self.drops.percent(&of));
                finding(&KIND, severity, of)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn rows(client: &str) -> Vec<Row> {
        let one = |seq| {
            let values = json!({
                "netns": 5, "laddr": "10.77.2.2", "lport": 6379, "raddr": "10.77.1.1", "rport": 40000,
                "direction": "forwarded", "flags": "PSH|ACK", "seq": seq, "segs": 1,
                "reason": "NETFILTER_DROP", "where": "nft_do_chain", "netns_name": "rtr",
            });
            row("tcpdrop", "drop", values)
        };
        let again = json!({
            "netns": 1, "laddr": client, "lport": 40000, "raddr": "10.77.2.2", "rport": 6379, "kind": "tlp",
        });
        let mut rows: Vec<_> = (0..8).map(one).collect();
        rows.push(row("tcpretrans", "retransmit", again));
        rows
    }

    #[test]
    fn what_a_process_here_sends_again_is_found() {
        let found = find::<ForwardDrops>(&rows("10.77.1.1"));
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        assert_eq!(
            found[0].subject.to_string(),
            "no process known (netns rtr) on 10.77.2.2:6379"
        );
    }

    #[test]
    fn what_others_send_is_a_routers_business() {
        let mut rows = rows("10.77.1.1");
        rows.pop();
        assert!(find::<ForwardDrops>(&rows).is_empty());
    }
}
