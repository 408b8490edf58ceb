// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the kernel's counters: which of them count trouble, and what shows more of it.

/// A counter of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How far up it belongs: sockets and their memory first.
    pub rank: Rank,
    /// What shows more of it: a command, or a setting.
    pub see: Option<&'static str>,
}

/// What a counter of trouble is about, the worst for a socket first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A full buffer or queue, or no memory.
    Full,
    /// A packet that was lost or refused for another reason.
    Refused,
    /// What a connection has come to.
    Connection,
    /// What is only known by its name.
    Other,
}

use Rank::{Connection, Full, Refused};

const LISTENERS: &str = "tcpaccept --listeners";
const ROUTE: &str = "ip route get";

/// By nstat(8)'s name, without the `6` of IPv6.
const KNOWN: [(&str, Rank, &str); 53] = [
    ("UdpRcvbufErrors", Full, "sockbuf"),
    ("UdpMemErrors", Full, "sockbuf"),
    ("UdpInErrors", Full, "sockbuf"),
    ("UdpSndbufErrors", Full, "ss -uamn"),
    ("UdpLiteRcvbufErrors", Full, "sockbuf"),
    ("UdpLiteMemErrors", Full, "sockbuf"),
    ("UdpLiteInErrors", Full, "sockbuf"),
    ("UdpLiteSndbufErrors", Full, "ss -am"),
    ("TcpExtListenOverflows", Full, LISTENERS),
    ("TcpExtListenDrops", Full, LISTENERS),
    ("TcpExtTCPReqQFullDoCookies", Full, LISTENERS),
    ("TcpExtTCPReqQFullDrop", Full, LISTENERS),
    ("TcpExtTCPFastOpenListenOverflow", Full, LISTENERS),
    ("TcpExtPruneCalled", Full, "tcprcvspace"),
    ("TcpExtRcvPruned", Full, "tcprcvspace"),
    ("TcpExtOfoPruned", Full, "tcprcvspace"),
    ("TcpExtTCPRcvCollapsed", Full, "tcprcvspace"),
    ("TcpExtTCPOFODrop", Full, "tcprcvspace"),
    ("TcpExtTCPRcvQDrop", Full, "tcptop --stalled"),
    ("TcpExtTCPZeroWindowDrop", Full, "tcptop --stalled"),
    ("TcpExtTCPBacklogDrop", Full, "ss -tmn"),
    ("TcpExtTCPMemoryPressures", Full, "sockbuf"),
    ("TcpExtTCPAbortOnMemory", Full, "sockbuf"),
    ("TcpExtPFMemallocDrop", Full, "sockbuf"),
    ("TcpExtTCPTimeWaitOverflow", Full, "ss -tan state time-wait"),
    (SOFTNET_DROPPED, Full, "net.core.netdev_max_backlog"),
    (SOFTNET_FLOW_LIMIT, Full, "net.core.flow_limit_cpu_bitmap"),
    (UNDELIVERED, Refused, "nft list ruleset"),
    ("TcpExtIPReversePathFilter", Refused, "sysctl rp_filter"),
    ("IpInDiscards", Refused, ""),
    ("IpOutDiscards", Refused, "ip -s link"),
    ("IpInAddrErrors", Refused, ROUTE),
    ("IpExtInNoRoutes", Refused, ROUTE),
    // Of IPv6, and so multicast to routers too, which every new interface sends.
    ("IpInNoRoutes", Rank::Other, ROUTE),
    ("IpOutNoRoutes", Refused, ROUTE),
    ("UdpNoPorts", Refused, "ss -ulnp"),
    ("UdpLiteNoPorts", Refused, "ss -lnp"),
    ("TcpExtTCPDeferAcceptDrop", Refused, LISTENERS),
    ("TcpExtSyncookiesFailed", Refused, LISTENERS),
    ("TcpExtPAWSActive", Refused, "tcpdrop"),
    ("TcpExtPAWSEstab", Refused, "tcpdrop"),
    ("TcpExtBeyondWindow", Refused, "tcpdrop"),
    ("TcpExtTCPTimeouts", Connection, "tcpretrans"),
    ("TcpExtTCPRetransFail", Connection, "tcpretrans --failed"),
    ("TcpExtTCPRenoRecoveryFail", Connection, "tcpretrans"),
    ("TcpExtTCPSackRecoveryFail", Connection, "tcpretrans"),
    ("TcpExtTCPLossFailures", Connection, "tcpretrans"),
    ("TcpExtTCPAbortOnTimeout", Connection, "tcplife"),
    ("TcpExtTCPAbortOnData", Connection, "tcpreset"),
    ("TcpExtTCPAbortOnClose", Connection, "tcpreset"),
    ("TcpExtTCPAbortOnLinger", Connection, "tcpreset"),
    ("TcpExtTCPAbortFailed", Connection, "tcpreset"),
    ("TcpAttemptFails", Connection, "tcpconnect --failed"),
];

/// Parts of a name that stand for trouble, also where the kernel has named it since.
const SIGNS: [&str; 13] = [
    "Drop",
    "Overflow",
    "Err",
    "Fail",
    "Prune",
    "Collapsed",
    "Discards",
    "NoRoutes",
    "NoPorts",
    "QFull",
    "Pressure",
    "Abort",
    "Reject",
];

/// What has such a name, and counts no trouble: milliseconds, and attempts that other counters have too.
const HARMLESS: [&str; 1] = ["TcpExtTCPMemoryPressuresChrono"];

/// What is no counter: settings, and what may fall.
const GAUGES: [&str; 8] = [
    "IpForwarding",
    "IpDefaultTTL",
    "TcpRtoAlgorithm",
    "TcpRtoMin",
    "TcpRtoMax",
    "TcpMaxConn",
    "TcpCurrEstab",
    "MPTcpExtMPCurrEstab",
];

/// Packets that no CPU had room for in its backlog (net/core/dev.c: enqueue_to_backlog). The table has no names; this
/// is the field's of `struct softnet_data`.
pub const SOFTNET_DROPPED: &str = "softnet_dropped";
/// Of large flows, at half of that room (net/core/dev.c: skb_flow_limit).
pub const SOFTNET_FLOW_LIMIT: &str = "softnet_flow_limit_count";
/// Packets that arrived, and neither were delivered or forwarded nor counted as wrong: a difference of counters.
pub const UNDELIVERED: &str = "IpInUndelivered";

/// Whether its value only grows.
pub(super) fn is_counter(name: &str) -> bool {
    !GAUGES.contains(&name)
}

/// What a counter counts, if that is trouble.
pub fn trouble(name: &str) -> Option<Trouble> {
    let any_family = name.replacen('6', "", 1);
    let known = KNOWN.iter().find(|(known, ..)| *known == any_family);
    if let Some((_, rank, see)) = known {
        let see = (!see.is_empty()).then_some(*see);
        return Some(Trouble { rank: *rank, see });
    }
    let is_sign = SIGNS.iter().any(|sign| name.contains(sign));
    (is_sign && is_counter(name) && !HARMLESS.contains(&name)).then_some(Trouble {
        rank: Rank::Other,
        see: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_known() {
        for name in ["UdpRcvbufErrors", "Udp6RcvbufErrors"] {
            let known = trouble(name).unwrap();
            assert_eq!((known.rank, known.see), (Full, Some("sockbuf")));
        }
        assert_eq!(trouble("Ip6InNoRoutes").unwrap().see, Some(ROUTE));
    }

    #[test]
    fn new_names_of_trouble_are_shown_too() {
        for (name, is) in [
            ("TcpExtTCPBrandNewDrop", true),
            ("TcpExtTCPDelivered", false),
            ("TcpExtTCPFullUndo", false),
            ("TcpExtTCPSACKDiscard", false),
            ("TcpExtTCPMemoryPressuresChrono", false),
            ("TcpMaxConn", false),
            ("TcpRetransSegs", false),
        ] {
            assert_eq!(trouble(name).is_some(), is, "{name}");
        }
    }

    #[test]
    fn each_is_named_once() {
        let mut names = KNOWN.map(|(name, ..)| name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KNOWN.len());
    }
}
