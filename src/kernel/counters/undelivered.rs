// SPDX-License-Identifier: MIT OR Apache-2.0
//! What no counter has: packets that arrived, and neither were delivered or forwarded nor counted as wrong.

/// IPv4 packets of one network namespace, added up while its table is read.
#[derive(Debug, Default)]
pub(super) struct Undelivered {
    arrived: u64,
    accounted: u64,
}

impl Undelivered {
    /// Takes a counter, if it tells where packets have gone (net/ipv4/ip_input.c, ip_forward.c, ip_fragment.c).
    pub fn note(&mut self, name: &str, value: u64) {
        let side = match name {
            // A datagram of several fragments arrives once more when it is whole.
            "IpInReceives" | "IpReasmOKs" => &mut self.arrived,
            "IpInDelivers"
            | "IpForwDatagrams"
            | "IpInHdrErrors"
            | "IpInAddrErrors"
            | "IpInUnknownProtos"
            | "IpInDiscards"
            | "IpReasmReqds"
            | "IpExtInNoRoutes"
            | "IpExtInTruncatedPkts"
            | "TcpExtIPReversePathFilter" => &mut self.accounted,
            _ => return,
        };
        *side = side.saturating_add(value);
    }

    /// What is left: dropped by a firewall's rule, or sent to a multicast group that nobody here has joined. Packets on
    /// their way while the table is read are in it too.
    pub fn packets(&self) -> u64 {
        self.arrived.saturating_sub(self.accounted)
    }
}

/// Whether so many of `arrived` packets are more than what was on its way at two readings.
pub(super) fn is_more_than_passing(undelivered: u64, arrived: u64) -> bool {
    undelivered > arrived / 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nothing_accounts_for_is_left() {
        let mut packets = Undelivered::default();
        for (name, n) in [
            ("IpInReceives", 100),
            // Two datagrams of five fragments, one of which is not whole.
            ("IpReasmReqds", 9),
            ("IpReasmOKs", 1),
            ("IpInDelivers", 80),
            ("IpForwDatagrams", 5),
            ("TcpExtIPReversePathFilter", 1),
            ("IpOutRequests", 1000),
        ] {
            packets.note(name, n);
        }
        assert_eq!(packets.packets(), 6);
        packets.note("IpInDelivers", 7);
        assert_eq!(packets.packets(), 0);
    }

    #[test]
    fn few_of_many_may_be_on_their_way() {
        assert!(is_more_than_passing(3, 20));
        assert!(is_more_than_passing(1, 9999));
        assert!(!is_more_than_passing(1, 10_000));
        assert!(!is_more_than_passing(0, 0));
    }
}
