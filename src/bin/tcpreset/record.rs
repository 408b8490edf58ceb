// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets from records alone, on a kernel without type information: what tcpreset.bpf.c does, done here.

use std::collections::HashMap;

use anyhow::Result;
use tcptools::diag;
use tcptools::names::state::{CLOSE, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Socket, Translate, Wanted, head, refuse};
use tcptools::resets;
use tcptools::types::{Record, bytes_of, pid_source, seen, seen_kind};

use super::bpf::types::reset;
use super::{Args, RECEIVED, SENT};

/// `struct life` of tcpreset.bpf.c, and what the kernel half asks the socket itself.
#[derive(Clone, Copy, Default)]
pub struct Life {
    /// ESTABLISHED, or the first sight of a session that was open before; 0: never.
    start_ns: u64,
    close_ns: u64,
    /// Of the last reset that was received where it may not have been one.
    doubtful: Option<u64>,
    state: u8,
    close_state: u8,
    partial: bool,
}

/// Makes the rows.
pub struct Resets {
    seeds: bool,
    /// The states of the sockets that were there at the start, by cookie.
    states: HashMap<u64, u8>,
}

impl Resets {
    /// `seeds`: to look at sockets that exist already.
    ///
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args, seeds: bool) -> Result<Self> {
        refuse(&[("--stack", args.stack)])?;
        Ok(Self {
            seeds,
            states: HashMap::new(),
        })
    }

    fn received(&self, seen: &seen, mut socket: Option<&mut Socket<Life>>) -> reset {
        let known = socket.as_ref().map_or(0, |socket| socket.tool.state);
        let state = match known {
            0 => self.states.get(&seen.cookie).copied().unwrap_or(0),
            state => state,
        };
        // Data after shutdown() ends in the same function: then a reset of ours follows, see tcpreset.bpf.c. Whether
        // this end was shut down is not known, but in these states it was not, or nothing is answered.
        let doubtful = !matches!(state, ESTABLISHED | SYN_SENT | SYN_RECV);
        if let Some(socket) = &mut socket {
            socket.tool.doubtful = doubtful.then_some(seen.cookie);
        }
        let mut row = row(seen, socket, state);
        row.doubtful = doubtful.into();
        row
    }
}

/// A row with the session's age. A socket that was closed had the state that it left for that.
fn row(seen: &seen, socket: Option<&mut Socket<Life>>, state: u8) -> reset {
    let mut row = reset {
        reason: -1,
        state,
        bare: 1,
        ..reset::default()
    };
    let Some(socket) = socket else {
        return row;
    };
    begin_late(socket, state, None);
    let life = &socket.tool;
    if state == CLOSE && life.close_state != 0 {
        row.state = life.close_state;
    }
    row.close_ns = life.close_ns;
    if life.start_ns != 0 && state != LISTEN {
        let end = match life.close_ns {
            0 => seen.at_ns,
            close_ns => close_ns,
        };
        row.session = 1;
        row.partial = life.partial.into();
        row.age_ns = end.saturating_sub(life.start_ns);
    }
    row
}

/// The row, and the socket's cookie, if an earlier record had it.
fn sent(seen: &seen, mut socket: Option<&mut Socket<Life>>) -> (reset, u64) {
    let doubtful = socket.as_mut().and_then(|s| s.tool.doubtful.take());
    let mut row = row(seen, socket, seen.state);
    row.reason = seen.reason as i32;
    row.disproves = doubtful.is_some().into();
    (row, doubtful.unwrap_or(0))
}

/// set_state() of tcpreset.bpf.c.
fn follow(seen: &seen, socket: &mut Socket<Life>) {
    let (old, new) = (seen.old_state, seen.state);
    let life = &mut socket.tool;
    life.state = new;
    if new == SYN_SENT || new == LISTEN || old == LISTEN {
        *life = Life {
            state: new,
            ..Life::default()
        };
    } else if new == ESTABLISHED {
        life.start_ns = seen.at_ns;
    } else {
        begin_late(socket, old, Some(seen.at_ns));
    }
    if new == CLOSE {
        socket.tool.close_ns = seen.at_ns;
        socket.tool.close_state = old;
    }
}

/// A session that was open before: it began when the sockets were looked at, or `at_ns`, its first sight.
fn begin_late(socket: &mut Socket<Life>, state: u8, at_ns: Option<u64>) {
    let never = matches!(state, 0 | CLOSE | LISTEN | SYN_SENT | SYN_RECV);
    if let Some(start_ns) = socket.seeded_ns.or(at_ns)
        && socket.tool.start_ns == 0
        && !never
    {
        socket.tool.start_ns = start_ns;
        socket.tool.partial = true;
    }
}

impl Translate for Resets {
    type Tool = Life;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_send_reset", "tcp:tcp_receive_reset"]
    }

    fn blank(&self) -> &'static str {
        "before Linux 6.10, resets that no socket sends are not shown; TX_KB, RX_KB, TRIGGER and the cookie of what is sent stay blank"
    }

    fn attached(&mut self) {
        resets::load();
        if self.seeds {
            // Not told, the states of these sockets stay blank until they change.
            let all = diag::sockets().unwrap_or_default();
            self.states = all.iter().map(|s| (s.cookie, s.state)).collect();
        }
    }

    fn event(&mut self, event: Event<'_, Life>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, mut owner) = (event.seen, event.owner);
        let (row, cookie, kind) = match (seen.kind, event.socket) {
            (seen_kind::STATE, Some(socket)) => return follow(seen, socket),
            (seen_kind::RECEIVE_RESET, socket) => {
                (self.received(seen, socket), seen.cookie, RECEIVED)
            }
            (seen_kind::SEND_RESET, socket) => {
                let (row, cookie) = sent(seen, socket);
                (row, cookie, SENT)
            }
            (seen_kind::DESTROY, _) => {
                self.states.remove(&seen.cookie);
                return;
            }
            _ => return,
        };
        if row.state == LISTEN && owner.source != pid_source::UNKNOWN {
            owner.source = pid_source::LISTENER;
        }
        if wanted.passes(&seen.flow, &owner) {
            let mut head = head(seen, &owner, kind);
            head.cookie = cookie;
            out(bytes_of(&row.with_head(&head)));
        }
    }
}
