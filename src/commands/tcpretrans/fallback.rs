// SPDX-License-Identifier: MIT OR Apache-2.0
//! Retransmissions from records alone, on a kernel without BTF: the counterpart of tcpretrans.bpf.c.

use crate::abi::known::{KNOWN_CAUSE, KNOWN_SOCKET};
use crate::abi::names::ca_state::{LOSS, RECOVERY};
use crate::abi::names::state::{SYN_RECV, SYN_SENT};
use crate::abi::types::{
    Record, decode, owner, pid_source, segment_event, trace_event, trace_kind,
};
use crate::fallback::{Event, Out, Translate, head, is_counted, refuse};
use anyhow::Result;

use super::Args;
use super::bpf::types::retrans;
use super::columns::{FAST, OTHER, RTO, SYN, SYNACK, TLP};

/// `TCPHDR_FIN`, `TCPHDR_SYN` (include/net/tcp.h).
const FLAG_FIN: u16 = 1;
const FLAG_SYN: u16 = 2;
/// `ICSK_TIME_LOSS_PROBE` (include/net/inet_connection_sock.h).
const TIME_LOSS_PROBE: u8 = 5;

/// What is known where the socket was read.
const SOCKET: u16 = KNOWN_SOCKET | KNOWN_CAUSE;

/// Makes the rows.
pub struct Retransmits {
    /// The sockets themselves are read (`--btf`).
    sockets: bool,
    failed: bool,
    lossprobe: bool,
}

impl Retransmits {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args, sockets: bool) -> Result<Self> {
        refuse(&[
            ("--sequence", args.sequence && !sockets),
            ("--lossprobe", args.lossprobe && !sockets),
            ("--summary", args.summary.is_some()),
            ("--why", args.why),
            ("--stack", args.stack),
        ])?;
        Ok(Self {
            sockets,
            failed: args.failed,
            lossprobe: args.lossprobe,
        })
    }
}

/// kind_of() of tcpretrans.bpf.c. `timed_out`: the timer has fired since the congestion state became Loss.
fn kind_of(segment: &segment_event, timed_out: &mut bool) -> u8 {
    if segment.ca_state != LOSS {
        *timed_out = false;
    }
    if segment.tcp_flags & FLAG_SYN != 0 {
        return SYN;
    }
    if segment.ca_state == LOSS {
        *timed_out |= segment.retransmits != 0;
        return match *timed_out || segment.undo_marker != 0 {
            true => RTO,
            false => OTHER,
        };
    }
    // No clock of the kernel's but the one that it has just noted as the time of this segment.
    let left = segment.timer_jiffies.wrapping_sub(segment.sent_jiffies) as i32;
    let due = segment.has_timer == 0 || left <= 0;
    match segment.ca_state {
        RECOVERY => FAST,
        _ if segment.pending == TIME_LOSS_PROBE && due => TLP,
        _ => OTHER,
    }
}

/// segment_fill() of tcpretrans.bpf.c.
fn of_segment(segment: &segment_event, kind: u8) -> retrans {
    let flags = segment.tcp_flags;
    let numbers = u32::from(flags & FLAG_SYN != 0) + u32::from(flags & FLAG_FIN != 0);
    let timed = segment.ca_state == LOSS;
    let attempt = if timed { segment.retransmits } else { 0 };
    retrans {
        seq: segment.seq,
        len: segment
            .end_seq
            .wrapping_sub(segment.seq)
            .wrapping_sub(numbers),
        segs: segment.segs,
        rto_jiffies: segment.rto_jiffies,
        srtt_us: segment.srtt_us,
        snd_cwnd: segment.snd_cwnd,
        in_flight_bytes: segment.in_flight_bytes,
        tcp_flags: flags,
        kind,
        ca_state: segment.ca_state,
        attempt,
        timer: (timed && attempt != 0 && segment.pending == 0).into(),
        ..retrans::default()
    }
}

/// synack_fill() of tcpretrans.bpf.c.
fn of_request(segment: &segment_event) -> retrans {
    retrans {
        seq: segment.seq,
        segs: 1,
        tcp_flags: FLAG_SYN | 0x10,
        kind: SYNACK,
        attempt: segment.retransmits.saturating_add(1),
        listener: segment.listener,
        syn_queue: segment.syn_queue,
        accept_queue: segment.accept_queue,
        accept_queue_max: segment.accept_queue_max,
        hint: segment.hint,
        ..retrans::default()
    }
}

/// The kind, as far as the record alone shows it.
fn kind_of_record(trace: &trace_event) -> Option<u8> {
    match (trace.kind, trace.state) {
        (trace_kind::SYNACK, _) => Some(SYNACK),
        (_, SYN_SENT) => Some(SYN),
        _ => None,
    }
}

/// The listener is not locked, and a process acting on it may be in accept(): use the recorded owner.
fn of_listener(owner: &owner) -> owner {
    match owner.source {
        pid_source::UNKNOWN => *owner,
        _ => owner {
            source: pid_source::LISTENER,
            ..*owner
        },
    }
}

impl Translate for Retransmits {
    /// See `kind_of`.
    type Tool = bool;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"]
    }

    fn blank(&self) -> &'static str {
        match self.sockets {
            true => "the cookies of most connections stay blank",
            false => {
                "KIND is SYN, SYNACK or blank; the cookie and what describes the segment and its connection stay blank"
            }
        }
    }

    fn event(&mut self, event: Event<'_, bool>, out: &mut Out<'_>) {
        let trace = event.trace;
        let (state, owner) = match trace.kind {
            trace_kind::RETRANSMIT => (trace.state, event.owner),
            trace_kind::SYNACK => (SYN_RECV, of_listener(&event.owner)),
            _ => return,
        };
        let mut timed_out = false;
        let timed_out = event
            .socket
            .map_or(&mut timed_out, |socket| &mut socket.tool);
        let segment = decode::<segment_event>(event.record).filter(|s| s.known != 0);
        let (row, known) = match (segment, kind_of_record(trace)) {
            (Some(segment), Some(SYNACK)) => (of_request(segment), SOCKET),
            (Some(segment), _) => (of_segment(segment, kind_of(segment, timed_out)), SOCKET),
            (None, Some(kind)) => {
                let row = retrans {
                    kind,
                    ..retrans::default()
                };
                (row, KNOWN_CAUSE)
            }
            (None, None) => (retrans::default(), 0),
        };
        let counted = is_counted(trace.err);
        let shown = counted || self.failed || (self.lossprobe && row.kind == TLP);
        if !shown || !out.filter.passes(&trace.flow, &owner) {
            return;
        }
        let row = retrans {
            err: trace.err,
            counted: counted.into(),
            state,
            ..row
        };
        out.record(&row.with_head(&head(trace, &owner, 0, known)));
    }
}
