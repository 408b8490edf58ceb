// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many of what the kernel has counted are rows.
//!
//! A full UDP buffer is one row and one of RcvbufErrors; refused memory is one row and one of MemErrors; both are InErrors
//! (net/ipv4/udp.c: __udp_queue_rcv_skb). Refused memory of TCP may be in several counters, or in none.

use std::collections::HashMap;

use crate::abi::types::Record;
use crate::kernel::counters::Change;

use super::super::bpf::types::overflow;
use super::super::cause::{EXCEED_BUF_LIMIT, UDP_FAIL_QUEUE};

const TCP: u16 = 6;
const UDP: u16 = 17;
const UDPLITE: u16 = 136;

/// Counters of TCP for which memory that was refused may be the reason.
const TCP_MEMORY: [&str; 8] = [
    "TcpExtPruneCalled",
    "TcpExtRcvPruned",
    "TcpExtOfoPruned",
    "TcpExtTCPRcvCollapsed",
    "TcpExtTCPOFODrop",
    "TcpExtTCPRcvQDrop",
    "TcpExtTCPMemoryPressures",
    "TcpExtTCPAbortOnMemory",
];

/// What UDP and UDP-Lite each have a counter for, per family.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Rcvbuf,
    Mem,
    /// The two, and others.
    In,
}

/// A counter of UDP's or UDP-Lite's.
#[derive(Clone, Copy)]
struct Udp {
    lite: bool,
    v6: bool,
    class: Class,
}

impl Udp {
    fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("Udp")?;
        let (lite, rest) = match rest.strip_prefix("Lite") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (v6, rest) = match rest.strip_prefix('6') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let class = match rest {
            "RcvbufErrors" => Class::Rcvbuf,
            "MemErrors" => Class::Mem,
            "InErrors" => Class::In,
            _ => return None,
        };
        Some(Self { lite, v6, class })
    }

    /// Its own of the numbers of all.
    fn of_mut(self, all: &mut Counted) -> &mut u64 {
        &mut all[usize::from(self.lite)][self.class as usize][usize::from(self.v6)]
    }
}

/// Of either family: IPv4, IPv6.
type ByFamily = [u64; 2];

/// How many of UDP's, and of UDP-Lite's, by [`Class`].
type Counted = [[ByFamily; 3]; 2];

/// Rows of one network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rows {
    /// Of UDP, and of UDP-Lite; by [`Class`], the first two; of IPv4, of IPv6, and of a dual-stack socket: what arrives
    /// there is not known.
    udp: [[[u64; 3]; 2]; 2],
    tcp: u64,
}

impl Rows {
    pub(super) fn add(&mut self, body: &overflow) {
        let class = match body.head.event {
            UDP_FAIL_QUEUE => Class::Rcvbuf,
            EXCEED_BUF_LIMIT if body.protocol == TCP => {
                self.tcp += 1;
                return;
            }
            EXCEED_BUF_LIMIT if body.sending == 0 => Class::Mem,
            _ => return,
        };
        let lite = match body.protocol {
            UDP => false,
            UDPLITE => true,
            _ => return,
        };
        let head = body.head();
        let family = match head.flow.family {
            6 if head.flow.laddr == [0; 16] => 2,
            6 => 1,
            _ => 0,
        };
        self.udp[usize::from(lite)][class as usize][family] += 1;
    }

    /// Each number and the same one of `other`.
    fn each_with<'r>(&'r mut self, other: &'r Self) -> impl Iterator<Item = (&'r mut u64, u64)> {
        let own = self.udp.iter_mut().flatten().flatten();
        own.zip(other.udp.iter().flatten().flatten().copied())
    }

    fn plus(mut self, more: &Self) -> Self {
        self.each_with(more).for_each(|(n, more)| *n += more);
        self
    }

    fn at_most(mut self, most: &Self) -> Self {
        self.each_with(most)
            .for_each(|(n, most)| *n = (*n).min(most));
        self
    }

    /// Takes those that explain what was counted; returns how many of it.
    fn take(&mut self, counted: &Counted) -> Counted {
        let mut explained = Counted::default();
        let all = self.udp.iter_mut().zip(counted).zip(&mut explained);
        for ((rows, counted), [rcvbuf, mem, both]) in all {
            let [of_rcvbuf, of_mem] = rows;
            *rcvbuf = take(of_rcvbuf, counted[0]);
            // Before 5.11 there is no MemErrors, but what they would be is in InErrors.
            let left = |family: usize| counted[2][family].saturating_sub(counted[0][family]);
            *mem = take(
                of_mem,
                [0, 1].map(|family| counted[1][family].max(left(family))),
            );
            *both = [0, 1].map(|family| rcvbuf[family] + mem[family]);
        }
        explained
    }
}

fn take([v4, v6, either]: &mut [u64; 3], counted: ByFamily) -> ByFamily {
    let take = |rows: &mut u64, most: u64| {
        let n = (*rows).min(most);
        *rows -= n;
        n
    };
    let sure = [take(v4, counted[0]), take(v6, counted[1])];
    [0, 1].map(|family| sure[family] + take(either, counted[family] - sure[family]))
}

/// What rows explain, from one interval to the next.
pub(super) struct Explained {
    /// Whether every row is seen, and says whose it is.
    exact: bool,
    /// Rows that came before their counters were read.
    left: HashMap<u32, Rows>,
}

impl Explained {
    /// `exact`: see the field.
    pub(super) fn new(exact: bool) -> Self {
        Self {
            exact,
            left: HashMap::new(),
        }
    }

    /// How many of each change are rows: `None` where that cannot be told.
    pub(super) fn of(&mut self, rows: HashMap<u32, Rows>, changes: &[Change]) -> Vec<Option<u64>> {
        let mut counted = HashMap::<u32, Counted>::new();
        for (change, udp) in changes.iter().filter_map(|c| Some((c, Udp::of(&c.name)?))) {
            let counts = counted.entry(change.netns).or_default();
            *udp.of_mut(counts) += change.count;
        }
        let before = std::mem::take(&mut self.left);
        let mut explained = HashMap::new();
        for (netns, rows) in &rows {
            let mut left = before.get(netns).copied().unwrap_or_default().plus(rows);
            let counts = counted.remove(netns).unwrap_or_default();
            explained.insert(*netns, left.take(&counts));
            self.left.insert(*netns, left.at_most(rows));
        }
        for (netns, counts) in counted {
            let mut left = before.get(&netns).copied().unwrap_or_default();
            explained.insert(netns, left.take(&counts));
        }
        let explain = |change: &Change| {
            let Some(udp) = Udp::of(&change.name) else {
                let related = TCP_MEMORY.contains(&&*change.name);
                let none = rows.get(&change.netns).is_none_or(|rows| rows.tcp == 0);
                return (!related || none && self.exact).then_some(0);
            };
            let left = udp.of_mut(explained.get_mut(&change.netns)?);
            let n = change.count.min(*left);
            *left -= n;
            self.exact.then_some(n)
        };
        changes.iter().map(explain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETNS: u32 = 7;

    fn change(name: &str, count: u64) -> Change {
        Change {
            netns: NETNS,
            name: name.into(),
            count,
            at_least: false,
        }
    }

    fn rows(of: &[(u16, u16, u8, [u8; 16], u64)]) -> HashMap<u32, Rows> {
        let mut rows = Rows::default();
        for &(event, protocol, family, laddr, n) in of {
            let mut body = overflow::default();
            body.head.event = event;
            body.protocol = protocol;
            body.head.flow.family = family;
            body.head.flow.laddr = laddr;
            (0..n).for_each(|_| rows.add(&body));
        }
        HashMap::from([(NETNS, rows)])
    }

    const ANY: [u8; 16] = [0; 16];
    const ONE: [u8; 16] = [1; 16];

    fn explained(
        exact: bool,
        rows: HashMap<u32, Rows>,
        changes: &[(&str, u64)],
    ) -> Vec<Option<u64>> {
        let changes: Vec<_> = changes.iter().map(|(name, n)| change(name, *n)).collect();
        Explained::new(exact).of(rows, &changes)
    }

    #[test]
    fn rows_of_udp_explain_their_counters() {
        let rows = || {
            rows(&[
                (UDP_FAIL_QUEUE, UDP, 4, ANY, 5),
                (UDP_FAIL_QUEUE, UDP, 6, ONE, 7),
                (EXCEED_BUF_LIMIT, UDP, 4, ANY, 2),
                (UDP_FAIL_QUEUE, UDPLITE, 4, ANY, 1),
                (EXCEED_BUF_LIMIT, TCP, 4, ANY, 9),
            ])
        };
        let changes = [
            ("UdpInErrors", 8),
            ("UdpRcvbufErrors", 6),
            ("Udp6RcvbufErrors", 7),
            ("UdpMemErrors", 2),
            ("Udp6MemErrors", 1),
            ("UdpLiteRcvbufErrors", 3),
            ("UdpSndbufErrors", 1),
            ("TcpExtRcvPruned", 4),
            ("TcpExtListenDrops", 4),
        ];
        let some = |n| Some(n);
        let all = [7, 5, 7, 2, 0, 1, 0, 0, 0].map(some);
        let mut expected = all.to_vec();
        expected[7] = None;
        assert_eq!(explained(true, rows(), &changes), expected);
        // Where rows are left out, nothing is said of what they might explain.
        let filtered = explained(false, rows(), &changes);
        assert_eq!(filtered[..6], [None; 6]);
        assert_eq!(filtered[6..], [Some(0), None, Some(0)]);
        let none = explained(
            true,
            HashMap::new(),
            &[("TcpExtRcvPruned", 4), ("UdpInErrors", 1)],
        );
        assert_eq!(none, [Some(0), Some(0)]);
    }

    #[test]
    fn refused_memory_is_in_errors_without_a_counter_of_its_own() {
        let rows = rows(&[
            (EXCEED_BUF_LIMIT, UDP, 4, ANY, 4),
            (UDP_FAIL_QUEUE, UDP, 4, ANY, 5),
        ]);
        let changes = [("UdpInErrors", 10), ("UdpRcvbufErrors", 5)];
        assert_eq!(explained(true, rows, &changes), [Some(9), Some(5)]);
    }

    #[test]
    fn dual_stack_rows_explain_either_family() {
        let rows = |n| {
            rows(&[
                (UDP_FAIL_QUEUE, UDP, 6, ANY, n),
                (UDP_FAIL_QUEUE, UDP, 6, ONE, 2),
            ])
        };
        let of = |rows, v4, v6| {
            explained(
                true,
                rows,
                &[("UdpRcvbufErrors", v4), ("Udp6RcvbufErrors", v6)],
            )
        };
        assert_eq!(of(rows(5), 3, 4), [Some(3), Some(4)]);
        assert_eq!(of(rows(5), 3, 6), [Some(3), Some(4)]);
        assert_eq!(of(rows(5), 0, 9), [Some(0), Some(7)]);
    }

    #[test]
    fn rows_may_come_one_interval_before_their_counters() {
        let mut explained = Explained::new(true);
        let mut of = |n, counted| {
            let rows = rows(&[(UDP_FAIL_QUEUE, UDP, 4, ANY, n)]);
            explained.of(rows, &[change("UdpRcvbufErrors", counted)])
        };
        assert_eq!(of(12, 10), [Some(10)]);
        assert_eq!(of(8, 10), [Some(10)]);
        assert_eq!(of(5, 0), [Some(0)]);
        assert_eq!(of(0, 0), [Some(0)]);
        assert_eq!(of(0, 5), [Some(0)]);
    }

    #[test]
    fn namespaces_of_one_number_share_its_rows() {
        let rows = rows(&[(UDP_FAIL_QUEUE, UDP, 4, ANY, 50)]);
        let (first, second) = (("UdpRcvbufErrors", 30), ("UdpRcvbufErrors", 40));
        assert_eq!(
            explained(true, rows, &[first, second]),
            [Some(30), Some(20)]
        );
    }
}
