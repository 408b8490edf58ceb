// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets from records alone, on a kernel without type information: the records tell when and whose, and inet_diag
//! has the statistics of each socket that is destroyed.

use std::time::Instant;

use crate::abi::known::KNOWN_NETNS;
use crate::abi::names::state::{
    CLOSE, CLOSING, ESTABLISHED, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use crate::abi::types::{Record, flow, trace_event, trace_kind};
use crate::fallback::{self, Event, FilterMatch, Out, PendingRows, Socket, Translate, head};
use crate::kernel::clock::jiffy_us;
use crate::kernel::sock_diag::{DestroyMonitor, DiagSocket};

use super::Args;
use super::bpf::types::info;
use super::columns::{ATTEMPT, CONNECTION, LISTENER, UNUSED, known_of};

/// `struct socket_usage` of tcpinfo.bpf.c, and what is known at CLOSE.
#[derive(Clone, Copy, Default)]
pub struct Use {
    /// ESTABLISHED, or SYN_SENT until then; 0: before the trace.
    start_ns: u64,
    close_ns: u64,
    uses: u32,
    kind: u16,
    /// Before CLOSE.
    state: u8,
    /// At CLOSE: tcp_disconnect() may clear it before the socket is destroyed.
    flow: flow,
}

impl Use {
    fn begin(&mut self, kind: u16, at_ns: u64) {
        *self = Self {
            start_ns: at_ns,
            kind,
            uses: self.uses + u32::from(kind != LISTENER),
            ..Self::default()
        };
    }

    /// state_changed() of tcpinfo.bpf.c.
    fn follow(&mut self, trace: &trace_event) {
        match (trace.old_state, trace.state) {
            (_, SYN_SENT) | (LISTEN, SYN_RECV) => self.begin(ATTEMPT, trace.at_ns),
            (_, LISTEN) => self.begin(LISTENER, trace.at_ns),
            (_, ESTABLISHED) if self.kind != CONNECTION => {
                self.kind = CONNECTION;
                self.start_ns = trace.at_ns;
            }
            (old, CLOSE) => {
                if self.kind == UNUSED {
                    self.kind = use_of(old); // open before the trace
                    self.uses = 1;
                }
                self.state = old;
                self.close_ns = trace.at_ns;
                self.flow = trace.flow;
            }
            _ => {}
        }
    }
}

fn use_of(state: u8) -> u16 {
    match state {
        CLOSE => UNUSED,
        LISTEN => LISTENER,
        SYN_SENT | SYN_RECV => ATTEMPT,
        _ => CONNECTION,
    }
}

/// Makes the rows.
pub struct Sockets {
    all: bool,
    finals: PendingRows<info>,
}

impl Sockets {
    pub fn new(args: &Args) -> Self {
        Self {
            all: args.all,
            finals: PendingRows::new(DestroyMonitor::watch()),
        }
    }

    /// on_destroy() of tcpinfo.bpf.c.
    fn destroyed(&mut self, event: &Event<'_, Use>, filter: &FilterMatch) {
        let trace = event.trace;
        let used = event
            .socket
            .as_ref()
            .map(|socket: &&mut Socket<Use>| socket.tool);
        let tracked = used.is_some();
        let used = used.unwrap_or_default();
        let closed = used.close_ns != 0;
        if used.kind == LISTENER && !self.all {
            return;
        }
        let mut head = head(trace, &event.owner, used.kind, 0);
        if closed {
            head.flow = used.flow;
        }
        if !filter.passes(&head.flow, &head.owner) {
            return;
        }
        let close_ns = if closed { used.close_ns } else { trace.at_ns };
        let row = info {
            duration_ns: match used.start_ns {
                0 => 0,
                start_ns => close_ns.saturating_sub(start_ns),
            },
            close_ns,
            // Never followed: whether it was used is unknown.
            uses: if tracked { used.uses } else { u32::MAX },
            state: if closed { used.state } else { CLOSE },
            ..info::default()
        };
        self.finals.push(trace.cookie, row.with_head(&head));
    }
}

/// Completes a row with the statistics, unless tcp_disconnect() has cleared them, with the remote end.
fn complete(row: &mut info, socket: Option<&DiagSocket>) {
    if let Some(socket) = socket {
        row.head.netns = socket.netns;
        row.head.known |= KNOWN_NETNS;
    }
    let Some(socket) = socket.filter(|s| s.flow.rport == row.head.flow.rport) else {
        return;
    };
    row.head.known |= known_of(socket.info_bytes);
    let info = &socket.info;
    // take_late() of tcpinfo.bpf.c.
    if row.head.event == UNUSED && (info.segs_in != 0 || info.segs_out != 0) {
        row.head.event = CONNECTION;
        row.uses = 1;
    }
    let runs_on = timers_run_on(row);
    let stopped = |us: u64| if runs_on && us != 0 { u64::MAX } else { us };
    *row = info {
        bytes_sent: info.bytes_sent,
        bytes_retrans: info.bytes_retrans,
        bytes_acked: info.bytes_acked,
        bytes_received: info.bytes_received,
        pacing_rate: info.pacing_rate,
        busy_us: stopped(info.busy_time),
        rwnd_limited_us: stopped(info.rwnd_limited),
        sndbuf_limited_us: stopped(info.sndbuf_limited),
        delivery_rate: info.delivery_rate,
        segs_out: info.segs_out,
        segs_in: info.segs_in,
        data_segs_out: info.data_segs_out,
        data_segs_in: info.data_segs_in,
        total_retrans: info.total_retrans,
        total_rto: info.total_rto.into(),
        sacked: info.sacked,
        lost: info.lost,
        retrans: info.retrans,
        delivered: info.delivered,
        delivered_ce: info.delivered_ce,
        dsack_dups: info.dsack_dups,
        reord_seen: info.reord_seen,
        reordering: info.reordering,
        rcv_ooopack: info.rcv_ooopack,
        rtt_us: info.rtt,
        rttvar_us: info.rttvar,
        min_rtt_us: info.min_rtt,
        rcv_rtt_us: info.rcv_rtt,
        rto_us: info.rto,
        snd_cwnd: info.snd_cwnd,
        snd_ssthresh: info.snd_ssthresh,
        snd_wnd: info.snd_wnd,
        rcv_wnd: info.rcv_wnd,
        rcv_ssthresh: info.rcv_ssthresh,
        rcv_space: info.rcv_space,
        notsent: info.notsent_bytes,
        snd_mss: info.snd_mss,
        rcv_mss: info.rcv_mss,
        advmss: info.advmss,
        pmtu: info.pmtu,
        options: info.options.into(),
        ca_state: info.ca_state,
        retransmits: info.retransmits,
        snd_wscale: info.wscale & 15,
        rcv_wscale: info.wscale >> 4,
        app_limited: info.flags & 1,
        ..*row
    };
}

/// Whether the times of sending are not those at CLOSE: where data was still to be acknowledged they run on until the
/// socket is destroyed (net/ipv4/tcp.c: tcp_write_queue_purge).
fn timers_run_on(row: &info) -> bool {
    let acknowledged = matches!(row.state, FIN_WAIT2 | CLOSING | LAST_ACK);
    let open_us = row.head.boot_ns.saturating_sub(row.close_ns) / 1000;
    !acknowledged && open_us >= jiffy_us()
}

/// Rows of unused sockets are for `--all` only. For sockets in CLOSE before the trace, the statistics decide.
fn emit(all: bool, mut row: info, socket: Option<&DiagSocket>, out: &mut Out<'_>) {
    complete(&mut row, socket);
    if row.head.event != UNUSED || all {
        out.record(&row);
    }
}

impl Translate for Sockets {
    type Tool = Use;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![]
    }

    fn blank(&self) -> &'static str {
        match self.finals.accounts().is_available() {
            true => {
                "statistics are those at the destruction of the socket; CA, errno, packets_out, backoff and last_* stay blank, after a reset all of them (see CAVEATS in tcpinfo(8))"
            }
            false => "the statistics stay blank",
        }
    }

    fn accounts(&self) -> Option<&DestroyMonitor> {
        Some(self.finals.accounts())
    }

    fn event(&mut self, event: Event<'_, Use>, out: &mut Out<'_>) {
        match (event.trace.kind, event.socket) {
            (trace_kind::STATE, Some(socket)) => socket.tool.follow(event.trace),
            (trace_kind::DESTROY, socket) => self.destroyed(&Event { socket, ..event }, out.filter),
            _ => {}
        }
    }

    fn tick(&mut self, _until_ns: u64, _sockets: &mut fallback::Sockets<Use>, out: &mut Out<'_>) {
        let all = self.all;
        self.finals
            .release_due(|row, socket| emit(all, row, socket, out));
    }

    fn due(&self) -> Option<Instant> {
        self.finals.due()
    }

    fn finish(&mut self, out: &mut Out<'_>) {
        let all = self.all;
        self.finals
            .finish(|row, socket| emit(all, row, socket, out));
    }
}
