// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of state from records alone, on a kernel without BTF: the counterpart of tcpstates.bpf.c.

use crate::abi::names::state::{CLOSE, LISTEN, SYN_RECV, SYN_SENT};
use crate::abi::types::{Record, trace_event, trace_kind};
use crate::cli::filter::States;
use crate::fallback::{Event, FilterMatch, Out, Socket, Translate, head, refuse};
use anyhow::Result;

use super::Args;
use super::bpf::types::transition;
use super::columns::TIME_UNKNOWN;

/// The residence in a state: `struct residence` of tcpstates.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Residence {
    /// The state, and when it was entered, if that was seen.
    since: Option<(u8, u64)>,
    /// A change that waits for its ports.
    deferred: Option<Change>,
}

/// A change that happened.
#[derive(Clone, Copy)]
struct Change {
    at_ns: u64,
    in_ns: u64,
    at_least_ns: u64,
    old: u8,
    new: u8,
}

/// Makes the rows.
pub struct Changes {
    old_states: u32,
    new_states: u32,
    min_ns: u64,
    skaddr: bool,
}

impl Changes {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        let looks = args.active.is_some();
        refuse(&[
            ("--summary", args.summary.is_some()),
            ("--skaddr", looks && args.skaddr),
        ])?;
        Ok(Self {
            old_states: args.states(),
            new_states: args.new.map_or(u32::MAX, States::mask),
            min_ns: args.min_ms.map_or(0, |time| time.as_nanos() as u64),
            skaddr: args.skaddr,
        })
    }

    /// Which sockets `--active` shows: their states, as bits, and for how long they are in them at least, in nanoseconds.
    pub fn now(&self) -> (u32, u64) {
        (self.old_states, self.min_ns)
    }

    fn matches(&self, change: &Change) -> bool {
        let has = |mask: u32, state: u8| mask >> (state & 31) & 1 != 0;
        has(self.old_states, change.old)
            && has(self.new_states, change.new)
            && change.at_least_ns >= self.min_ns
    }

    fn emit(
        &self,
        trace: &trace_event,
        socket: &Socket<Residence>,
        change: &Change,
        out: &mut Out<'_>,
    ) {
        if !out.filter.passes(&trace.flow, &socket.owner) {
            return;
        }
        let mut head = head(trace, &socket.owner, 0, 0);
        head.boot_ns = change.at_ns;
        let row = transition {
            in_state_ns: change.in_ns,
            skaddr: if self.skaddr { trace.skaddr } else { 0 },
            old_state: change.old,
            new_state: change.new,
            ..transition::default()
        };
        out.record(&row.with_head(&head));
    }
}

/// Ends the residence in the old state and starts the one in the new: change_note() of tcpstates.bpf.c.
fn change_note(trace: &trace_event, socket: &mut Socket<Residence>) -> Change {
    let (old, new) = (trace.old_state, trace.state);
    let mut change = Change {
        at_ns: trace.at_ns,
        in_ns: TIME_UNKNOWN,
        at_least_ns: 0,
        old,
        new,
    };
    // A child has not been in LISTEN itself.
    let born = old == LISTEN && new != CLOSE;
    match socket.tool.since {
        _ if born => {}
        Some((state, since_ns)) => {
            change.at_least_ns = trace.at_ns.saturating_sub(since_ns);
            if state == old {
                change.in_ns = change.at_least_ns;
            }
        }
        None => {
            let scanned_ns = socket.scanned_ns.unwrap_or(trace.at_ns);
            change.at_least_ns = trace.at_ns.saturating_sub(scanned_ns);
        }
    }
    socket.tool.since = Some((new, trace.at_ns));
    change
}

/// Whether the change must wait for its ports: port_unknown() of tcpstates.bpf.c.
fn port_unknown(trace: &trace_event, filter: &FilterMatch) -> bool {
    match trace.state {
        SYN_RECV => trace.flow.rport == 0,
        SYN_SENT => filter.has_no_port(&trace.flow),
        _ => false,
    }
}

impl Translate for Changes {
    type Tool = Residence;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_retransmit_skb"]
    }

    fn blank(&self) -> &'static str {
        "COOKIE stays blank, as does the owner of a socket on which no system call was seen"
    }

    fn event(&mut self, event: Event<'_, Residence>, out: &mut Out<'_>) {
        let (trace, Some(socket)) = (event.trace, event.socket) else {
            return;
        };
        if trace.kind == trace_kind::STATE {
            let change = change_note(trace, socket);
            if let Some(deferred) = socket.tool.deferred.take() {
                self.emit(trace, socket, &deferred, out);
            }
            if !self.matches(&change) {
            } else if port_unknown(trace, out.filter) {
                socket.tool.deferred = Some(change);
            } else {
                self.emit(trace, socket, &change, out);
            }
        } else if trace.kind == trace_kind::RETRANSMIT {
            // A SYN without an answer is sent again: its port is known.
            if let Some(deferred) = socket.tool.deferred.take() {
                self.emit(trace, socket, &deferred, out);
            }
        }
    }
}
