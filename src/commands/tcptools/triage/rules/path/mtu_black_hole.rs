// SPDX-License-Identifier: MIT OR Apache-2.0
//! Only full-sized segments are lost, again and again: the path takes smaller packets than both ends believe.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::{ByServer, flag};

const TIMEOUTS: Limit = Limit {
    name: "mtu_black_hole_timeouts",
    default: 2.0,
    unit: "timeouts in a row of one connection",
    why: "A large segment that is lost by chance gets through the second time.",
};

pub const KIND: Kind = Kind {
    name: "mtu_black_hole",
    what: "Full-sized segments never arrive, small ones do: the path's MTU is smaller than believed.",
    explain: "Connections open, small requests are answered, and the first large piece of data hangs: it \
is sent again and again, each time at full size. A link on the way (a tunnel, a VPN, an overlay) \
takes smaller packets, and the ICMP message that should say so (fragmentation needed, packet too big) \
is not sent, or a firewall drops it.\n\
It is told from path_loss, where small segments are lost, too, and large ones get through in the end; \
and from an end that is gone (no_answer), where small segments are not acknowledged either: here the \
handshake and small data have passed, and no full-sized segment of the connection ever has.\n\
ping -M do -s SIZE finds the size that passes. Let ICMP through; set the route's or the interface's \
mtu; clamp the MSS (nft: tcp option maxseg size set rt mtu); or let the kernel find out: \
net.ipv4.tcp_mtu_probing=1.",
    limits: &[TIMEOUTS],
    effect_of: &["dropped_here"],
};

/// Below it, IPv6 would not be let through at all.
const SMALLEST: u64 = 1000;

/// How many connections are remembered.
const MOST: usize = 8192;

/// Of a connection.
#[derive(Clone, Default)]
struct Seen {
    /// Size of the segment that is sent again, and how many timeouts in a row, of which none was of a smaller one.
    size: u64,
    timeouts: u64,
    since_ns: u64,
    netns: Option<u64>,
    raddr: Option<IpAddr>,
    mss: Option<u64>,
    /// Bytes that the other end has acknowledged.
    acked: Option<u64>,
    /// When it last moved.
    moved_ns: u64,
}

impl Seen {
    fn is_full(&self) -> bool {
        // Options may take some of it, and over loopback half of the window is all that is sent.
        let full = |mss: u64| mss.saturating_sub(40).clamp(500, 16_384);
        let least = self.mss.map_or(SMALLEST, full);
        self.size >= least
    }

    fn is_stuck(&self, least: f64) -> bool {
        self.timeouts as f64 >= least
    }
}

#[derive(Default)]
pub struct MtuBlackHole {
    connections: BTreeMap<u64, Seen>,
    /// Which connections of a server have had timeouts.
    servers: ByServer<(), Vec<u64>>,
}

impl MtuBlackHole {
    fn of(&mut self, row: &Row) -> Option<&mut Seen> {
        let cookie = row.number("cookie")?;
        if self.connections.len() >= MOST && !self.connections.contains_key(&cookie) {
            return None;
        }
        let seen = self.connections.entry(cookie).or_default();
        (seen.netns, seen.raddr) = (row.number("netns"), row.addr("raddr"));
        Some(seen)
    }

    fn sent_again(&mut self, row: &Row) {
        let number = |key| row.number(key).unwrap_or_default();
        if row.text("kind") != Some("rto") || row.flag("by_timer") != Some(true) {
            return;
        }
        let size = number("len_bytes") / number("segs").max(1);
        self.timeout(row, size, number("attempt"), None);
    }

    /// So many timeouts in a row for a segment of this size.
    fn timeout(&mut self, row: &Row, size: u64, timeouts: u64, here: Option<bool>) {
        let Some(seen) = self.of(row) else { return };
        if timeouts <= 1 || size < seen.size {
            seen.since_ns = row.boot_ns();
        }
        (seen.size, seen.timeouts) = (size, timeouts);
        let cookie = row.number("cookie").unwrap_or_default();
        self.servers.add(row, &(), here, |cookies| {
            if cookies.len() < MOST && !cookies.contains(&cookie) {
                cookies.push(cookie);
            }
        });
    }

    fn looked_at(&mut self, row: &Row) {
        let number = |key| row.number(key);
        let moved = number("tx_bytes").unwrap_or_default() > 0;
        let (mss, acked, now_ns) = (number("mss"), number("bytes_acked"), row.boot_ns());
        let Some(seen) = self.of(row) else { return };
        seen.mss = mss.or(seen.mss);
        seen.acked = acked.or(seen.acked);
        if moved {
            seen.moved_ns = seen.moved_ns.max(now_ns);
        }
        // The timer may not fire again while this host is looked at: it is doubled each time.
        let of = |key| row.number(key).unwrap_or_default();
        let (timeouts, segments) = (of("retransmits"), of("packets_out"));
        let open = !matches!(row.text("state"), None | Some("SYN_SENT" | "SYN_RECV"));
        if timeouts >= 2 && segments > 0 && open && seen.timeouts < timeouts {
            let average = of("wqueue_bytes").saturating_sub(of("notsent_bytes")) / segments;
            let full = average * 10 >= of("mss") * 8;
            let size = if full { of("mss") } else { average };
            self.timeout(
                row,
                size,
                timeouts,
                row.flag("active_open").map(|open| !open),
            );
        }
    }

    /// Whether small data pass: this connection has never had a full-sized segment acknowledged, though it is open; or
    /// others to the same host move, while this one is stuck.
    fn small_ones_pass(&self, one: &Seen, least: f64) -> bool {
        let same = |other: &&Seen| other.netns == one.netns && other.raddr == one.raddr;
        let mut all = self.connections.values().filter(same);
        let small_stuck = |other: &Seen| other.is_stuck(least) && !other.is_full();
        if all.clone().any(small_stuck) {
            return false;
        }
        let never = one.acked.is_some_and(|acked| acked <= one.size);
        let later_ns = one.since_ns + 1_000_000_000;
        never || all.any(|other| !other.is_stuck(least) && other.moved_ns > later_ns)
    }
}

impl Rule for MtuBlackHole {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.servers.servers.see(row);
        match (row.tool(), row.event()) {
            ("tcpretrans", "retransmit") => self.sent_again(row),
            ("tcptop", "connection" | "stalled") => self.looked_at(row),
            _ => {}
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let least = limits.of(&TIMEOUTS);
        let mut found = Vec::new();
        for of in self.servers.each() {
            let all = of
                .sum
                .iter()
                .filter_map(|cookie| self.connections.get(cookie));
            let stuck = all.filter(|one| {
                one.is_stuck(least) && one.is_full() && self.small_ones_pass(one, least)
            });
            let stuck: Vec<_> = stuck.collect();
            let Some(worst) = stuck.iter().max_by_key(|one| one.timeouts) else {
                continue;
            };
            let connections = match stuck.len() {
                1 => "a connection hangs".to_owned(),
                n => format!("{n} connections hang"),
            };
            found.push(Finding {
                kind: &KIND,
                severity: Severity::Critical,
                text: format!(
                    "{connections}: the full-sized segment ({} bytes) is not acknowledged, sent again by \
                     {} timeouts in a row, and small ones pass",
                    worst.size, worst.timeouts
                ),
                evidence: vec![
                    ("connections", Value::from(stuck.len())),
                    ("len_bytes", worst.size.into()),
                    ("timeouts", worst.timeouts.into()),
                    ("bytes_acked", worst.acked.into()),
                    ("raddr", worst.raddr.map(|addr| addr.to_string()).into()),
                ],
                next: format!("tcpretrans -w --columns +len_bytes{}", flag(&of.subject)),
                weight: stuck.len() as f64,
                subject: of.subject,
            });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn timeouts(cookie: u64, size: u64, count: u64) -> Vec<Row> {
        let one = |attempt| {
            let values = json!({
                "netns": 1, "cookie": cookie, "comm": "web", "pid": 3, "laddr": "10.0.0.1", "lport": 443,
                "raddr": "10.0.0.2", "rport": 40000 + cookie, "kind": "rto", "by_timer": true,
                "attempt": attempt, "segs": 1, "len_bytes": size,
            });
            row("tcpretrans", "retransmit", values)
        };
        (1..=count).map(one).collect()
    }

    fn look(cookie: u64, acked: u64, at_s: u64) -> Row {
        let values = json!({
            "boot_ns": at_s * 1_000_000_000, "netns": 1, "cookie": cookie, "raddr": "10.0.0.2",
            "mss": 1448, "bytes_acked": acked, "tx_bytes": 100, "active_open": false,
        });
        row("tcptop", "connection", values)
    }

    #[test]
    fn a_response_that_hangs_is_found() {
        let rows = [
            timeouts(1, 1448, 3),
            vec![look(1, 300, 2)],
            timeouts(2, 1448, 4),
            vec![look(2, 0, 2)],
        ];
        let found = find::<MtuBlackHole>(&rows.concat());
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "web (pid 3) on 10.0.0.1:443");
        assert_eq!(
            one.text,
            "2 connections hang: the full-sized segment (1448 bytes) is not acknowledged, sent again by \
             4 timeouts in a row, and small ones pass"
        );
    }

    #[test]
    fn a_connection_of_long_standing_hangs_while_another_moves() {
        let rows = [
            timeouts(1, 1448, 3),
            vec![look(1, 90_000, 1), look(2, 4000, 9)],
        ];
        assert_eq!(find::<MtuBlackHole>(&rows.concat()).len(), 1);
        let alone = [timeouts(1, 1448, 3), vec![look(1, 90_000, 1)]];
        assert!(find::<MtuBlackHole>(&alone.concat()).is_empty());
    }

    #[test]
    fn what_hangs_since_before_is_found() {
        let stalled = |cookie: u64, wqueue: u64| {
            let values = json!({
                "netns": 1, "cookie": cookie, "comm": "web", "pid": 3, "laddr": "10.0.0.1", "lport": 443,
                "raddr": "10.0.0.2", "rport": 40000 + cookie, "mss": 1448, "bytes_acked": 300,
                "state": "ESTABLISHED", "retransmits": 7, "packets_out": 10, "wqueue_bytes": wqueue,
                "notsent_bytes": 50_000, "active_open": false,
            });
            row("tcptop", "stalled", values)
        };
        let found = find::<MtuBlackHole>(&[stalled(1, 64_480)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].evidence[1], ("len_bytes", 1448.into()));
        assert!(find::<MtuBlackHole>(&[stalled(1, 51_000)]).is_empty());
    }

    #[test]
    fn an_end_that_is_gone_and_a_single_loss_are_not() {
        // Small ones hang, too.
        let gone = [
            timeouts(1, 1448, 3),
            vec![look(1, 300, 2)],
            timeouts(2, 80, 3),
        ];
        assert!(find::<MtuBlackHole>(&gone.concat()).is_empty());
        let once = [timeouts(1, 1448, 1), vec![look(1, 300, 2)]];
        assert!(find::<MtuBlackHole>(&once.concat()).is_empty());
    }
}
