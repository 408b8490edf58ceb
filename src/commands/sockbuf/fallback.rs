// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refusals from records alone, on a kernel without type information: they have numbers, and no socket.

use crate::abi::known::{KNOWN_CAUSE, KNOWN_PROTOCOL};
use crate::abi::types::{Record, decode, limit_event, owner, trace_kind};
use crate::fallback::{Event, Out, Translate, head};
use crate::kernel::diagnose;

use super::bpf::types::overflow;
use super::cause::{Cause, EXCEED_BUF_LIMIT, RCVQUEUE_FULL, UDP_FAIL_QUEUE};
use super::columns::RECORDS;

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

/// Whether the protocol is under memory pressure, as far as the record shows. UDP has no such state, and the others
/// enter it above the second limit, in the same call.
fn pressure(limit: &limit_event, protocol: u16) -> Option<bool> {
    let is = matches!(protocol, 17 | 136) || limit.allocated > limit.mem[1];
    is.then_some(true)
}

/// The row, and what is known of it besides [`RECORDS`].
fn row_of(limit: &limit_event) -> (overflow, u16) {
    let blank = overflow::default();
    match limit.trace.kind {
        trace_kind::EXCEED_BUF_LIMIT => {
            let end = limit.name.iter().position(|&b| b == 0).unwrap_or(32);
            let known = PROTOCOLS
                .iter()
                .find(|(name, ..)| *name == &limit.name[..end]);
            let (_, family, sock_type, protocol) = *known.unwrap_or(&(b"", 0, 0, 0));
            let pressure = pressure(limit, protocol);
            let cause = Cause::of_limit(limit.allocated, &limit.mem, 0, pressure);
            let row = overflow {
                allocated: limit.allocated,
                mem: limit.mem,
                minimum: limit.minimum,
                rmem_alloc: limit.rmem_alloc,
                wmem_alloc: limit.wmem_alloc,
                wmem_queued: limit.wmem_queued,
                sending: limit.sending,
                proto_name: limit.name,
                pressure: pressure.unwrap_or(false).into(),
                family,
                sock_type,
                protocol,
                ..blank
            };
            let protocol = known.map_or(0, |_| KNOWN_PROTOCOL);
            (row, protocol | cause.map_or(0, |_| KNOWN_CAUSE))
        }
        trace_kind::RCVQUEUE_FULL => (
            overflow {
                rmem_alloc: limit.rmem_alloc,
                rcvbuf: limit.rcvbuf,
                truesize: limit.truesize,
                ..blank
            },
            0,
        ),
        _ => (
            overflow {
                family: limit.family,
                sock_type: DGRAM,
                ..blank
            },
            0,
        ),
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
        let kept = if diagnose::has_tracepoint(all[2]) {
            3
        } else {
            2
        };
        all[..kept].to_vec()
    }

    fn blank(&self) -> &'static str {
        "owners and addresses stay blank, as do ports except UDP's"
    }

    fn follows(&self) -> bool {
        false
    }

    fn event(&mut self, event: Event<'_, ()>, out: &mut Out<'_>) {
        let Some(limit) = decode::<limit_event>(event.record) else {
            return;
        };
        let (mut row, known) = row_of(limit);
        let kind = match event.trace.kind {
            trace_kind::RCVQUEUE_FULL => RCVQUEUE_FULL,
            trace_kind::EXCEED_BUF_LIMIT => EXCEED_BUF_LIMIT,
            _ => UDP_FAIL_QUEUE,
        };
        let known = known | RECORDS[usize::from(kind)];
        let head = head(event.trace, &owner::default(), kind, known);
        let mut flow = head.flow;
        flow.family = match row.family {
            INET => 4,
            INET6 => 6,
            _ => 0,
        };
        if out.filter.passes_endless(&flow, &head.owner) {
            row = row.with_head(&head);
            out.record(&row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &[u8], allocated: i64) -> limit_event {
        let mut limit = limit_event {
            allocated,
            mem: [10, 20, 30],
            ..limit_event::default()
        };
        limit.trace.kind = trace_kind::EXCEED_BUF_LIMIT;
        limit.name[..name.len()].copy_from_slice(name);
        limit
    }

    #[test]
    fn cause_follows_from_known_numbers() {
        for (name, allocated, cause) in [
            (&b"TCP"[..], 31, Some(Cause::MemMax)),
            (b"TCP", 30, Some(Cause::Pressure)),
            (b"TCP", 20, None),
            (b"UDPv6", 20, Some(Cause::Pressure)),
            (b"TCP", 10, Some(Cause::MemCg)),
            (b"SCTP", 15, None),
        ] {
            let (row, known) = row_of(&limit(name, allocated));
            let mut row = row;
            row.head.event = EXCEED_BUF_LIMIT;
            row.head.known = known;
            let actual = Cause::of(&row);
            assert_eq!(actual, cause, "{allocated}");
        }
        let row = row_of(&limit(b"TCPv6", 31)).0;
        assert_eq!(
            (row.family, row.sock_type, row.protocol),
            (INET6, STREAM, 6)
        );
        assert_eq!(row_of(&limit(b"SCTP", 31)).0.protocol, 0);
    }
}
