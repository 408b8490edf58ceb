// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets from records alone, on a kernel without type information: the records tell when and whose, and inet_diag
//! has the statistics of each socket that is destroyed.

use tcptools::clock::jiffy_us;
use tcptools::diag::{Accounts, Described, Finals};
use tcptools::names::state::{
    CLOSE, CLOSING, ESTABLISHED, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use tcptools::record::{self, Event, Socket, Translate, Wanted, head};
use tcptools::session::Unseen;
use tcptools::types::{Record, bytes_of, flow, seen, seen_kind};

use super::bpf::types::info;
use super::{ATTEMPT, Args, CONNECTION, LISTENER, UNUSED};

/// `struct use_state` of tcpinfo.bpf.c, and what is known at CLOSE.
#[derive(Clone, Copy, Default)]
pub struct Use {
    /// ESTABLISHED, or SYN_SENT until then; 0: before the trace.
    start_ns: u64,
    close_ns: u64,
    uses: u32,
    kind: u32,
    /// Before CLOSE.
    state: u8,
    /// At CLOSE: tcp_disconnect() may clear it before the socket is destroyed.
    flow: flow,
}

impl Use {
    fn begin(&mut self, kind: u32, at_ns: u64) {
        *self = Self {
            start_ns: at_ns,
            kind,
            uses: self.uses + u32::from(kind != LISTENER),
            ..Self::default()
        };
    }

    /// state_changed() of tcpinfo.bpf.c.
    fn follow(&mut self, seen: &seen) {
        match (seen.old_state, seen.state) {
            (_, SYN_SENT) | (LISTEN, SYN_RECV) => self.begin(ATTEMPT, seen.at_ns),
            (_, LISTEN) => self.begin(LISTENER, seen.at_ns),
            (_, ESTABLISHED) if self.kind != CONNECTION => {
                self.kind = CONNECTION;
                self.start_ns = seen.at_ns;
            }
            (old, CLOSE) => {
                if self.kind == UNUSED {
                    self.kind = use_of(old); // open before the trace
                    self.uses = 1;
                }
                self.state = old;
                self.close_ns = seen.at_ns;
                self.flow = seen.flow;
            }
            _ => {}
        }
    }
}

fn use_of(state: u8) -> u32 {
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
    finals: Finals<info>,
}

impl Sockets {
    pub fn new(args: &Args) -> Self {
        Self {
            all: args.all,
            finals: Finals::new(Accounts::watch()),
        }
    }

    /// on_destroy() of tcpinfo.bpf.c.
    fn destroyed(&mut self, event: &Event<'_, Use>, wanted: &Wanted) {
        let seen = event.seen;
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
        let mut head = head(seen, &event.owner, used.kind);
        if closed {
            head.flow = used.flow;
        }
        if !wanted.passes(&head.flow, &head.owner) {
            return;
        }
        let close_ns = if closed { used.close_ns } else { seen.at_ns };
        let row = info {
            duration_ns: match used.start_ns {
                0 => 0,
                start_ns => close_ns.saturating_sub(start_ns),
            },
            close_ns,
            // Never followed, so never seen in use, which does not say that it never was.
            uses: if tracked { used.uses } else { u32::MAX },
            state: if closed { used.state } else { CLOSE },
            bare: 1,
            ..info::default()
        };
        self.finals.push(seen.cookie, row.with_head(&head));
    }
}

/// Completes a row with the statistics, unless tcp_disconnect() has cleared them, with the remote end.
fn complete(row: &mut info, socket: Option<&Described>) {
    row.head.netns = socket.map_or(row.head.netns, |s| s.netns);
    let Some(socket) = socket.filter(|s| s.flow.rport == row.head.flow.rport) else {
        return;
    };
    let told = &socket.info;
    // take_late() of tcpinfo.bpf.c.
    if row.head.event == UNUSED && (told.segs_in != 0 || told.segs_out != 0) {
        row.head.event = CONNECTION;
        row.uses = 1;
    }
    let runs_on = timers_run_on(row);
    let stopped = |us: u64| if runs_on && us != 0 { u64::MAX } else { us };
    *row = info {
        bytes_sent: told.bytes_sent,
        bytes_retrans: told.bytes_retrans,
        bytes_acked: told.bytes_acked,
        bytes_received: told.bytes_received,
        pacing_rate: told.pacing_rate,
        busy_us: stopped(told.busy_time),
        rwnd_limited_us: stopped(told.rwnd_limited),
        sndbuf_limited_us: stopped(told.sndbuf_limited),
        delivery_rate: told.delivery_rate,
        segs_out: told.segs_out,
        segs_in: told.segs_in,
        data_segs_out: told.data_segs_out,
        data_segs_in: told.data_segs_in,
        total_retrans: told.total_retrans,
        total_rto: told.total_rto.into(),
        sacked: told.sacked,
        lost: told.lost,
        retrans: told.retrans,
        delivered: told.delivered,
        delivered_ce: told.delivered_ce,
        dsack_dups: told.dsack_dups,
        reord_seen: told.reord_seen,
        reordering: told.reordering,
        rcv_ooopack: told.rcv_ooopack,
        rtt_us: told.rtt,
        rttvar_us: told.rttvar,
        min_rtt_us: told.min_rtt,
        rcv_rtt_us: told.rcv_rtt,
        rto_us: told.rto,
        snd_cwnd: told.snd_cwnd,
        snd_ssthresh: told.snd_ssthresh,
        snd_wnd: told.snd_wnd,
        rcv_wnd: told.rcv_wnd,
        rcv_ssthresh: told.rcv_ssthresh,
        rcv_space: told.rcv_space,
        notsent: told.notsent_bytes,
        snd_mss: told.snd_mss,
        rcv_mss: told.rcv_mss,
        advmss: told.advmss,
        pmtu: told.pmtu,
        options: told.options.into(),
        ca_state: told.ca_state,
        retransmits: told.retransmits,
        snd_wscale: told.wscale & 15,
        rcv_wscale: told.wscale >> 4,
        app_limited: told.flags & 1,
        bare: 1 + (socket.info_bytes / 4) as u8,
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

/// Rows whose socket was never used are for `--all` only. Of one that was CLOSE before the trace its statistics tell.
fn tell(all: bool, mut row: info, socket: Option<&Described>, out: &mut dyn FnMut(&[u8])) {
    complete(&mut row, socket);
    if row.head.event != UNUSED || all {
        out(bytes_of(&row));
    }
}

impl Translate for Sockets {
    type Tool = Use;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![]
    }

    fn blank(&self) -> &'static str {
        match self.finals.are_told() {
            true => {
                "statistics are those at the destruction of the socket; CA, errno, unacked, backoff and last_* stay blank, after a reset all of them (see CAVEATS of tcpinfo)"
            }
            false => "the statistics stay blank",
        }
    }

    fn blank_of_sockets(&self) -> &'static str {
        match self.finals.are_told() {
            true => "uid",
            false => "netns and uid",
        }
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self.finals.unvisited(),
            statistics_lost: self.finals.lost(),
        }
    }

    fn attached(&mut self) {
        if let Some(why) = self.finals.untold() {
            tcptools::message!("tcpinfo: the statistics stay blank: {why}");
        }
    }

    fn event(&mut self, event: Event<'_, Use>, wanted: &Wanted, _out: &mut dyn FnMut(&[u8])) {
        match (event.seen.kind, event.socket) {
            (seen_kind::STATE, Some(socket)) => socket.tool.follow(event.seen),
            (seen_kind::DESTROY, socket) => self.destroyed(&Event { socket, ..event }, wanted),
            _ => {}
        }
    }

    fn tick(
        &mut self,
        _until_ns: u64,
        _sockets: &mut record::Sockets<Use>,
        _wanted: &Wanted,
        out: &mut dyn FnMut(&[u8]),
    ) {
        let all = self.all;
        self.finals
            .release(|row, socket| tell(all, row, socket, out));
    }

    fn finish(&mut self, _wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let all = self.all;
        self.finals
            .finish(|row, socket| tell(all, row, socket, out));
        let lost = self.finals.lost();
        if lost > 0 {
            tcptools::message!(
                "tcpinfo: the statistics of {lost} sockets were lost: they came faster than they were read"
            );
        }
    }
}
