// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets from records alone, on a kernel without BTF: the counterpart of tcpreset.bpf.c.

use std::collections::HashMap;

use crate::abi::app_bytes::Sent;
use crate::abi::known::{KNOWN_PACKET, KNOWN_SOCKET};
use crate::abi::names::state::{CLOSE, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT};
use crate::abi::types::{Record, decode, pid_source, reset_event, trace_event, trace_kind};
use crate::commands::tcpreset::reasons;
use crate::fallback::{Event, Out, Socket, Translate, head, refuse};
use crate::kernel::sock_diag;
use anyhow::Result;

use super::Args;
use super::bpf::types::reset;
use super::columns::{RECEIVED, SENT};

/// include/net/sock.h, as in src/bpf/common/kernel/kernel.h.
const RCV_SHUTDOWN: u8 = 1;

/// `struct connection` of tcpreset.bpf.c, and what the kernel half asks the socket itself.
#[derive(Clone, Copy, Default)]
pub struct Connection {
    /// ESTABLISHED, or the first sight of a session that was open before; 0: never.
    start_ns: u64,
    close_ns: u64,
    /// Of the last reset that was received where it may not have been one.
    maybe_spurious: Option<u64>,
    state: u8,
    close_state: u8,
    partial: bool,
    /// Whether this end sent the first SYN, if that was seen.
    opened_here: Option<bool>,
}

/// Makes the rows.
pub struct Resets {
    /// The sockets themselves are read (`--btf`).
    sockets: bool,
    scan: bool,
    /// The states of the sockets that were there at the start, by cookie.
    states: HashMap<u64, u8>,
    /// Namespaces that did not tell of theirs.
    unvisited: u64,
}

impl Resets {
    /// `scan`: to look at sockets that exist already.
    ///
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args, sockets: bool, scan: bool) -> Result<Self> {
        refuse(&[("--stack", args.stack)])?;
        Ok(Self {
            sockets,
            scan,
            states: HashMap::new(),
            unvisited: 0,
        })
    }

    fn received(
        &self,
        trace: &trace_event,
        from_socket: Option<&reset_event>,
        mut socket: Option<&mut Socket<Connection>>,
    ) -> reset {
        let known = socket.as_ref().map_or(0, |socket| socket.tool.state);
        let state = match (from_socket, known) {
            (Some(from_socket), _) => from_socket.sk_state,
            (_, 0) => self.states.get(&trace.cookie).copied().unwrap_or(0),
            (_, state) => state,
        };
        // Data after shutdown() ends in the same function: then a reset of ours follows, see tcpreset.bpf.c. In these
        // states this end was not shut down, or nothing is answered.
        let open = from_socket.is_some_and(|from_socket| from_socket.shutdown & RCV_SHUTDOWN == 0);
        let maybe_spurious = !open && !matches!(state, ESTABLISHED | SYN_SENT | SYN_RECV);
        if let Some(socket) = &mut socket {
            socket.tool.maybe_spurious = maybe_spurious.then_some(trace.cookie);
        }
        let mut row = row(trace, from_socket, socket, state);
        row.maybe_spurious = maybe_spurious.into();
        row
    }
}

/// A row with the session's age. A socket that was closed had the state that it left for that.
fn row(
    trace: &trace_event,
    from_socket: Option<&reset_event>,
    socket: Option<&mut Socket<Connection>>,
    state: u8,
) -> reset {
    let mut row = reset {
        reason: -1,
        state,
        ..reset::default()
    };
    let Some(socket) = socket else {
        return row;
    };
    begin_late(socket, state, None);
    let connection = &socket.tool;
    if state == CLOSE && connection.close_state != 0 {
        row.state = connection.close_state;
    }
    row.close_ns = connection.close_ns;
    row.active = (connection.opened_here == Some(true)).into();
    if connection.start_ns != 0 && state != LISTEN {
        let end = match connection.close_ns {
            0 => trace.at_ns,
            close_ns => close_ns,
        };
        row.session = 1;
        row.partial = connection.partial.into();
        row.age_ns = end.saturating_sub(connection.start_ns);
        if let Some(from_socket) = from_socket {
            (row.tx_bytes, row.rx_bytes) = bytes(from_socket, row.state, connection.opened_here);
        }
    }
    row
}

/// What the application sent, as far as it was acknowledged, and was sent. `state`: before the close.
fn bytes(from_socket: &reset_event, state: u8, opened_here: Option<bool>) -> (u64, u64) {
    let sent = Sent::from(&from_socket.bytes);
    // The other end's FIN counts as one.
    let received = from_socket
        .bytes
        .received
        .saturating_sub(from_socket.fin_received.into());
    (
        sent.bytes(state, opened_here)
            .unwrap_or(from_socket.bytes.acked),
        received,
    )
}

/// The row, and the socket's cookie, if it is known.
fn sent(
    trace: &trace_event,
    from_socket: Option<&reset_event>,
    mut socket: Option<&mut Socket<Connection>>,
) -> (reset, u64) {
    let maybe_spurious = socket.as_mut().and_then(|s| s.tool.maybe_spurious.take());
    let mut row = row(trace, from_socket, socket, trace.state);
    row.reason = trace.reason as i32;
    row.retracts = maybe_spurious.is_some().into();
    (row, maybe_spurious.unwrap_or(trace.cookie))
}

/// set_state() of tcpreset.bpf.c.
fn follow(trace: &trace_event, socket: &mut Socket<Connection>) {
    let (old, new) = (trace.old_state, trace.state);
    let connection = &mut socket.tool;
    connection.state = new;
    if new == SYN_SENT || new == LISTEN || old == LISTEN {
        *connection = Connection {
            state: new,
            opened_here: Some(new == SYN_SENT),
            ..Connection::default()
        };
    } else if new == ESTABLISHED {
        connection.start_ns = trace.at_ns;
    } else {
        begin_late(socket, old, Some(trace.at_ns));
    }
    if new == CLOSE {
        socket.tool.close_ns = trace.at_ns;
        socket.tool.close_state = old;
    }
}

/// A session that was open before: it began when the sockets were looked at, or `at_ns`, its first sight.
fn begin_late(socket: &mut Socket<Connection>, state: u8, at_ns: Option<u64>) {
    let never = matches!(state, 0 | CLOSE | LISTEN | SYN_SENT | SYN_RECV);
    if let Some(start_ns) = socket.scanned_ns.or(at_ns)
        && socket.tool.start_ns == 0
        && !never
    {
        socket.tool.start_ns = start_ns;
        socket.tool.partial = true;
    }
}

impl Translate for Resets {
    type Tool = Connection;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_send_reset", "tcp:tcp_receive_reset"]
    }

    fn blank(&self) -> &'static str {
        match self.sockets {
            true => {
                "before Linux 6.10, resets that no socket sends are not shown; most cookies of what is sent stay blank"
            }
            false => {
                "before Linux 6.10, resets that no socket sends are not shown; TX_KB, RX_KB, TRIGGER and the cookie of what is sent stay blank"
            }
        }
    }

    fn unvisited(&self) -> u64 {
        self.unvisited
    }

    fn attached(&mut self) {
        reasons::load();
        if self.scan {
            // If this fails, the states of these sockets stay blank until they change.
            let listing = sock_diag::sockets().unwrap_or_default();
            self.unvisited = listing.unvisited;
            self.states = listing
                .sockets
                .iter()
                .map(|s| (s.cookie, s.state))
                .collect();
        }
    }

    fn event(&mut self, event: Event<'_, Connection>, out: &mut Out<'_>) {
        let (trace, mut owner) = (event.trace, event.owner);
        let reset = decode::<reset_event>(event.record);
        let from_socket = reset.filter(|reset| reset.known != 0);
        let (mut row, cookie, kind) = match (trace.kind, event.socket) {
            (trace_kind::STATE, Some(socket)) => return follow(trace, socket),
            (trace_kind::RECEIVE_RESET, socket) => (
                self.received(trace, from_socket, socket),
                trace.cookie,
                RECEIVED,
            ),
            (trace_kind::SEND_RESET, socket) => {
                let (row, cookie) = sent(trace, from_socket, socket);
                (row, cookie, SENT)
            }
            (trace_kind::DESTROY, _) => {
                self.states.remove(&trace.cookie);
                return;
            }
            _ => return,
        };
        if row.state == LISTEN && owner.source != pid_source::UNKNOWN {
            owner.source = pid_source::LISTENER;
        }
        row.trigger = reset.map_or(0, |reset| reset.trigger);
        if let Some(from_socket) = from_socket {
            row.listener = from_socket.listener;
            row.aborts = from_socket.aborts;
            row.accept_queue = from_socket.accept_queue;
            row.accept_queue_max = from_socket.accept_queue_max;
        }
        if out.filter.passes(&trace.flow, &owner) {
            let known = [
                (self.sockets, KNOWN_PACKET),
                (from_socket.is_some(), KNOWN_SOCKET),
            ];
            let known = known.iter().filter(|k| k.0).fold(0, |all, k| all | k.1);
            let mut head = head(trace, &owner, kind, known);
            head.cookie = cookie;
            out.record(&row.with_head(&head));
        }
    }
}
