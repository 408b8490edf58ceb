// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refusals from records alone, on a kernel without type information: they have numbers, and no socket.

use tcptools::preflight;
use tcptools::record::{Event, Translate, Wanted, head};
use tcptools::types::{Record, bytes_of, decode, owner, seen_kind, seen_limit};

use super::bpf::types::overflow;
use super::{CAUSE_MEM_MAX, CAUSE_MEMCG, CAUSE_PRESSURE, CAUSE_RCVBUF, CAUSE_UNKNOWN};

const INET: u16 = 2;
const INET6: u16 = 10;
const STREAM: u16 = 1;
const DGRAM: u16 = 2;

/// Family, type and protocol by the name of a protocol (`struct proto`), for those that have a limit of their own.
const PROTOCOLS: [(&[u8], u16, u16, u16); 8] = [
    (b"TCP", INET, STREAM, 6),
    (b"TCPv6", INET6, STREAM, 6),
    (b"UDP", INET, DGRAM, 17),
    (b"UDPv6", INET6, DGRAM, 17),
    (b"UDP-Lite", INET, DGRAM, 136),
    (b"UDPLITEv6", INET6, DGRAM, 136),
    (b"MPTCP", INET, STREAM, 262),
    (b"MPTCPv6", INET6, STREAM, 262),
];

/// Makes the rows.
pub struct Limits;

/// cause_of() of sockbuf.bpf.c, as far as the record tells.
fn cause_of(limit: &seen_limit, protocol: u16) -> u8 {
    let allocated = limit.allocated;
    match protocol {
        _ if allocated > limit.mem[2] => CAUSE_MEM_MAX,
        _ if allocated <= limit.mem[0] => CAUSE_MEMCG,
        // UDP has no state of pressure, and the others enter it above the second limit, in the same call.
        17 | 136 => CAUSE_PRESSURE,
        _ if allocated > limit.mem[1] => CAUSE_PRESSURE,
        _ => CAUSE_UNKNOWN,
    }
}

fn row_of(limit: &seen_limit) -> overflow {
    let blank = overflow {
        allocated: -1,
        cause: CAUSE_RCVBUF,
        bare: 1,
        ..overflow::default()
    };
    match limit.seen.kind {
        seen_kind::EXCEED_BUF_LIMIT => {
            let end = limit.name.iter().position(|&b| b == 0).unwrap_or(32);
            let known = PROTOCOLS
                .iter()
                .find(|(name, ..)| *name == &limit.name[..end]);
            let (_, family, sock_type, protocol) = *known.unwrap_or(&(b"", 0, 0, 0));
            overflow {
                allocated: limit.allocated,
                mem: limit.mem,
                minimum: limit.minimum,
                rmem_alloc: limit.rmem_alloc,
                wmem_alloc: limit.wmem_alloc,
                wmem_queued: limit.wmem_queued,
                sending: limit.sending,
                proto_name: limit.name,
                cause: cause_of(limit, protocol),
                family,
                sock_type,
                protocol,
                ..blank
            }
        }
        seen_kind::RCVQUEUE_FULL => overflow {
            rmem_alloc: limit.rmem_alloc,
            rcvbuf: limit.rcvbuf,
            truesize: limit.truesize,
            ..blank
        },
        _ => overflow {
            family: limit.family,
            sock_type: DGRAM,
            ..blank
        },
    }
}

impl Translate for Limits {
    type Tool = ();

    fn tracepoints(&self) -> Vec<&'static str> {
        let all = [
            "sock:sock_rcvqueue_full",
            "sock:sock_exceed_buf_limit",
            "udp:udp_fail_queue_rcv_skb",
        ];
        let kept = if preflight::has_tracepoint(all[2]) {
            3
        } else {
            2
        };
        all[..kept].to_vec()
    }

    fn blank(&self) -> &'static str {
        "owners and addresses stay blank, and ports but for UDP's"
    }

    fn follows(&self) -> bool {
        false
    }

    fn event(&mut self, event: Event<'_, ()>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let Some(limit) = decode::<seen_limit>(event.record) else {
            return;
        };
        let mut row = row_of(limit);
        let mut head = head(event.seen, &owner::default(), 0);
        head.event = match event.seen.kind {
            seen_kind::RCVQUEUE_FULL => super::RCVQUEUE_FULL,
            seen_kind::EXCEED_BUF_LIMIT => super::EXCEED_BUF_LIMIT,
            _ => super::UDP_FAIL_QUEUE,
        };
        let mut flow = head.flow;
        flow.family = match row.family {
            INET => 4,
            INET6 => 6,
            _ => 0,
        };
        if wanted.passes_endless(&flow, &head.owner) {
            row = row.with_head(&head);
            out(bytes_of(&row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &[u8], allocated: i64) -> seen_limit {
        let mut limit = seen_limit {
            allocated,
            mem: [10, 20, 30],
            ..seen_limit::default()
        };
        limit.seen.kind = seen_kind::EXCEED_BUF_LIMIT;
        limit.name[..name.len()].copy_from_slice(name);
        limit
    }

    #[test]
    fn the_cause_is_told_as_far_as_numbers_tell() {
        for (name, allocated, cause) in [
            (&b"TCP"[..], 31, CAUSE_MEM_MAX),
            (b"TCP", 30, CAUSE_PRESSURE),
            (b"TCP", 20, CAUSE_UNKNOWN),
            (b"UDPv6", 20, CAUSE_PRESSURE),
            (b"TCP", 10, CAUSE_MEMCG),
            (b"SCTP", 15, CAUSE_UNKNOWN),
        ] {
            assert_eq!(row_of(&limit(name, allocated)).cause, cause, "{allocated}");
        }
        let row = row_of(&limit(b"TCPv6", 31));
        assert_eq!(
            (row.family, row.sock_type, row.protocol),
            (INET6, STREAM, 6)
        );
        assert_eq!(row_of(&limit(b"SCTP", 31)).protocol, 0);
    }
}
