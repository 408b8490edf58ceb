// SPDX-License-Identifier: MIT OR Apache-2.0
//! This host throws segments away that were for one of its connections, or for one of its listeners.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::drops::{Drops, Seen, Why, finding};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::Of;

const SEGMENTS: Limit = Limit {
    name: "dropped_here_segments",
    default: 5.0,
    unit: "segments of one reason at one server",
    why: "A late segment of a connection that is over is dropped, and nobody misses it.",
};

const PERCENT: Limit = Limit {
    name: "dropped_here_percent",
    default: 0.5,
    unit: "% of the data of that server, unless one segment is dropped again and again",
    why: "As path_loss_percent.",
};

const AGAIN: Limit = Limit {
    name: "dropped_here_again",
    default: 1.0,
    unit: "of the SYNs, sent again",
    why: "A scanner sends one; a client that is in earnest sends it again.",
};

pub const KIND: Kind = Kind {
    name: "dropped_here",
    what: "This host throws segments of its own connections away: a firewall rule, a route, a filter.",
    explain: "The segments have arrived here, or were to leave from here: the network is not to blame. \
The reason and the function are the kernel's. Clients that connect time out, or data are sent again.\n\
Counted are reasons that lie with this host's settings, for a server that listens here, a \
connection that this host has, or an address that it tries to reach. Drops that say nothing bad are \
not (no socket, old data, closed sockets), nor what a full queue drops (listener_overflow, \
qdisc_drops, receive_buffer_pruned), nor scans: a SYN must be sent again.\n\
tcpdrop --explain REASON says what to look at. For NETFILTER_DROP: nft list ruleset, or \
iptables-save -c, in that network namespace.",
    limits: &[SEGMENTS, PERCENT, AGAIN],
    effect_of: &[],
};

/// Reasons that lie with settings of this host, or that name a broken path. Those of TCP's own checks are left out: they
/// come with every busy server.
pub const REASONS: [&str; 30] = [
    "NETFILTER_DROP",
    "IP_RPFILTER",
    "IP_OUTNOROUTES",
    "IP_INNOROUTES",
    "IP_INADDRERRORS",
    "IP_LOCAL_SOURCE",
    "IP_INVALID_SOURCE",
    "IP_LOCALNET",
    "IP_INVALID_DEST",
    "IPV6DISABLED",
    "SOCKET_FILTER",
    "SECURITY_HOOK",
    "XFRM_POLICY",
    "TC_INGRESS",
    "TC_EGRESS",
    "XDP",
    "BPF_CGROUP_EGRESS",
    "TCP_MINTTL",
    "TCP_CSUM",
    "IP_CSUM",
    "SKB_CSUM",
    "TCP_RFC7323_TW_PAWS",
    "TCP_MD5NOTFOUND",
    "TCP_MD5UNEXPECTED",
    "TCP_MD5FAILURE",
    "TCP_AONOTFOUND",
    "TCP_AOUNEXPECTED",
    "TCP_AOFAILURE",
    "PKT_TOO_BIG",
    "CPU_BACKLOG",
];

/// How many servers are remembered that this host tries to reach.
const MOST: usize = 4096;

#[derive(Default)]
pub struct DroppedHere {
    drops: Drops,
    /// Servers whose SYN/ACK this host, or another namespace of it, waits for.
    tried: BTreeSet<(IpAddr, u64)>,
}

impl DroppedHere {
    /// A server that is there, a connection that is there, or a client of this host: not a scan, nor what a forged
    /// address is sent.
    fn matters(&self, of: &Of<'_, Why, Seen>) -> bool {
        let seen = of.sum;
        let tried = |server: SocketAddr| self.tried.contains(&(server.ip(), server.port().into()));
        let listens = of.here
            && of.subject.listener.is_some_and(|at| {
                let servers = &self.drops.by.servers;
                servers.listener(of.subject.netns, at.port()).is_some()
            });
        listens || seen.of_socket > 0 || of.subject.server().is_some_and(tried)
    }
}

impl Rule for DroppedHere {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.drops.see(row, |reason, direction| {
            direction != "forwarded" && REASONS.contains(&reason)
        });
        let tries = match row.tool() {
            "tcpretrans" => row.text("kind") == Some("syn"),
            "tcpconnect" => row.text("outcome").is_some_and(|how| how != "established"),
            _ => false,
        };
        if let (Some(addr), Some(port)) = (row.addr("raddr"), row.number("rport"))
            && tries
            && self.tried.len() < MOST
        {
            self.tried.insert((addr, port));
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let often = |of: &Of<'_, Why, Seen>| {
            let (seen, data) = (of.sum, of.sum.drops - of.sum.syns);
            let again = seen.again as f64 >= limits.of(&AGAIN) && seen.syns + seen.again >= 3;
            let share = self.drops.percent(of) >= limits.of(&PERCENT);
            again || share && data as f64 >= limits.of(&SEGMENTS)
        };
        let found = self.drops.by.each();
        let found = found.filter(|of| often(of) && self.matters(of));
        found
            .map(|of| {
                // Nothing gets through, or some does.
                let severity = match of.sum.again >= 2 || of.sum.syns > 0 {
                    true => Severity::Critical,
                    false => Severity::Warning,
                };
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

    fn syn(client: u16, port: u16) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.77.1.2", "lport": port, "raddr": "10.77.1.1", "rport": client,
            "direction": "received", "flags": "SYN", "seq": u64::from(client) * 7, "segs": 1,
            "ifname": "eth0", "reason": "NETFILTER_DROP", "where": "nft_do_chain",
        });
        row("tcpdrop", "drop", values)
    }

    fn data(seq: u64, reason: &str, comm: Option<&str>) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.77.1.2", "lport": 80, "raddr": "10.77.1.1", "rport": 40000,
            "direction": "received", "flags": "PSH|ACK", "seq": seq, "segs": 1, "comm": comm,
            "reason": reason, "where": "nft_do_chain",
        });
        row("tcpdrop", "drop", values)
    }

    fn listener(port: u16) -> Row {
        let values =
            json!({ "netns": 1, "laddr": "0.0.0.0", "lport": port, "comm": "db", "pid": 9 });
        row("tcpaccept", "listener", values)
    }

    #[test]
    fn syns_that_a_rule_drops_are_of_the_listener() {
        let mut rows = vec![listener(3306)];
        rows.extend((0..6).map(|n| syn(40000 + n / 2, 3306)));
        let found = find::<DroppedHere>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.severity, Severity::Critical);
        assert_eq!(one.subject.to_string(), "db (pid 9) on 10.77.1.2:3306");
        assert_eq!(
            one.text,
            "6 segments dropped on this host by a firewall rule (NETFILTER_DROP in nft_do_chain) \
             at eth0, 6 of them SYNs, 3 sent again in vain"
        );
        assert_eq!(one.next, "tcpdrop --reason NETFILTER_DROP -L 3306");
    }

    #[test]
    fn scans_are_not() {
        // Of a port that nobody listens on, or that is asked once by each.
        let unheard: Vec<_> = (0..6).map(|n| syn(40000 + n / 2, 23)).collect();
        assert!(find::<DroppedHere>(&unheard).is_empty());
        let mut once = vec![listener(22)];
        once.extend((0..50).map(|n| syn(40000 + n, 22)));
        assert!(find::<DroppedHere>(&once).is_empty());
        // But a client of this host that tries counts.
        let values = json!({ "kind": "syn", "raddr": "10.77.1.2", "rport": 23 });
        let rows = [unheard, vec![row("tcpretrans", "retransmit", values)]].concat();
        assert_eq!(find::<DroppedHere>(&rows).len(), 1);
    }

    #[test]
    fn data_of_a_connection_are() {
        let rows: Vec<_> = (0..5)
            .map(|n| data(n, "NETFILTER_DROP", Some("web")))
            .collect();
        let found = find::<DroppedHere>(&rows);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        // Of no connection that is known here.
        let stray: Vec<_> = (0..5).map(|n| data(n, "NETFILTER_DROP", None)).collect();
        assert!(find::<DroppedHere>(&stray).is_empty());
    }

    #[test]
    fn a_thousandth_of_a_transfer_is_not() {
        let values = json!({
            "netns": 1, "laddr": "10.77.1.2", "lport": 80, "raddr": "10.77.1.1", "rport": 40000, "mss": 1448,
            "active_open": false, "tx_bytes": 0, "rx_bytes": 1448 * 9000,
        });
        let mut rows: Vec<_> = (0..9)
            .map(|n| data(n, "NETFILTER_DROP", Some("web")))
            .collect();
        rows.push(row("tcptop", "connection", values));
        assert!(find::<DroppedHere>(&rows).is_empty());
    }

    #[test]
    fn what_tcp_drops_as_a_matter_of_course_is_not() {
        for reason in [
            "NO_SOCKET",
            "TCP_OLD_DATA",
            "TCP_FLAGS",
            "QDISC_DROP",
            "NOT_SPECIFIED",
        ] {
            let rows: Vec<_> = (0..50).map(|n| data(n, reason, Some("web"))).collect();
            assert!(find::<DroppedHere>(&rows).is_empty(), "{reason}");
        }
    }
}
