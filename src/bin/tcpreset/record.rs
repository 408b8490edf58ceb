// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets from records alone, on a kernel without type information: what tcpreset.bpf.c does, done here.

use std::collections::HashMap;

use anyhow::Result;
use tcptools::bytes::Sent;
use tcptools::diag;
use tcptools::names::state::{CLOSE, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Socket, Translate, Wanted, head, refuse, types};
use tcptools::resets;
use tcptools::session::Unseen;
use tcptools::types::{Record, bytes_of, decode, pid_source, seen, seen_kind, seen_reset};

use super::bpf::types::reset;
use super::{Args, RECEIVED, SENT};

/// include/net/sock.h, as in src/bpf/kernel.h.
const RCV_SHUTDOWN: u8 = 1;

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
    /// Whether this end sent the first SYN, if that was seen.
    opened_here: Option<bool>,
}

/// Makes the rows.
pub struct Resets {
    /// The sockets themselves are read (`--btf`).
    sockets: bool,
    seeds: bool,
    /// The states of the sockets that were there at the start, by cookie.
    states: HashMap<u64, u8>,
    /// Namespaces that did not tell of theirs.
    unvisited: u64,
}

impl Resets {
    /// `seeds`: to look at sockets that exist already.
    ///
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args, seeds: bool) -> Result<Self> {
        refuse(&[("--stack", args.stack)])?;
        Ok(Self {
            sockets: types(&args.common.run).is_some(),
            seeds,
            states: HashMap::new(),
            unvisited: 0,
        })
    }

    fn received(
        &self,
        seen: &seen,
        told: Option<&seen_reset>,
        mut socket: Option<&mut Socket<Life>>,
    ) -> reset {
        let known = socket.as_ref().map_or(0, |socket| socket.tool.state);
        let state = match (told, known) {
            (Some(told), _) => told.sk_state,
            (_, 0) => self.states.get(&seen.cookie).copied().unwrap_or(0),
            (_, state) => state,
        };
        // Data after shutdown() ends in the same function: then a reset of ours follows, see tcpreset.bpf.c. In these
        // states this end was not shut down, or nothing is answered.
        let open = told.is_some_and(|told| told.shutdown & RCV_SHUTDOWN == 0);
        let doubtful = !open && !matches!(state, ESTABLISHED | SYN_SENT | SYN_RECV);
        if let Some(socket) = &mut socket {
            socket.tool.doubtful = doubtful.then_some(seen.cookie);
        }
        let mut row = row(seen, told, socket, state);
        row.doubtful = doubtful.into();
        row
    }
}

/// A row with the session's age. A socket that was closed had the state that it left for that.
fn row(
    seen: &seen,
    told: Option<&seen_reset>,
    socket: Option<&mut Socket<Life>>,
    state: u8,
) -> reset {
    let mut row = reset {
        reason: -1,
        state,
        bare: told.is_none().into(),
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
    row.active = (life.opened_here == Some(true)).into();
    if life.start_ns != 0 && state != LISTEN {
        let end = match life.close_ns {
            0 => seen.at_ns,
            close_ns => close_ns,
        };
        row.session = 1;
        row.partial = life.partial.into();
        row.age_ns = end.saturating_sub(life.start_ns);
        if let Some(told) = told {
            (row.tx_bytes, row.rx_bytes) = bytes(told, row.state, life.opened_here);
        }
    }
    row
}

/// What the application sent, as far as it was acknowledged, and was sent. `state`: before the close.
fn bytes(told: &seen_reset, state: u8, opened_here: Option<bool>) -> (u64, u64) {
    let sent = Sent::from(&told.bytes);
    // The other end's FIN counts as one.
    let received = told.bytes.received.saturating_sub(told.fin_received.into());
    (
        sent.bytes(state, opened_here).unwrap_or(told.bytes.acked),
        received,
    )
}

/// The row, and the socket's cookie, if it is known.
fn sent(
    seen: &seen,
    told: Option<&seen_reset>,
    mut socket: Option<&mut Socket<Life>>,
) -> (reset, u64) {
    let doubtful = socket.as_mut().and_then(|s| s.tool.doubtful.take());
    let mut row = row(seen, told, socket, seen.state);
    row.reason = seen.reason as i32;
    row.disproves = doubtful.is_some().into();
    (row, doubtful.unwrap_or(seen.cookie))
}

/// set_state() of tcpreset.bpf.c.
fn follow(seen: &seen, socket: &mut Socket<Life>) {
    let (old, new) = (seen.old_state, seen.state);
    let life = &mut socket.tool;
    life.state = new;
    if new == SYN_SENT || new == LISTEN || old == LISTEN {
        *life = Life {
            state: new,
            opened_here: Some(new == SYN_SENT),
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
        match self.sockets {
            true => {
                "before Linux 6.10, resets that no socket sends are not shown; most cookies of what is sent stay blank"
            }
            false => {
                "before Linux 6.10, resets that no socket sends are not shown; TX_KB, RX_KB, TRIGGER and the cookie of what is sent stay blank"
            }
        }
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self.unvisited,
            ..Unseen::default()
        }
    }

    fn attached(&mut self) {
        resets::load();
        if self.seeds {
            // Not told, the states of these sockets stay blank until they change.
            let told = diag::sockets().unwrap_or_default();
            self.unvisited = told.unvisited;
            self.states = told.sockets.iter().map(|s| (s.cookie, s.state)).collect();
        }
    }

    fn event(&mut self, event: Event<'_, Life>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, mut owner) = (event.seen, event.owner);
        let reset = decode::<seen_reset>(event.record);
        let told = reset.filter(|reset| reset.known != 0);
        let (mut row, cookie, kind) = match (seen.kind, event.socket) {
            (seen_kind::STATE, Some(socket)) => return follow(seen, socket),
            (seen_kind::RECEIVE_RESET, socket) => {
                (self.received(seen, told, socket), seen.cookie, RECEIVED)
            }
            (seen_kind::SEND_RESET, socket) => {
                let (row, cookie) = sent(seen, told, socket);
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
        row.trigger = reset.map_or(0, |reset| reset.trigger);
        if let Some(told) = told {
            row.listener = told.listener;
            row.aborts = told.aborts;
            row.accept_queue = told.accept_queue;
            row.accept_queue_max = told.accept_queue_max;
        }
        if wanted.passes(&seen.flow, &owner) {
            let mut head = head(seen, &owner, kind);
            head.cookie = cookie;
            out(bytes_of(&row.with_head(&head)));
        }
    }
}
