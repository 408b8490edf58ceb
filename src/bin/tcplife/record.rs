// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions from records alone, on a kernel without type information: what tcplife.bpf.c does, done here.
//!
//! Bytes and round-trip times are in no record. inet_diag tells them of each socket that is destroyed: rows wait for that.

use std::collections::HashMap;

use anyhow::Result;
use nix::errno::Errno;
use tcptools::diag::Accounts;
use tcptools::names::state::{
    CLOSE, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, SYN_RECV, SYN_SENT,
};
use tcptools::record::{Event, Sockets, Translate, Wanted, head, refuse, types};
use tcptools::session::Unseen;
use tcptools::types::{Record, bytes_of, flow, known, owner, seen, seen_end, seen_kind};

use self::account::{BARE, Ended, is_attempt};
use self::waiting::Waiting;
use super::bpf::types::session;
use super::{Args, SESSION_AMENDED, SESSION_CLOSED};

#[path = "account.rs"]
mod account;
#[path = "waiting.rs"]
mod waiting;

/// `enum close_reason` of tcplife.bpf.c.
const NONE: u8 = 0;
const FIN_LOCAL: u8 = 1;
const FIN_REMOTE: u8 = 2;
const FIN_BOTH: u8 = 3;
const RST_SENT: u8 = 4;
const RST_RECEIVED: u8 = 5;
const REFUSED: u8 = 6;
const TIMEOUT: u8 = 7;
const UNREACHABLE: u8 = 8;
const ABORTED: u8 = 9;

/// `struct life` of tcplife.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Life {
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
    waiting: Waiting,
    /// Rows whose sockets are destroyed, by their addresses: in this turn of the reader, and in the one before. The
    /// reset that answers late data is sent after that (net/ipv4/tcp_ipv4.c: tcp_v4_do_rcv).
    gone: [HashMap<u64, (u64, flow)>; 2],
}

impl Sessions {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--active", args.active.is_some())])?;
        // At CLOSE the socket itself tells more, and sooner.
        let sockets = types(&args.common.run).is_some();
        let accounts = match sockets {
            true => Accounts::without(),
            false => Accounts::watch(),
        };
        Ok(Self {
            sockets,
            rows: 0,
            waiting: Waiting::new(accounts),
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

/// how_it_ended() of tcplife.bpf.c, where the socket's error is known. A reset of ours that follows amends the row.
fn reason_by_error(seen: &seen, life: &Life, end: &seen_end) -> u8 {
    let old = seen.old_state;
    let acked = end.known & known::TCP == 0 || end.bytes.wqueue == 0;
    // The process has not read what IP_RECVERR told it: nothing ended by that.
    let finished = match old {
        FIN_WAIT2 => !life.rst_sent,
        LAST_ACK | CLOSING => acked,
        _ => false,
    };
    match Errno::from_raw(end.err.into()) {
        Errno::ETIMEDOUT => TIMEOUT,
        Errno::ECONNABORTED => ABORTED,
        _ if life.rst_received && old == SYN_SENT => REFUSED,
        _ if life.rst_received => RST_RECEIVED,
        _ if end.err == 0 || finished => reason_by_state(seen, life, acked),
        Errno::ECONNREFUSED => REFUSED,
        Errno::ECONNRESET | Errno::EPIPE => RST_RECEIVED,
        _ => UNREACHABLE,
    }
}

/// No error has ended it, and nothing that came.
fn reason_by_state(seen: &seen, life: &Life, acked: bool) -> u8 {
    match seen.old_state {
        SYN_SENT => ABORTED,
        _ if life.rst_sent => RST_SENT,
        FIN_WAIT2 => FIN_LOCAL,
        LAST_ACK if acked => FIN_REMOTE,
        CLOSING if acked => FIN_BOTH,
        // Its subflows send the resets.
        FIN_WAIT1 if seen.protocol != TCP => FIN_LOCAL,
        _ if seen.protocol != TCP => RST_SENT,
        _ => ABORTED,
    }
}

impl Life {
    /// A session whose begin was not seen; one that was there at the start has been there since then at the least.
    /// A reset may have been seen already.
    fn begin_late(&mut self, seen: &seen, seeded_ns: Option<u64>) {
        self.start_ns = Some(seeded_ns.unwrap_or(seen.at_ns));
        self.opened_here = (seen.old_state == SYN_SENT).then_some(true);
        self.partial = true;
    }

    fn change(&mut self, seen: &seen) {
        match (seen.old_state, seen.state) {
            (_, SYN_SENT) | (LISTEN, SYN_RECV) => {
                *self = Self {
                    start_ns: Some(seen.at_ns),
                    opened_here: Some(seen.state == SYN_SENT),
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
        bare: BARE,
        ..session::default()
    };
    row.with_head(&head(seen, owner, kind))
}

fn ends(flow: &flow) -> ([u8; 16], [u8; 16], u16, u16) {
    (flow.laddr, flow.raddr, flow.lport, flow.rport)
}

impl Sessions {
    /// Whether a reset was the true ending of a row; if so, tells it.
    fn amend(&mut self, event: &Event<'_, Life>, out: &mut dyn FnMut(&[u8])) -> bool {
        let life = event.socket.as_ref().map(|socket| socket.tool);
        let closed = match life {
            Some(life) => life.closed,
            // Its memory may be another socket's, which a filter hides.
            None => {
                let address = &event.seen.skaddr;
                let gone = self.gone.iter().find_map(|gone| gone.get(address).copied());
                gone.filter(|(_, flow)| ends(flow) == ends(&event.seen.flow))
            }
        };
        let Some((number, _)) = closed else {
            return false;
        };
        if self.waiting.amend(number, RST_SENT) {
            return true;
        }
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
        match self.waiting.accounts().are_told() {
            _ if self.sockets => "the cookies of most sessions stay blank",
            true => {
                "rows appear when the socket is destroyed; CA, errno and mptcp stay blank, and bytes and round-trip times in some rows (see CAVEATS of tcplife)"
            }
            false => {
                "bytes, round-trip times and other statistics stay blank, and in some rows how the session ended (see CAVEATS of tcplife)"
            }
        }
    }

    fn blank_of_sockets(&self) -> &'static str {
        match self.waiting.accounts().are_told() {
            true => "uid",
            false => "netns and uid",
        }
    }

    fn notes_calls(&self) -> bool {
        !self.sockets && self.waiting.accounts().are_told()
    }

    fn unseen(&self) -> Unseen {
        let accounts = self.waiting.accounts();
        Unseen {
            unvisited: accounts.unvisited(),
            statistics_lost: accounts.lost(),
        }
    }

    fn attached(&mut self) {
        if let Some(why) = self.waiting.accounts().untold() {
            tcptools::message!("tcplife: bytes and round-trip times are not known: {why}");
        }
    }

    fn forget(&mut self) {
        self.gone = Default::default();
    }

    fn tick(
        &mut self,
        _until_ns: u64,
        _sockets: &mut Sockets<Life>,
        _wanted: &Wanted,
        out: &mut dyn FnMut(&[u8]),
    ) {
        self.gone.swap(0, 1);
        self.gone[0].clear();
        self.waiting.release(|row| out(bytes_of(row)));
    }

    fn finish(&mut self, _wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        self.waiting.finish(|row| out(bytes_of(row)));
        let lost = self.waiting.accounts().lost();
        if lost > 0 {
            tcptools::message!(
                "tcplife: the bytes of {lost} sockets were lost: they came faster than they were read"
            );
        }
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
                if let Some((number, flow)) = life.closed {
                    self.gone[0].insert(seen.skaddr, (number, flow));
                    let calls = event.end.map(|end| end.calls).unwrap_or_default();
                    self.waiting.destroyed(number, seen.cookie, &calls);
                }
            }
            seen_kind::SEND_RESET => life.rst_sent = seen.state != LISTEN,
            seen_kind::STATE if seen.state == CLOSE && seen.old_state != LISTEN => {
                let number = self.rows;
                self.rows += 1;
                if wanted.passes(&seen.flow, &socket.owner) {
                    self.close(number, seen, event.end, &socket.owner, life);
                }
                life.closed = Some((number, seen.flow));
            }
            seen_kind::STATE => {
                if let Some((number, _)) = life.closed {
                    self.waiting.reused(number);
                }
                life.change(seen);
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
        seen: &seen,
        end: Option<&seen_end>,
        owner: &owner,
        life: &Life,
    ) {
        let (reason, parked) = ending(seen.old_state, life);
        let start_ns = life.start_ns.unwrap_or(seen.at_ns);
        let attempt = is_attempt(seen.old_state);
        let bytes = if attempt { 0 } else { u64::MAX };
        let mut closed = session {
            tx_bytes: bytes,
            rx_bytes: bytes,
            duration_ns: seen.at_ns.saturating_sub(start_ns),
            partial: life.partial.into(),
            reason,
            parked: parked.into(),
            sock: number,
            ..row(seen, owner, SESSION_CLOSED)
        };
        let ended = Ended {
            old: seen.old_state,
            opened_here: life.opened_here,
            reset: life.rst_received || life.rst_sent,
            calls: end.map(|end| end.calls).unwrap_or_default(),
            ..Ended::default()
        };
        if let Some(end) = end.filter(|end| end.known & known::ERROR != 0) {
            closed.reason = reason_by_error(seen, life, end);
            closed.errno_ = end.err;
            closed.mptcp = if seen.protocol == TCP { 0 } else { 2 };
            account::complete_at_close(&mut closed, &ended, end);
        }
        // An MPTCP connection's own socket does not pass tcp:tcp_destroy_sock.
        let last = attempt || seen.protocol != TCP || closed.bare == 0;
        self.waiting.push(number, closed, ended, last);
    }
}

/// IPPROTO_TCP
const TCP: u16 = 6;
