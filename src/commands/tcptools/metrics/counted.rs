// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the numbers of the kernel half's counters mean: a metric, and the value of its own label.

use super::bpf::types::{self, span_kind};
use super::model::Is;
use super::text::label;
use crate::abi::names::tcp_state;
use crate::commands::{tcpconnect, tcplife, tcpretrans};
use crate::kernel::enums::Names;
use crate::kernel::tracepoints::drops;

crate::enumerators! { types::counter as u32:
    pub(super) OPENED = COUNT_OPENED,
    pub(super) ACCEPTED = COUNT_ACCEPTED,
    pub(super) CLOSED = COUNT_CLOSED,
    pub(super) RETRANSMITTED = COUNT_RETRANSMITTED,
    pub(super) SPURIOUS = COUNT_SPURIOUS,
    pub(super) SENT = COUNT_SENT,
    pub(super) RECEIVED = COUNT_RECEIVED,
    pub(super) BUFFERS = COUNT_BUFFERS,
    pub(super) SOCKETS = COUNT_SOCKETS,
    pub(super) RESET_RECEIVED = COUNT_RESET_RECEIVED,
    pub(super) OVERFLOWED = COUNT_OVERFLOWED,
    pub(super) RESET_SENT = COUNT_RESET_SENT,
    pub(super) DROPPED = COUNT_DROPPED,
    pub(super) COUNTERS = COUNTERS,
}

/// `COUNT_ENDED` of metrics/counters.bpf.h, which is no enumerator as it is no counter of its own.
pub(super) const ENDED: u32 = 1 << 24;

/// Reasons of RSTs and of drops that have a counter of their own.
const RESET_REASONS: u32 = 64;
const DROP_REASONS: u32 = 256;
/// States that a look counts.
pub(super) const STATES: u32 = 16;
/// ESTABLISHED to CLOSING: those that a visited socket has.
const USED_STATES: std::ops::RangeInclusive<u8> = 1..=11;

const ACCEPTED_OUTCOMES: [&str; 2] = ["established", "aborted"];
/// By `enum buffer_event`; as sockbuf has them.
const BUFFER_EVENTS: [&str; 3] = ["rcvqueue_full", "exceed_buf_limit", "udp_fail_queue_rcv"];

/// Whether it is a gauge: what a look adds to it.
pub(super) fn is_gauge(counter: u32) -> bool {
    (SOCKETS..SOCKETS + STATES).contains(&counter)
}

/// The running kernel's names of reasons, read before privileges are dropped.
pub(super) struct Reasons {
    resets: Names,
}

impl Reasons {
    pub(super) fn load() -> Self {
        drops::load();
        Self {
            resets: Names::from_kernel("sk_rst_reason", "SK_RST_REASON_"),
        }
    }

    /// The metric of a counter, and its own label; `None` for what is none of them.
    pub(super) fn of(&self, counter: u32) -> Option<(Is, String)> {
        let named = |is: Is, name: &str, value: &str| {
            let mut own = String::new();
            label(&mut own, name, value);
            Some((is, own))
        };
        match counter {
            ACCEPTED..CLOSED => {
                let outcome = ACCEPTED_OUTCOMES.get((counter - ACCEPTED) as usize)?;
                named(Is::Accepted, "outcome", outcome)
            }
            // The table had no room for its reason.
            CLOSED => named(Is::Closed, "reason", "other"),
            RETRANSMITTED..SPURIOUS => {
                let kind = tcpretrans::kind_name((counter - RETRANSMITTED) as u8)?;
                named(Is::Retransmitted, "kind", kind)
            }
            SPURIOUS => Some((Is::Spurious, String::new())),
            SENT => Some((Is::Sent, String::new())),
            RECEIVED => Some((Is::Received, String::new())),
            BUFFERS..SOCKETS => {
                let event = BUFFER_EVENTS.get((counter - BUFFERS) as usize)?;
                named(Is::Buffers, "event", event)
            }
            SOCKETS..RESET_RECEIVED => {
                let state = (counter - SOCKETS) as u8;
                let known = USED_STATES.contains(&state);
                known.then(|| named(Is::Sockets, "state", tcp_state(state)))?
            }
            RESET_RECEIVED => named(Is::Resets, "direction", "received"),
            RESET_SENT..DROPPED => {
                let mut own = String::new();
                label(&mut own, "direction", "sent");
                let reason = counter - RESET_SENT;
                let name = self.resets.get(reason.into());
                let name = name.filter(|_| reason + 1 < RESET_REASONS);
                label(&mut own, "reason", name.unwrap_or("UNKNOWN"));
                Some((Is::Resets, own))
            }
            DROPPED..COUNTERS => {
                let reason = counter - DROPPED;
                let name = drops::name(reason as i32).filter(|_| reason < DROP_REASONS);
                named(Is::Dropped, "reason", name.unwrap_or("UNKNOWN"))
            }
            ENDED.. => {
                let (error, state, facts) =
                    ((counter >> 16) as u8, counter >> 12 & 15, counter & 0xfff);
                let reason = tcplife::reason_of(error, state as u8, facts as u16);
                named(Is::Closed, "reason", reason)
            }
            OPENED..ACCEPTED => {
                let outcome = tcpconnect::outcome_name(counter - OPENED);
                // One that is in progress has not ended.
                (outcome != "pending").then(|| named(Is::Opened, "outcome", outcome))?
            }
            _ => None,
        }
    }
}

/// Counters that are there from the beginning, so that the first occurrence is an increase.
pub(super) fn is_shown_at_zero(counter: u32) -> bool {
    counter <= RESET_RECEIVED && counter != CLOSED
}

/// An error, a state and facts ([`ENDED`]) for each reason of an end.
pub(super) const EACH_REASON: [u32; 8] = [
    5 << 12 | 1 << 4,        // FIN_WAIT2, a FIN received: fin_local
    9 << 12 | 1 << 4,        // LAST_ACK: fin_remote
    11 << 12 | 1 << 4,       // CLOSING: fin_both
    1 << 12,                 // ESTABLISHED, no error: rst_sent
    104 << 16 | 1 << 12 | 4, // ECONNRESET, an RST received: rst_received
    110 << 16 | 1 << 12,     // ETIMEDOUT: timeout
    113 << 16 | 1 << 12 | 8, // EHOSTUNREACH: unreachable
    103 << 16 | 1 << 12,     // ECONNABORTED: aborted
];

/// A histogram's metric, and the powers of two of microseconds that are its limits: those between are added to the next.
pub(super) fn span(kind: u32) -> Option<(Is, &'static [u32])> {
    const FINE: &[u32] = &[
        4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
    ];
    const HANDSHAKES: &[u32] = &[
        4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
    ];
    const COARSE: &[u32] = &[8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36];
    let kinds = [
        (span_kind::SPAN_HANDSHAKE, Is::Handshake, HANDSHAKES),
        (span_kind::SPAN_SESSION, Is::Session, COARSE),
        (span_kind::SPAN_SRTT, Is::Srtt, FINE),
        (span_kind::SPAN_MIN_RTT, Is::MinRtt, FINE),
    ];
    let found = kinds.into_iter().find(|(number, ..)| number.0 == kind);
    found.map(|(_, is, limits)| (is, limits))
}

/// Series of one histogram, as Prometheus counts them; at most.
pub(super) const SPAN_SERIES: u32 = 27;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_one_meaning() {
        let reasons = Reasons {
            resets: Names::default(),
        };
        let mut seen = Vec::new();
        for counter in 0..COUNTERS {
            if let Some(found) = reasons.of(counter)
                && counter < RESET_SENT
            {
                assert!(!seen.contains(&found), "{counter}: {found:?}");
                seen.push(found);
            }
        }
        assert_eq!(reasons.of(OVERFLOWED), None);
        let of = |counter| reasons.of(counter).unwrap().1;
        assert_eq!(of(OPENED), r#"outcome="established""#);
        assert_eq!(of(ACCEPTED + 1), r#"outcome="aborted""#);
        assert_eq!(of(RETRANSMITTED + 3), r#"kind="rto""#);
        assert_eq!(of(SOCKETS + 10), r#"state="LISTEN""#);
        // FIN_WAIT2 with the other end's FIN: the bits of close_reason.rs.
        assert_eq!(of(ENDED | 5 << 12 | 1 << 4), r#"reason="fin_local""#);
        assert_eq!(of(ENDED | 110 << 16 | 1 << 12), r#"reason="timeout""#);
    }

    #[test]
    fn every_reason_is_there_at_the_beginning() {
        let reasons = Reasons {
            resets: Names::default(),
        };
        let of = |ended| reasons.of(ENDED | ended).unwrap().1;
        let all = EACH_REASON.map(of);
        let named = [
            "fin_local",
            "fin_remote",
            "fin_both",
            "rst_sent",
            "rst_received",
            "timeout",
            "unreachable",
            "aborted",
        ];
        assert_eq!(all, named.map(|name| format!("reason=\"{name}\"")));
    }

    #[test]
    fn limits_fit() {
        for kind in 0..4 {
            let (_, limits) = span(kind).unwrap();
            assert!(limits.is_sorted() && limits.len() as u32 + 3 <= SPAN_SERIES);
        }
        assert_eq!(span(4), None);
    }
}
