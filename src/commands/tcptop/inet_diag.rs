// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections as inet_diag has them, on a kernel without type information: counters since each was opened, as the kernel
//! half has them, but none of what a connection does after the last look at it.

use std::collections::HashMap;
use std::mem::offset_of;

use anyhow::Result;

use crate::abi::app_bytes::Sent;
use crate::abi::known::{
    KNOWN_BYTES_SENT, KNOWN_INET_DIAG, KNOWN_NETNS, KNOWN_RCV_WND, KNOWN_SND_WND, KNOWN_UID,
};
use crate::abi::names::state::{CLOSE_WAIT, CLOSING, LAST_ACK, LISTEN};
use crate::abi::types::{Record, owner};
use crate::cli::filter::Filter;
use crate::fallback::inet_diag::{Held, Listeners, Owners, head_of, held, passes};
use crate::kernel::holders::SocketIterator;
use crate::kernel::sock_diag::{self, DiagSocket, TcpInfo};

use super::bpf::types::{self, conn};
use super::flag;

crate::enumerators! { types::event_kind as u16: OPEN = CONN_OPEN }

crate::enumerators! { types::timer as u8:
    OFF = TIMER_NONE,
    RETRANSMIT = TIMER_RETRANSMIT,
    PERSIST = TIMER_PERSIST,
    KEEPALIVE = TIMER_KEEPALIVE,
}

/// What its rows do not have.
pub(super) const BLANK: &str = "what a connection moves after it was looked at last is not counted, nor are those that come and go between two looks";

/// What each of its rows has.
pub(super) const KNOWN: u16 =
    KNOWN_NETNS | KNOWN_UID | KNOWN_INET_DIAG | KNOWN_BYTES_SENT | KNOWN_SND_WND;

/// Visits the connections of every network namespace.
///
/// # Errors
/// A sentence, if a filter asks what inet_diag does not tell.
pub(super) fn connections(filter: &Filter, scan: bool) -> Result<SocketIterator> {
    let (asked, owners) = (filter.clone(), Owners::new(scan));
    let look = move || here(&asked, &owners);
    let what = ("connection", "connections");
    crate::fallback::inet_diag::sockets("tcptop", what, filter, look)
}

/// Those of this thread's network namespace that match.
fn here(filter: &Filter, owners: &Owners) -> Result<Vec<conn>> {
    let mut listeners = Listeners::default();
    let mut all = Vec::new();
    for socket in &sock_diag::all()? {
        let held = held(socket);
        let (owner, passive) = listeners.owner(socket, held, owners.of(socket.inode));
        let shown = socket.state != LISTEN && !matches!(held, Held::Request | Held::Rest);
        if shown && passes(filter, socket, &owner) {
            all.push(connection(socket, held, owner, passive));
        }
    }
    Ok(all)
}

/// `struct conn` of tcptop.bpf.c. Its start is the receiver's ([`super::look`]).
fn connection(socket: &DiagSocket, held: Held, owner: owner, passive: bool) -> conn {
    let info = &socket.info;
    let sent = Sent {
        acked: info.bytes_acked,
        payload: info.bytes_sent.checked_sub(info.bytes_retrans),
        wqueue: socket.wqueue,
        notsent: info.notsent_bytes,
    };
    let tx = sent.bytes(socket.state, Some(!passive)).unwrap_or(0);
    let timer = match socket.timer {
        1 => RETRANSMIT,
        2 => KEEPALIVE,
        4 => PERSIST,
        _ => OFF,
    };
    let mut head = head_of(socket, owner, OPEN);
    head.known |= KNOWN;
    if socket.info_bytes > offset_of!(TcpInfo, rcv_wnd) {
        head.known |= KNOWN_RCV_WND;
    }
    let conn = conn {
        sock: socket.cookie,
        tx,
        rx: info.bytes_received.saturating_sub(has_fin(socket).into()),
        bytes_sent: info.bytes_sent,
        bytes_retrans: info.bytes_retrans,
        bytes_acked: info.bytes_acked,
        bytes_received: info.bytes_received,
        busy_us: info.busy_time,
        rwnd_limited_us: info.rwnd_limited,
        sndbuf_limited_us: info.sndbuf_limited,
        timer_us: u64::from(socket.expires) * 1000,
        retrans: info.total_retrans,
        total_retrans: info.total_retrans,
        rqueue: socket.rqueue,
        wqueue: socket.wqueue,
        notsent: info.notsent_bytes,
        unacked: info.unacked,
        lost_out: info.lost,
        retrans_out: info.retrans,
        // How far each has come, from where does not matter.
        snd_una: info.bytes_acked as u32,
        copied_seq: (info.bytes_received as u32).wrapping_sub(socket.rqueue),
        snd_wnd: info.snd_wnd,
        rcv_wnd: info.rcv_wnd,
        snd_cwnd: info.snd_cwnd,
        snd_mss: info.snd_mss,
        rtt_us: info.rtt,
        rttvar_us: info.rttvar,
        min_rtt_us: info.min_rtt,
        rto_us: info.rto,
        data_segs_out: info.data_segs_out,
        data_segs_in: info.data_segs_in,
        last_data_sent_ms: info.last_data_sent,
        last_data_recv_ms: info.last_data_recv,
        last_ack_recv_ms: info.last_ack_recv,
        state: socket.state,
        ca_state: info.ca_state,
        retransmits: info.retransmits,
        probes: info.probes,
        backoff: info.backoff,
        timer,
        flags: flags(held, timer, passive),
        ..conn::default()
    };
    conn.with_head(&head)
}

/// Whether the other end's FIN has come, which counts as a byte (net/ipv4/tcp_input.c: tcp_fin).
fn has_fin(socket: &DiagSocket) -> bool {
    matches!(socket.state, CLOSE_WAIT | CLOSING | LAST_ACK)
}

/// Whether it delays small segments is not known; it is not blamed for that.
fn flags(held: Held, timer: u8, passive: bool) -> u8 {
    let mut flags = flag::OPENED_BEFORE | flag::NODELAY;
    if !passive {
        flags |= flag::ACTIVE_OPEN;
    }
    // Where another timer is pending it is not seen, and does not matter.
    if timer != OFF {
        flags |= flag::KEEPALIVE;
    }
    match held {
        Held::Orphan => flags | flag::ORPHAN,
        Held::AcceptQueue => flags | flag::UNACCEPTED,
        Held::Process | Held::Request | Held::Rest => flags,
    }
}

/// When each connection was seen first: its record does not tell when it was opened.
#[derive(Default)]
pub(super) struct Starts {
    first: HashMap<u64, (u64, u32)>,
    visit: u32,
    visited: usize,
}

/// Forgotten only beyond so many.
const SPARE: usize = 4096;

impl Starts {
    /// All connections are going to be looked at.
    pub(super) fn begin(&mut self) {
        self.visit = self.visit.wrapping_add(1);
        self.visited = 0;
    }

    /// Completes a record.
    pub(super) fn set(&mut self, record: &mut conn) {
        let now = (record.head().boot_ns, self.visit);
        let first = self.first.entry(record.sock).or_insert(now);
        first.1 = self.visit;
        record.start_ns = first.0;
        self.visited += 1;
    }

    /// All were.
    pub(super) fn end(&mut self) {
        if self.first.len() > 2 * self.visited + SPARE {
            let visit = self.visit;
            self.first.retain(|_, (_, seen)| *seen == visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::names::state::ESTABLISHED;

    fn socket(state: u8, inode: u32) -> DiagSocket {
        DiagSocket {
            cookie: 7,
            state,
            inode,
            rqueue: 5,
            info: TcpInfo {
                bytes_acked: 101,
                bytes_received: 40,
                ..TcpInfo::default()
            },
            info_bytes: size_of::<TcpInfo>(),
            ..DiagSocket::default()
        }
    }

    #[test]
    fn syn_and_fin_are_no_bytes() {
        let of = |state, passive| {
            let socket = socket(state, 1);
            let conn = connection(&socket, held(&socket), owner::default(), passive);
            (conn.tx, conn.rx, conn.copied_seq)
        };
        assert_eq!(of(ESTABLISHED, false), (100, 40, 35));
        assert_eq!(of(ESTABLISHED, true), (101, 40, 35));
        assert_eq!(of(CLOSE_WAIT, true), (101, 39, 35));
    }

    #[test]
    fn who_holds_it_is_known() {
        let of = |state, inode| {
            let socket = socket(state, inode);
            connection(&socket, held(&socket), owner::default(), true).flags
        };
        assert_eq!(of(ESTABLISHED, 1) & (flag::ORPHAN | flag::UNACCEPTED), 0);
        assert_ne!(of(ESTABLISHED, 0) & flag::UNACCEPTED, 0);
        assert_ne!(of(4, 0) & flag::ORPHAN, 0);
    }

    #[test]
    fn start_is_the_first_look() {
        let mut starts = Starts::default();
        let mut at = |boot_ns| {
            let mut conn = conn {
                sock: 7,
                ..conn::default()
            };
            conn.head.boot_ns = boot_ns;
            starts.begin();
            starts.set(&mut conn);
            starts.end();
            conn.start_ns
        };
        assert_eq!([at(10), at(20)], [10, 10]);
    }
}
