// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a session.

use crate::abi::known::*;
use crate::abi::names::{errno, tcp_state};
use crate::by_number;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::{event_kind, session};
use super::close_reason::Ending;

/// By the numbers of close_reason.rs: its name, and its letter in the narrow table.
const REASONS: [(Option<&str>, &str); 10] = [
    (None, "-"),
    (Some("fin_local"), "F"),
    (Some("fin_remote"), "f"),
    (Some("fin_both"), "B"),
    (Some("rst_sent"), "R"),
    (Some("rst_received"), "r"),
    (Some("refused"), "x"),
    (Some("timeout"), "t"),
    (Some("unreachable"), "u"),
    (Some("aborted"), "A"),
];

/// The reason of an end in JSON, by the error, the state before CLOSE, and the facts (close_reason.rs).
pub(in crate::commands) fn reason_of(error: u8, old: u8, facts: u16) -> &'static str {
    let (reason, _) = Ending { old, error, facts }.reason();
    let known = REASONS.get(usize::from(reason)).and_then(|known| known.0);
    known.unwrap_or("unknown")
}

/// The row's `event` in JSON. An amendment is no row.
pub(super) const EVENTS: [&str; 2] = by_number! { event_kind:
    SESSION_CLOSED => "session",
    SESSION_OPEN => "active",
};

pub(super) fn reason(body: &session) -> (Option<&'static str>, &'static str) {
    *REASONS.get(body.reason as usize).unwrap_or(&REASONS[0])
}

/// What a session's account at the destruction of its socket has, and what the socket itself has at CLOSE.
pub(super) const DESTROYED: u16 = KNOWN_INET_DIAG | KNOWN_BYTES | KNOWN_NETNS;
pub(super) const CLOSED: u16 = KNOWN_INET_DIAG | KNOWN_BYTES | KNOWN_ERROR | KNOWN_SOCKET;

pub(super) fn columns() -> Vec<Column<session>> {
    columns! { |row, s: session|
        "pid"           TEXT   "PID"          (5, 7)    => pid(row);
        "comm"          TEXT   "COMM"         (10, 16)  => comm(row);
        "family"        WIDE   "IP"           (2, 2)    => family(row);
        "laddr"         TEXT   "LADDR"        (15, 39)  => laddr(row);
        "lport"         TEXT   "LPORT"        (5, 5)    => lport(row);
        "raddr"         TEXT   "RADDR"        (15, 39)  => raddr(row);
        "rport"         TEXT   "RPORT"        (5, 5)    => rport(row);
        // u64::MAX: an MPTCP connection counts its bytes since 6.5 only.
        "tx_bytes"      ALL    "TX_KB"        (5, 6).right  if KNOWN_BYTES => bytes(unless(s.tx_bytes, u64::MAX));
        "rx_bytes"      ALL    "RX_KB"        (5, 6).right  if KNOWN_BYTES => bytes(unless(s.rx_bytes, u64::MAX));
        ""              NARROW "E"            (1, 1)    => reason(s).1;
        "duration_us"   ALL    "MS"           (5, 9)    => micros_since(s.duration_ns / 1000, s.partial != 0);
        "idle_us"       DETAIL "IDLE"         (6, 9).right  if KNOWN_IDLE => jiffies(s.idle_jiffies);
        "close_reason"  DETAIL "CLOSE_REASON" (12, 12)  => reason(s).0;
        "partial"       JSON   "PARTIAL"      (7, 7)    => s.partial != 0;
        "pid_source"    REQUEST "PID_SOURCE"   (10, 10)  => pid_source(row);
        "state"         JSON   "STATE"        (11, 11)  => tcp_state(s.state);
        "errno"         JSON                      if KNOWN_ERROR     => unless(s.errno_, 0);
        "error"         JSON                      if KNOWN_ERROR     => errno(s.errno_);
        "mptcp"         JSON                      if KNOWN_ERROR     => mptcp(s);
        "srtt_us"       DETAIL "SRTT_MS"   (7, 7).right  if KNOWN_INET_DIAG => micros(unless(s.srtt_us, 0));
        "min_rtt_us"    JSON   "MINRTT_MS" (9, 9).right  if KNOWN_INET_DIAG => micros(unless(s.min_rtt_us, u32::MAX));
        "total_retrans" DETAIL "RETRANS"   (7, 7).right  if KNOWN_INET_DIAG => s.total_retrans;
        "snd_cwnd"      JSON   "CWND"      (5, 5).right  if KNOWN_INET_DIAG => s.snd_cwnd;
        "mss"           JSON   "MSS"       (5, 5).right  if KNOWN_INET_DIAG => s.mss;
        "ca_name"       JSON   "CA"        (8, 8)        if KNOWN_SOCKET    => kernel_name(&s.ca_name);
        "delivery_rate_bytes_per_s" JSON   "MBIT/S" (6, 6).right if KNOWN_INET_DIAG => rate(unless(s.delivery_rate, 0).or_else(|| delivery_rate(s.rate_delivered, s.mss, s.rate_interval_us)));
    }
}

fn mptcp(body: &session) -> Option<&'static str> {
    match body.mptcp {
        0 => None,
        1 => Some("subflow"),
        _ => Some("parent"),
    }
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let modes = [PROGRAMS, with_btf(CLOSED), inet_diag(DESTROYED), records(0)];
    EVENTS
        .map(|event| Kind::row(event, &columns()).known(&modes))
        .into()
}
