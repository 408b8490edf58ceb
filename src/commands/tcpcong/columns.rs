// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a change of the congestion state.

use crate::abi::known::*;
use crate::abi::names::{INFINITE_SSTHRESH, ca_state_name, tcp_state};
use crate::aggregate::hist_keys;
use crate::aggregate::keys::Keys;
use crate::by_number;
use crate::cli::filter::CLOSED;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::{change, event_kind};
use super::totals::total_columns;

/// The row's `event` in JSON. Totals have one of their own.
pub(super) const EVENTS: [&str; 2] = by_number! { event_kind:
    CA_CHANGED => "ca_state_change",
    CA_ENDED => "closed",
};

/// `in_state_ns` when the socket was not seen before.
const TIME_UNKNOWN: u64 = u64::MAX;

#[rustfmt::skip] // one line per column
pub(super) fn columns() -> Vec<Column<change>> {
    columns! { |row, c: change|
        "pid"               TEXT   "PID"      (5, 7)         => pid(row);
        "comm"              TEXT   "COMM"     (7, 16)        => comm(row);
        "laddr"             WIDE   "LADDR"    (15, 39)       => laddr(row);
        "lport"             TEXT   "LPORT"    (5, 5)         => lport(row);
        "raddr"             TEXT   "RADDR"    (15, 39)       => raddr(row);
        "rport"             TEXT   "RPORT"    (5, 5)         => rport(row);
        "old_ca_state"      ALL    "OLD"      (8, 8)         => ca_state_name(c.old_state);
        "new_ca_state"      JSON                             => ca_state_name(c.new_state);
        ""                  TEXT   "NEW"      (8, 8)         => ca_state_name(c.new_state).unwrap_or(CLOSED);
        "in_state_us"       ALL    "MS"       (7, 8).right   => micros_since(in_state_us(c), c.at_least != 0);
        "in_state_at_least" JSON                             => c.at_least != 0;
        "snd_cwnd"          ALL    "CWND"     (5, 5).right   => c.snd_cwnd;
        "ssthresh"          ALL    "SSTHR"    (5, 5).right   => unless(c.ssthresh, INFINITE_SSTHRESH);
        "packets_in_flight" DETAIL "INFL"     (4, 5).right   => in_flight(c);
        "srtt_us"           DETAIL "SRTT_MS"  (7, 7).right   => micros(unless(c.srtt_us, 0));
        "total_retrans"     DETAIL "RTX"      (3, 5).right   => c.total_retrans;
        "ca_name"           DETAIL "CA"       (8, 8)         => kernel_name(&c.ca_name);
        "state"             JSON   "STATE"    (11, 11)       => tcp_state(c.state);
        "mss"               JSON                             => c.mss;
        "packets_out"       JSON                             => c.packets_out;
        "sacked_out"        JSON                             => c.sacked_out;
        "lost_out"          JSON                             => c.lost_out;
        "retrans_out"       JSON                             => c.retrans_out;
        "retransmits"       JSON                             => c.retransmits;
    }
}

fn in_state_us(body: &change) -> Option<u64> {
    unless(body.in_state_ns, TIME_UNKNOWN).map(|ns| ns / 1000)
}

/// As `include/net/tcp.h: tcp_packets_in_flight` has it.
fn in_flight(c: &change) -> u32 {
    let left = c.sacked_out.wrapping_add(c.lost_out);
    c.packets_out.wrapping_sub(left).wrapping_add(c.retrans_out)
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<_> = EVENTS
        .map(|event| Kind::row(event, &columns()).known(&[PROGRAMS]))
        .into();
    kinds.extend(Keys::each().map(|keys| Kind::sums_by("total", &total_columns(&keys))));
    kinds.extend(hist_keys::kinds(&["ca_state"]));
    kinds
}
