// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that this host throws away, by reason, place and server: for the rules of this room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::Kind;
use crate::commands::tcptools::triage::rules::server::{ByServer, Of, flag};
use crate::commands::tcptools::triage::subject::Subject;

/// How many segments of a sum are kept, to know them when they come again.
const MOST: usize = 256;

/// Reason and place, as tcpdrop has them.
pub type Why = (String, String);

#[derive(Default)]
pub struct Seen {
    /// Segments: SYNs, and others that ask for something to be done.
    pub drops: u64,
    pub syns: u64,
    /// Those that were dropped before: the other end, or this one, sent them again.
    pub again: u64,
    /// Of a connection that this host has.
    pub of_socket: u64,
    pub sent: u64,
    /// By which it came or was to leave.
    ifname: Option<String>,
    known: BTreeSet<(u64, u64, u64)>,
}

/// Drops by reason, place and server, and how much got through.
#[derive(Default)]
pub struct Drops {
    pub by: ByServer<Why, Seen>,
    /// Full segments that arrived, at least, by server, in whichever network namespace.
    passed: BTreeMap<SocketAddr, f64>,
}

/// How many servers are remembered.
const SERVERS: usize = 4096;

/// Whether the server is on this end: only a handshake's segments say so.
fn server_is_here(flags: &str, sent: bool) -> Option<bool> {
    match (flags.contains("SYN"), flags.contains("ACK")) {
        (true, false) => Some(!sent),
        (true, true) => Some(sent),
        _ => None,
    }
}

impl Drops {
    /// Takes the drops that have such a reason and direction, and what tells who the server is.
    pub fn see(&mut self, row: &Row, counts: impl Fn(&str, &str) -> bool) {
        self.by.servers.see(row);
        if row.is("tcptop", "connection") {
            self.pass(row);
        }
        if !row.is("tcpdrop", "drop") {
            return;
        }
        let text = |key| row.text(key).unwrap_or_default();
        let (reason, direction, flags) = (text("reason"), text("direction"), text("flags"));
        // Late segments of connections that are over are dropped by many a rule, and nobody misses them.
        let over =
            flags.contains("RST") || flags == "FIN" || flags == "FIN|ACK" || flags == "ACK|FIN";
        if over || !counts(reason, direction) {
            return;
        }
        let (sent, syn) = (direction == "sent", flags.contains("SYN"));
        let segs = row.number("segs").unwrap_or(1).max(1);
        let number = |key| row.number(key).unwrap_or_default();
        let segment = (number("lport"), number("rport"), number("seq"));
        let why = (reason.to_owned(), text("where").to_owned());
        self.by.add(row, &why, server_is_here(flags, sent), |seen| {
            seen.drops += segs;
            seen.syns += u64::from(syn);
            seen.sent += if sent { segs } else { 0 };
            let owned = row.number("cookie").is_some() || row.text("comm").is_some();
            seen.of_socket += if owned { segs } else { 0 };
            seen.ifname = row.text("ifname").map(str::to_owned).or(seen.ifname.take());
            if seen.known.len() < MOST || seen.known.contains(&segment) {
                seen.again += u64::from(!seen.known.insert(segment));
            }
        });
    }

    fn pass(&mut self, row: &Row) {
        let served = row.flag("active_open") == Some(false);
        let Some(server) = Subject::connection(row, served).server() else {
            return;
        };
        let number = |key| row.number(key).unwrap_or_default();
        let segments = (number("tx_bytes") + number("rx_bytes")) / number("mss").max(1);
        if self.passed.len() < SERVERS || self.passed.contains_key(&server) {
            *self.passed.entry(server).or_default() += segments as f64;
        }
    }

    /// Which share of the segments of that server was dropped, at most.
    pub fn percent(&self, of: &Of<'_, Why, Seen>) -> f64 {
        let passed = of.subject.server().and_then(|at| self.passed.get(&at));
        let drops = of.sum.drops as f64;
        100.0 * drops / (passed.copied().unwrap_or_default() + drops).max(1.0)
    }
}

/// In a few words, what does it.
fn who(reason: &str) -> &'static str {
    match reason {
        "NETFILTER_DROP" => "a firewall rule",
        "IP_RPFILTER" => "the reverse path filter",
        "IP_OUTNOROUTES" | "IP_INNOROUTES" => "the lack of a route",
        "SOCKET_FILTER" => "a filter of the socket or its cgroup",
        "SECURITY_HOOK" => "a security module",
        "XFRM_POLICY" => "an IPsec policy",
        _ if reason.ends_with("CSUM") => "a wrong checksum",
        _ if reason.starts_with("TC_") => "a filter of tc",
        _ if reason.starts_with("QDISC") => "a full queue",
        _ => "the kernel",
    }
}

/// `12 segments dropped by a firewall rule (NETFILTER_DROP in nft_do_chain), 6 of them SYNs`, and the evidence.
pub fn finding(kind: &'static Kind, severity: Severity, of: Of<'_, Why, Seen>) -> Finding {
    let (reason, place) = of.what;
    let seen = of.sum;
    let mut text = format!(
        "{} segments dropped on this host by {} ({reason} in {place})",
        seen.drops,
        who(reason)
    );
    if let Some(name) = &seen.ifname {
        text += &format!(" at {name}");
    }
    if seen.syns > 0 {
        text += &format!(", {} of them SYNs", seen.syns);
    }
    if seen.again > 0 {
        text += &format!(", {} sent again in vain", seen.again);
    }
    Finding {
        kind,
        severity,
        text,
        evidence: vec![
            ("reason", Value::from(reason.clone())),
            ("where", place.clone().into()),
            ("drops", seen.drops.into()),
            ("syns", seen.syns.into()),
            ("again", seen.again.into()),
            (
                "raddr",
                if of.here {
                    of.peer.to_string().into()
                } else {
                    Value::Null
                },
            ),
        ],
        next: format!("tcpdrop --reason {reason}{}", flag(&of.subject)),
        weight: seen.drops as f64,
        subject: of.subject,
    }
}
