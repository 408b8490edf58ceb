// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of state from records alone, on a kernel without type information: what tcpstates.bpf.c does, done here.

use anyhow::Result;
use tcptools::filter::States;
use tcptools::names::state::{CLOSE, LISTEN, SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Socket, Translate, Wanted, head, refuse};
use tcptools::types::{Record, bytes_of, seen, seen_kind};

use super::bpf::types::transition;
use super::{Args, TIME_UNKNOWN};

/// The stay in a state: `struct stay` of tcpstates.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Stay {
    /// The state, and when it was entered, if that was seen.
    since: Option<(u8, u64)>,
    /// A change that waits for its ports.
    held: Option<Change>,
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
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--summary", args.summary.is_some())])?;
        Ok(Self {
            old_states: args.old.map_or(u32::MAX, States::mask),
            new_states: args.new.map_or(u32::MAX, States::mask),
            min_ns: args.min_ms.map_or(0, |time| time.as_nanos() as u64),
            skaddr: args.skaddr,
        })
    }

    fn wanted(&self, change: &Change) -> bool {
        let has = |mask: u32, state: u8| mask >> (state & 31) & 1 != 0;
        has(self.old_states, change.old)
            && has(self.new_states, change.new)
            && change.at_least_ns >= self.min_ns
    }

    fn tell(
        &self,
        seen: &seen,
        socket: &Socket<Stay>,
        change: &Change,
        wanted: &Wanted,
        out: &mut dyn FnMut(&[u8]),
    ) {
        if !wanted.passes(&seen.flow, &socket.owner) {
            return;
        }
        let mut head = head(seen, &socket.owner, 0);
        head.boot_ns = change.at_ns;
        let row = transition {
            in_state_ns: change.in_ns,
            skaddr: if self.skaddr { seen.skaddr } else { 0 },
            old_state: change.old,
            new_state: change.new,
            ..transition::default()
        };
        out(bytes_of(&row.with_head(&head)));
    }
}

/// Ends the stay in the old state and begins the one in the new: change_note() of tcpstates.bpf.c.
fn change_note(seen: &seen, socket: &mut Socket<Stay>) -> Change {
    let (old, new) = (seen.old_state, seen.state);
    let mut change = Change {
        at_ns: seen.at_ns,
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
            change.at_least_ns = seen.at_ns.saturating_sub(since_ns);
            if state == old {
                change.in_ns = change.at_least_ns;
            }
        }
        None => {
            let seeded_ns = socket.seeded_ns.unwrap_or(seen.at_ns);
            change.at_least_ns = seen.at_ns.saturating_sub(seeded_ns);
        }
    }
    socket.tool.since = Some((new, seen.at_ns));
    change
}

/// Whether the change must wait for its ports: port_undecided() of tcpstates.bpf.c.
fn port_undecided(seen: &seen, wanted: &Wanted) -> bool {
    match seen.state {
        SYN_RECV => seen.flow.rport == 0,
        SYN_SENT => wanted.lacks_port(&seen.flow),
        _ => false,
    }
}

impl Translate for Changes {
    type Tool = Stay;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_retransmit_skb"]
    }

    fn blank(&self) -> &'static str {
        "owners that no system call has told stay blank, and so does COOKIE"
    }

    fn event(&mut self, event: Event<'_, Stay>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, Some(socket)) = (event.seen, event.socket) else {
            return;
        };
        if seen.kind == seen_kind::STATE {
            let change = change_note(seen, socket);
            if let Some(held) = socket.tool.held.take() {
                self.tell(seen, socket, &held, wanted, out);
            }
            if !self.wanted(&change) {
            } else if port_undecided(seen, wanted) {
                socket.tool.held = Some(change);
            } else {
                self.tell(seen, socket, &change, wanted, out);
            }
        } else if seen.kind == seen_kind::RETRANSMIT {
            // A SYN without an answer is sent again: its port is known.
            if let Some(held) = socket.tool.held.take() {
                self.tell(seen, socket, &held, wanted, out);
            }
        }
    }
}
