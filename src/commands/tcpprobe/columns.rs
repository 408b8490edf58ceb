// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a sample.

use crate::abi::known::*;
use crate::abi::names::ca_state_name;
use crate::aggregate::hist_keys;
use crate::commands::tcpprobe::series::INFINITE_SSTHRESH;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::probe;

/// The name of a congestion state, and its letter in the narrow table.
pub(super) fn ca_state(body: &probe) -> (&'static str, &'static str) {
    let letters = ["O", "D", "C", "R", "L"];
    let name = ca_state_name(body.ca_state).zip(letters.get(usize::from(body.ca_state)).copied());
    name.unwrap_or(("unknown", "?"))
}

#[rustfmt::skip] // one line per column
pub(super) fn columns() -> Vec<Column<probe>> {
    columns! { |row, p: probe|
        "pid"               WIDE   "PID"     (5, 7)        => pid(row);
        "comm"              TEXT   "COMM"    (7, 16)       => comm(row);
        "laddr"             WIDE   "LADDR"   (15, 39)      => laddr(row);
        "lport"             TEXT   "LPORT"   (5, 5)        => lport(row);
        "raddr"             TEXT   "RADDR"   (15, 39)      => raddr(row);
        "rport"             TEXT   "RPORT"   (5, 5)        => rport(row);
        "snd_cwnd"          ALL    "CWND"    (5, 6).right  => p.snd_cwnd;
        // 0: not in the record.
        "ssthresh"          ALL    "SSTHR"   (5, 6).right  => unless(p.ssthresh, 0).filter(|n| *n < INFINITE_SSTHRESH);
        "packets_in_flight" ALL    "INFL"    (4, 6).right  if KNOWN_SOCKET => in_flight(p);
        "snd_wnd_bytes"     ALL    "SND_WND" (7, 7).right  => bytes(p.snd_wnd);
        "srtt_us"           ALL    "SRTT_MS" (7, 7).right  => micros(unless(p.srtt_us, 0));
        "len_bytes"         ALL    "LEN"     (5, 6).right  => p.data_len;
        "total_retrans"     ALL    "RTX"     (3, 6).right  if KNOWN_SOCKET => p.total_retrans;
        ""                  NARROW "S"        (1, 1)       if KNOWN_SOCKET => ca_state(p).1;
        "ca_state"          DETAIL "CA_STATE" (8, 8)       if KNOWN_SOCKET => ca_state(p).0;
        "ca_name"           JSON   "CA"       (8, 8)       if KNOWN_SOCKET => kernel_name(&p.ca_name);
        "rcv_wnd_bytes"     JSON   "RCV_WND" (7, 7).right  => bytes(p.rcv_wnd);
        "in_flight_bytes"   JSON   "INFL_KB" (7, 7).right  => bytes(unacked(p));
        "delivery_rate_bytes_per_s" DETAIL "MBIT/S"      (6, 6).right   if KNOWN_SOCKET => rate(delivery_rate(p.rate_delivered, p.mss, p.rate_interval_us));
        "pacing_rate_bytes_per_s"   JSON   "PACE_MBIT/S" (11, 11).right if KNOWN_SOCKET => rate(unless(p.pacing_rate, u64::MAX));
        "snd_nxt"           JSON                  => p.snd_nxt;
        "snd_una"           JSON                  => p.snd_una;
        "mss"               JSON if KNOWN_SOCKET  => p.mss;
        "packets_out"       JSON if KNOWN_SOCKET  => p.packets_out;
        "sacked_out"        JSON if KNOWN_SOCKET  => p.sacked_out;
        "lost_out"          JSON if KNOWN_SOCKET  => p.lost_out;
        "retrans_out"       JSON if KNOWN_SOCKET  => p.retrans_out;
        "retransmits"       JSON if KNOWN_SOCKET  => p.retransmits;
        "delivery_rate_app_limited" JSON if KNOWN_SOCKET => p.app_limited != 0;
    }
}

/// As `include/net/tcp.h: tcp_packets_in_flight` has it.
fn in_flight(p: &probe) -> u32 {
    let left = p.sacked_out.wrapping_add(p.lost_out);
    p.packets_out.wrapping_sub(left).wrapping_add(p.retrans_out)
}

/// Bytes sent and not acknowledged.
fn unacked(p: &probe) -> u32 {
    p.snd_nxt.wrapping_sub(p.snd_una)
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let modes = [PROGRAMS, ("btf", 0), records(0)];
    let mut kinds = vec![Kind::row("sample", &columns()).known(&modes)];
    kinds.extend(hist_keys::kinds(&["sample"]));
    kinds
}
