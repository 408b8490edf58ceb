// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a connection in an interval.

use crate::abi::known::{KNOWN_RCV_WND, KNOWN_SOCKET};
use crate::abi::names::{ca_state_name, tcp_state};
use crate::by_number;
use crate::output::column::*;
use crate::output::units::*;
use crate::output::value::Value;
use crate::output::{Column, Shown};

use super::bpf::types::timer;
use super::flag;
use super::traffic::Connection;

/// Pending timers, by their numbers in tcptop.bpf.c.
pub(super) const TIMERS: [&str; 6] = by_number! { timer:
    TIMER_NONE => "off",
    TIMER_RETRANSMIT => "retransmit",
    TIMER_LOSS_PROBE => "loss_probe",
    TIMER_REORDER => "reorder",
    TIMER_PERSIST => "persist",
    TIMER_KEEPALIVE => "keepalive",
};

/// The name of a timer.
pub(super) fn timer_name(number: u8) -> Option<&'static str> {
    TIMERS.get(usize::from(number)).copied()
}

fn has(one: &Connection, bit: u8) -> bool {
    one.conn.flags & bit != 0
}

/// How long ago something last happened, if it ever did.
fn ago(count: u32, ms: u32) -> Value<'static> {
    micros((count != 0).then_some(u64::from(ms) * 1000))
}

/// How long it has been open; at least so long if it was before the trace.
fn age(one: &Connection) -> Value<'static> {
    let ns = one.conn.head.boot_ns.saturating_sub(one.conn.start_ns);
    micros_since(ns / 1000, has(one, flag::OPENED_BEFORE))
}

fn why_us(one: &Connection) -> Value<'static> {
    let why = one.why();
    let us = why.is_any().then_some(why.us);
    micros_since(us, why.at_least)
}

/// `stalled`: of rows that say why a connection does not move, rather than how much it does.
#[rustfmt::skip] // one line per column
pub(super) fn columns(stalled: bool) -> Vec<Column<Connection>> {
    let rates = if stalled { Shown::JSON } else { Shown::ALL };
    let queues = if stalled { Shown::ALL } else { Shown::DETAIL };
    let state = if stalled { Shown::DETAIL } else { Shown::JSON };
    let timers = if stalled { Shown::DETAIL } else { Shown::JSON };
    columns! { |row, s: Connection|
        "pid"             TEXT   "PID"      (5, 7)           => pid(row);
        "comm"            TEXT   "COMM"     (8, 16)          => comm(row);
        "laddr"           WIDE   "LADDR"    (15, 39)         => laddr(row);
        "lport"           TEXT   "LPORT"    (5, 5)           => lport(row);
        "raddr"           TEXT   "RADDR"    (15, 39)         => raddr(row);
        "rport"           TEXT   "RPORT"    (5, 5)           => rport(row);
        "state"           (state) "STATE"    (11, 11)         => tcp_state(s.conn.state);
        "closed"          JSON                               => s.is_closed();
        "age_us"          JSON   "AGE_MS"   (7, 8).right     => age(s);
        "partial"         JSON                               => has(s, flag::OPENED_BEFORE);
        "interval_us"     JSON                               => s.interval_us;
        "tx_bytes"        JSON                               => bytes(s.tx);
        "rx_bytes"        JSON                               => bytes(s.rx);
        "tx_bytes_per_s"  (rates) "TX_MBIT" (7, 7).right     => per_second(s.tx, s.interval_us);
        "rx_bytes_per_s"  (rates) "RX_MBIT" (7, 7).right     => per_second(s.rx, s.interval_us);
        "retrans_segs"    (rates) "RETR"    (4, 5).right     => s.retrans;
        "srtt_us"         (rates) "RTT"     (5, 6).right     => micros(unless(s.conn.rtt_us, 0));
        "rqueue_bytes"    (queues) "RCVQ"   (5, 7).right     => bytes(s.conn.rqueue);
        "wqueue_bytes"    (queues) "SNDQ"   (5, 7).right     => bytes(s.conn.wqueue);
        "timer"           (timers) "TIMER"  (10, 10)         => timer_name(s.conn.timer);
        "timer_us"        (timers) "DUE_MS" (6, 7).right     => micros((s.conn.timer != 0).then_some(s.conn.timer_us));
        "backoff"         JSON     "BACKOFF" (7, 7).right    => s.conn.backoff;
        "why_us"          (queues) "FOR_MS" (7, 8).right     => why_us(s);
        "why_at_least"    JSON                               => s.why().is_any().then_some(s.why().at_least);
        "why"             ALL    "WHY"      (10, 11)         => s.why().text();

        "retransmits"     JSON                               => s.conn.retransmits;
        "probes"          JSON                               => s.conn.probes;
        "snd_wnd_bytes"   JSON   "SND_WND"  (7, 7).right     => bytes(s.conn.snd_wnd);
        "rcv_wnd_bytes"   JSON if KNOWN_RCV_WND => bytes(s.conn.rcv_wnd);
        "notsent_bytes"   JSON                               => bytes(s.conn.notsent);
        "packets_out"     JSON                               => s.conn.unacked;
        "lost_out"        JSON                               => s.conn.lost_out;
        "retrans_out"     JSON                               => s.conn.retrans_out;
        "snd_cwnd"        JSON   "CWND"     (5, 5).right     => s.conn.snd_cwnd;
        "mss"             JSON                               => s.conn.snd_mss;
        "rttvar_us"       JSON                               => micros(unless(s.conn.rtt_us, 0).and(Some(s.conn.rttvar_us)));
        "min_rtt_us"      JSON   "MINRTT"   (6, 6).right     => micros(unless(s.conn.min_rtt_us, u32::MAX));
        "rto_us"          JSON                               => micros(s.conn.rto_us);
        "ca_name"         JSON if KNOWN_SOCKET => kernel_name(&s.conn.ca_name);
        "ca_state"        JSON                               => ca_state_name(s.conn.ca_state);
        "busy_time_us"    JSON                               => micros(s.conn.busy_us);
        "rwnd_limited_us" JSON                               => micros(s.conn.rwnd_limited_us);
        "sndbuf_limited_us" JSON                             => micros(s.conn.sndbuf_limited_us);
        "last_data_sent_us" JSON                             => ago(s.conn.data_segs_out, s.conn.last_data_sent_ms);
        "last_data_recv_us" JSON                             => ago(s.conn.data_segs_in, s.conn.last_data_recv_ms);
        "last_ack_recv_us"  JSON                             => micros(u64::from(s.conn.last_ack_recv_ms) * 1000);
        "bytes_sent"      JSON                               => bytes(s.conn.bytes_sent);
        "bytes_retrans"   JSON                               => bytes(s.conn.bytes_retrans);
        "bytes_acked"     JSON                               => bytes(s.conn.bytes_acked);
        "bytes_received"  JSON                               => bytes(s.conn.bytes_received);
        "total_retrans"   JSON                               => s.conn.total_retrans;
        "rmem_alloc_bytes"  JSON if KNOWN_SOCKET => bytes(s.conn.rmem_alloc);
        "rcvbuf_bytes"    JSON if KNOWN_SOCKET => bytes(s.conn.rcvbuf);
        "wmem_queued_bytes" JSON if KNOWN_SOCKET => bytes(s.conn.wmem_queued);
        "sndbuf_bytes"    JSON if KNOWN_SOCKET => bytes(s.conn.sndbuf);
        "drops"           JSON if KNOWN_SOCKET => s.conn.drops;
        "keepalive"       JSON if KNOWN_SOCKET => has(s, flag::KEEPALIVE);
        "nodelay"         JSON if KNOWN_SOCKET => has(s, flag::NODELAY);
        "orphan"          JSON                               => has(s, flag::ORPHAN);
        "active_open"     JSON                               => has(s, flag::ACTIVE_OPEN);
    }
}
