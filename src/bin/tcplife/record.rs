// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions from records alone, on a kernel without type information: what tcplife.bpf.c does, done here.
//!
//! Bytes and round-trip times are in no record. SOCK_DIAG's groups of destroyed sockets have them: a message carries
//! the cookie that the record of tcp:tcp_destroy_sock has (`Event` of kind `DESTROY`).

use std::collections::HashMap;

use anyhow::Result;
use tcptools::names::state::{
    CLOSE, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use tcptools::record::{Event, Sockets, Translate, Wanted, head, refuse};
use tcptools::types::{Record, bytes_of, owner, seen, seen_kind};

use super::bpf::types::session;
use super::{Args, SESSION_AMENDED, SESSION_CLOSED};

/// `enum close_reason` of tcplife.bpf.c.
const NONE: u8 = 0;
const FIN_LOCAL: u8 = 1;
const FIN_REMOTE: u8 = 2;
const FIN_BOTH: u8 = 3;
const RST_SENT: u8 = 4;
const RST_RECEIVED: u8 = 5;
const REFUSED: u8 = 6;

/// `struct life` of tcplife.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Life {
    start_ns: Option<u64>,
    /// It was open before the trace.
    partial: bool,
    rst_sent: bool,
    rst_received: bool,
    /// Something was sent again after the last change of state.
    retransmitted: bool,
    /// The number of its row, once it has ended. A reset that follows would be the true ending.
    closed: Option<u64>,
}

/// Makes the rows.
pub struct Sessions {
    /// Rows so far.
    rows: u64,
    /// Rows whose sockets are destroyed, by their addresses: in this turn of the reader, and in the one before. The
    /// reset that answers late data is sent after that (net/ipv4/tcp_ipv4.c: tcp_v4_do_rcv).
    gone: [HashMap<u64, u64>; 2],
}

impl Sessions {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--active", args.active.is_some())])?;
        Ok(Self {
            rows: 0,
            gone: Default::default(),
        })
    }
}

/// How a session ended, as far as records tell, and whether a reset of ours that follows would tell better.
///
/// Without the socket's error a timeout, an ICMP error and an abort look like the end that they hasten. They do not
/// where nothing had to be sent again in the last state: then no timer has given up. A reset of ours before the change
/// to CLOSE is a keepalive's, or `ss -K`'s, or was sent for lack of memory.
fn ending(old: u8, life: &Life) -> (u8, bool) {
    let closing = matches!(old, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING);
    if life.rst_received {
        // Data after shutdown also looks like a reset received, with none: then ours follows.
        return match old {
            SYN_SENT => (REFUSED, false),
            _ => (RST_RECEIVED, closing),
        };
    }
    if life.rst_sent || life.retransmitted {
        return (NONE, true);
    }
    match old {
        FIN_WAIT2 => (FIN_LOCAL, true),
        LAST_ACK => (FIN_REMOTE, true),
        CLOSING => (FIN_BOTH, true),
        _ => (NONE, true),
    }
}

impl Life {
    /// A session whose begin was not seen; one that was there at the start has been there since then at the least.
    fn begin_late(&mut self, seen: &seen, seeded_ns: Option<u64>) {
        *self = Self {
            start_ns: Some(seeded_ns.unwrap_or(seen.at_ns)),
            partial: true,
            ..Self::default()
        };
    }

    fn change(&mut self, seen: &seen) {
        match (seen.old_state, seen.state) {
            (_, SYN_SENT) | (LISTEN, SYN_RECV) => {
                *self = Self {
                    start_ns: Some(seen.at_ns),
                    ..Self::default()
                };
            }
            (_, ESTABLISHED) => {
                self.start_ns = Some(seen.at_ns);
                self.partial = false;
                self.rst_sent = false;
            }
            _ => {}
        }
        self.retransmitted = false;
    }
}

fn row(seen: &seen, owner: &owner, kind: u32) -> session {
    let row = session {
        tx_bytes: u64::MAX,
        rx_bytes: u64::MAX,
        min_rtt_us: u32::MAX,
        state: seen.old_state,
        bare: 1,
        ..session::default()
    };
    row.with_head(&head(seen, owner, kind))
}

impl Sessions {
    /// Whether a reset was the true ending of a row; if so, tells it.
    fn amend(&mut self, event: &Event<'_, Life>, out: &mut dyn FnMut(&[u8])) -> bool {
        let life = event.socket.as_ref().map(|socket| socket.tool);
        let closed = match life {
            Some(life) => life.closed,
            // Its memory is nobody else's yet.
            None => {
                let address = &event.seen.skaddr;
                self.gone.iter().find_map(|gone| gone.get(address).copied())
            }
        };
        let Some(number) = closed else {
            return false;
        };
        let amended = session {
            reason: RST_SENT,
            sock: number,
            ..row(event.seen, &event.owner, SESSION_AMENDED)
        };
        out(bytes_of(&amended));
        true
    }
}

impl Translate for Sessions {
    type Tool = Life;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![
            "tcp:tcp_receive_reset",
            "tcp:tcp_send_reset",
            "tcp:tcp_retransmit_skb",
        ]
    }

    fn blank(&self) -> &'static str {
        "TX_KB, RX_KB, the round-trip times and what else describes the connection stay blank, as do in JSON cookie, netns and uid, and how a session ended where only its error tells"
    }

    fn tick(
        &mut self,
        _until_ns: u64,
        _sockets: &mut Sockets<Life>,
        _wanted: &Wanted,
        _out: &mut dyn FnMut(&[u8]),
    ) {
        self.gone.swap(0, 1);
        self.gone[0].clear();
    }

    fn event(&mut self, event: Event<'_, Life>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let seen = event.seen;
        if seen.kind == seen_kind::SEND_RESET && self.amend(&event, out) {
            return;
        }
        let Some(socket) = event.socket else {
            return;
        };
        if seen.kind == seen_kind::STATE {
            for gone in &mut self.gone {
                gone.remove(&seen.skaddr);
            }
        }
        let life = &mut socket.tool;
        let late = !matches!(seen.old_state, CLOSE | LISTEN);
        if seen.kind == seen_kind::STATE && late && life.start_ns.is_none() {
            life.begin_late(seen, socket.seeded_ns);
        }
        match seen.kind {
            seen_kind::RECEIVE_RESET => life.rst_received = true,
            seen_kind::RETRANSMIT => life.retransmitted = true,
            seen_kind::DESTROY => {
                if let Some(number) = life.closed {
                    self.gone[0].insert(seen.skaddr, number);
                }
            }
            seen_kind::SEND_RESET => life.rst_sent = seen.state != LISTEN,
            seen_kind::STATE if seen.state == CLOSE && seen.old_state != LISTEN => {
                let (reason, parked) = ending(seen.old_state, life);
                let start_ns = life.start_ns.unwrap_or(seen.at_ns);
                let closed = session {
                    duration_ns: seen.at_ns.saturating_sub(start_ns),
                    partial: life.partial.into(),
                    reason,
                    parked: parked.into(),
                    sock: self.rows,
                    ..row(seen, &socket.owner, SESSION_CLOSED)
                };
                life.closed = Some(self.rows);
                self.rows += 1;
                if wanted.passes(&seen.flow, &socket.owner) {
                    out(bytes_of(&closed));
                }
            }
            seen_kind::STATE => life.change(seen),
            _ => {}
        }
    }
}
