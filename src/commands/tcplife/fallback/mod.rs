// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions from records alone, on a kernel without BTF: the counterpart of tcplife.bpf.c.
//!
//! Bytes and round-trip times are in no record. inet_diag reports them when a socket is destroyed, so rows wait for
//! that.

use std::collections::HashMap;
use std::time::Instant;

use crate::abi::known::{KNOWN_BYTES, KNOWN_SOCKET};
use crate::abi::names::state::{
    CLOSE, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use crate::abi::types::{Record, close_event, flow, known, owner, trace_event, trace_kind};
use crate::fallback::{Event, Out, Sockets, Translate, head, refuse};
use crate::kernel::sock_diag::DestroyMonitor;
use crate::session::Interval;
use anyhow::Result;

use self::deferred_rows::DeferredRows;
use self::final_stats::{Ended, is_attempt};
use super::bpf::types::session;
use super::close_reason::{
    Ending, FIN_BOTH, FIN_LOCAL, FIN_REMOTE, NONE, REFUSED, RST_RECEIVED, RST_SENT, ended,
};
use super::{Args, DOUBT, SESSION_AMENDED, SESSION_CLOSED};

mod deferred_rows;
mod final_stats;

/// `struct connection` of tcplife.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Connection {
    start_ns: Option<u64>,
    /// Whether it was opened from here; `None`: not seen.
    opened_here: Option<bool>,
    /// It was open before the trace.
    partial: bool,
    rst_sent: bool,
    rst_received: bool,
    /// Something was sent again after the last change of state.
    retransmitted: bool,
    /// The number of its row and its ends, once it has ended. A reset that follows would be the true ending.
    closed: Option<(u64, flow)>,
}

/// Makes the rows.
pub struct Sessions {
    /// The sockets themselves are read (`--btf`).
    sockets: bool,
    /// Rows so far.
    rows: u64,
    deferred: DeferredRows,
    /// Rows whose sockets are destroyed, by their addresses: since the last swap, and before it. The reset that answers
    /// late data is sent after that (net/ipv4/tcp_ipv4.c: tcp_v4_do_rcv).
    gone: [HashMap<u64, (u64, flow)>; 2],
    swap: Interval,
}

impl Sessions {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args, sockets: bool) -> Result<Self> {
        refuse(&[("--active", args.active.is_some())])?;
        // At CLOSE the socket itself has more, and earlier.
        let accounts = match sockets {
            true => DestroyMonitor::without(),
            false => DestroyMonitor::watch(),
        };
        Ok(Self {
            sockets,
            rows: 0,
            deferred: DeferredRows::new(accounts),
            gone: Default::default(),
            swap: Interval::new(Some(DOUBT)),
        })
    }
}

/// How a session ended, as far as records show, and whether a reset sent afterwards may change it.
///
/// Without the socket's error a timeout, an ICMP error and an abort look like the end that they hasten. They do not
/// where nothing had to be sent again in the last state: then no timer has given up. A reset of ours before the change
/// to CLOSE is a keepalive's, or `ss -K`'s, or was sent for lack of memory.
fn ending(old: u8, connection: &Connection) -> (u8, bool) {
    let closing = matches!(old, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING);
    if connection.rst_received {
        // Data after shutdown also looks like a received reset; then a reset is sent next.
        return match old {
            SYN_SENT => (REFUSED, false),
            _ => (RST_RECEIVED, closing),
        };
    }
    if connection.rst_sent || connection.retransmitted {
        return (NONE, true);
    }
    match old {
        FIN_WAIT2 => (FIN_LOCAL, true),
        LAST_ACK => (FIN_REMOTE, true),
        CLOSING => (FIN_BOTH, true),
        _ => (NONE, true),
    }
}

/// The reason where the socket's error is known. A reset of ours that follows amends the row. Whether `sk_err_soft` has the
/// error, and TCP_REPAIR, are not known: without them an error ended it, and no reset of ours is assumed.
fn reason_by_error(trace: &trace_event, connection: &Connection, end: &close_event) -> u8 {
    let unacked = match end.known & known::TCP {
        0 => false,
        _ => end.bytes.wqueue != 0,
    };
    let facts = [
        (ended::MPTCP, trace.protocol != TCP),
        (ended::RST_SENT, connection.rst_sent),
        (ended::RST_RECEIVED, connection.rst_received),
        // Otherwise it would be FIN_WAIT2.
        (
            ended::UNACKED,
            unacked || trace.old_state == FIN_WAIT1 && trace.protocol == TCP,
        ),
        (ended::SOFT_ERROR | ended::REPAIR, true),
    ];
    let facts = facts.into_iter().filter(|fact| fact.1);
    let ending = Ending {
        old: trace.old_state,
        error: end.err,
        facts: facts.fold(0, |all, fact| all | fact.0),
    };
    ending.reason().0
}

impl Connection {
    /// A session whose beginning was not seen; one found at the start is at least that old. A reset may have been seen
    /// already.
    fn begin_late(&mut self, trace: &trace_event, scanned_ns: Option<u64>) {
        self.start_ns = Some(scanned_ns.unwrap_or(trace.at_ns));
        self.opened_here = (trace.old_state == SYN_SENT).then_some(true);
        self.partial = true;
    }

    fn change(&mut self, trace: &trace_event) {
        match (trace.old_state, trace.state) {
            (_, SYN_SENT) | (LISTEN, SYN_RECV) => {
                *self = Self {
                    start_ns: Some(trace.at_ns),
                    opened_here: Some(trace.state == SYN_SENT),
                    ..Self::default()
                };
            }
            (_, ESTABLISHED) => {
                self.start_ns = Some(trace.at_ns);
                self.partial = false;
                self.rst_sent = false;
            }
            _ => {}
        }
        self.retransmitted = false;
    }
}

fn row(trace: &trace_event, owner: &owner, kind: u16) -> session {
    let row = session {
        tx_bytes: u64::MAX,
        rx_bytes: u64::MAX,
        min_rtt_us: u32::MAX,
        state: trace.old_state,
        ..session::default()
    };
    row.with_head(&head(trace, owner, kind, 0))
}

fn ends(flow: &flow) -> ([u8; 16], [u8; 16], u16, u16) {
    (flow.laddr, flow.raddr, flow.lport, flow.rport)
}

impl Sessions {
    /// Amends a row if a reset was its real end; returns whether it did.
    fn amend(&mut self, event: &Event<'_, Connection>, out: &mut Out<'_>) -> bool {
        let connection = event.socket.as_ref().map(|socket| socket.tool);
        let closed = match connection {
            Some(connection) => connection.closed,
            // Its memory may be another socket's, which a filter hides.
            None => {
                let address = &event.trace.skaddr;
                let gone = self.gone.iter().find_map(|gone| gone.get(address).copied());
                gone.filter(|(_, flow)| ends(flow) == ends(&event.trace.flow))
            }
        };
        let Some((number, _)) = closed else {
            return false;
        };
        if self.deferred.amend(number, RST_SENT) {
            return true;
        }
        let amended = session {
            reason: RST_SENT,
            sock: number,
            ..row(event.trace, &event.owner, SESSION_AMENDED)
        };
        out.record(&amended);
        true
    }
}

impl Translate for Sessions {
    type Tool = Connection;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![
            "tcp:tcp_receive_reset",
            "tcp:tcp_send_reset",
            "tcp:tcp_retransmit_skb",
        ]
    }

    fn blank(&self) -> &'static str {
        match self.deferred.accounts().is_available() {
            _ if self.sockets => "the cookies of most sessions stay blank",
            true => {
                "rows appear when the socket is destroyed; CA, errno and mptcp stay blank, in some rows also bytes and round-trip times (see CAVEATS in tcplife(8))"
            }
            false => {
                "bytes, round-trip times and other statistics stay blank, in some rows also how the session ended (see CAVEATS in tcplife(8))"
            }
        }
    }

    fn notes_calls(&self) -> bool {
        !self.sockets && self.deferred.accounts().is_available()
    }

    fn accounts(&self) -> Option<&DestroyMonitor> {
        Some(self.deferred.accounts())
    }

    fn forget(&mut self) {
        self.gone = Default::default();
    }

    fn tick(&mut self, _until_ns: u64, _sockets: &mut Sockets<Connection>, out: &mut Out<'_>) {
        if self.swap.is_due() {
            self.gone.swap(0, 1);
            self.gone[0].clear();
        }
        self.deferred.release_due(|row| out.record(row));
    }

    fn due(&self) -> Option<Instant> {
        self.deferred.due()
    }

    fn finish(&mut self, out: &mut Out<'_>) {
        self.deferred.finish(|row| out.record(row));
    }

    fn event(&mut self, event: Event<'_, Connection>, out: &mut Out<'_>) {
        let trace = event.trace;
        if trace.kind == trace_kind::SEND_RESET && self.amend(&event, out) {
            return;
        }
        let Some(socket) = event.socket else {
            return;
        };
        if trace.kind == trace_kind::STATE {
            for gone in &mut self.gone {
                gone.remove(&trace.skaddr);
            }
        }
        let connection = &mut socket.tool;
        let late = !matches!(trace.old_state, CLOSE | LISTEN);
        if trace.kind == trace_kind::STATE && late && connection.start_ns.is_none() {
            connection.begin_late(trace, socket.scanned_ns);
        }
        match trace.kind {
            trace_kind::RECEIVE_RESET => connection.rst_received = true,
            trace_kind::RETRANSMIT => connection.retransmitted = true,
            trace_kind::DESTROY => {
                if let Some((number, flow)) = connection.closed {
                    self.gone[0].insert(trace.skaddr, (number, flow));
                    let calls = event.end.map(|end| end.calls).unwrap_or_default();
                    self.deferred.destroyed(number, trace.cookie, &calls);
                }
            }
            trace_kind::SEND_RESET => connection.rst_sent = trace.state != LISTEN,
            trace_kind::STATE if trace.state == CLOSE && trace.old_state != LISTEN => {
                let number = self.rows;
                self.rows += 1;
                if out.filter.passes(&trace.flow, &socket.owner) {
                    self.close(number, trace, event.end, &socket.owner, connection);
                }
                connection.closed = Some((number, trace.flow));
            }
            trace_kind::STATE => {
                if let Some((number, _)) = connection.closed {
                    self.deferred.reused(number);
                }
                connection.change(trace);
            }
            _ => {}
        }
    }
}

impl Sessions {
    /// The change to CLOSE.
    fn close(
        &mut self,
        number: u64,
        trace: &trace_event,
        end: Option<&close_event>,
        owner: &owner,
        connection: &Connection,
    ) {
        let (reason, deferred) = ending(trace.old_state, connection);
        let start_ns = connection.start_ns.unwrap_or(trace.at_ns);
        let attempt = is_attempt(trace.old_state);
        let bytes = if attempt { 0 } else { u64::MAX };
        let mut closed = session {
            tx_bytes: bytes,
            rx_bytes: bytes,
            duration_ns: trace.at_ns.saturating_sub(start_ns),
            partial: connection.partial.into(),
            reason,
            deferred: deferred.into(),
            sock: number,
            ..row(trace, owner, SESSION_CLOSED)
        };
        if attempt {
            closed.head.known |= KNOWN_BYTES;
        }
        let ended = Ended {
            old: trace.old_state,
            opened_here: connection.opened_here,
            reset: connection.rst_received || connection.rst_sent,
            calls: end.map(|end| end.calls).unwrap_or_default(),
            ..Ended::default()
        };
        if let Some(end) = end.filter(|end| end.known & known::ERROR != 0) {
            closed.reason = reason_by_error(trace, connection, end);
            closed.errno_ = end.err;
            closed.mptcp = if trace.protocol == TCP { 0 } else { 2 };
            final_stats::complete_at_close(&mut closed, &ended, end);
        }
        // An MPTCP connection's own socket does not pass tcp:tcp_destroy_sock.
        let last = attempt || trace.protocol != TCP || closed.head.known & KNOWN_SOCKET != 0;
        self.deferred.push(number, closed, ended, last);
    }
}

/// IPPROTO_TCP
const TCP: u16 = 6;
