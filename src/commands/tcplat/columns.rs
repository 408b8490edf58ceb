// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a turn.

use crate::abi::known::PROGRAMS;
use crate::aggregate::by::Key;
use crate::aggregate::hist_keys;
use crate::aggregate::keys::Keys;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::turn;
use super::parts::{CLIENT, part, role, role_letter};
use super::{BY_SERVER, summary};

/// A time of the record that may be unknown.
const UNKNOWN: u64 = u64::MAX;

#[rustfmt::skip] // one line per column
pub(super) fn columns() -> Vec<Column<turn>> {
    columns! { |row, t: turn|
        "pid"            WIDE   "PID"     (5, 7)       => pid(row);
        "comm"           TEXT   "COMM"    (7, 16)      => comm(row);
        ""               NARROW "R"       (1, 1)       => role_letter(t.role);
        "role"           DETAIL "ROLE"    (6, 6)       => role(t.role);
        "laddr"          WIDE   "LADDR"   (15, 39)     => laddr(row);
        "lport"          TEXT   "LPORT"   (5, 5)       => lport(row);
        "raddr"          TEXT   "RADDR"   (15, 39)     => raddr(row);
        "rport"          TEXT   "RPORT"   (5, 5)       => rport(row);
        "rx_bytes"       ALL    "RX_KB"   (5, 6).right => bytes(rx(t));
        "tx_bytes"       ALL    "TX_KB"   (5, 6).right => bytes(tx(t));
        "unread_us"      ALL    "UNREAD"  (6, 6).right => micros(unless(t.unread_us, UNKNOWN));
        "turn_us"        ALL    "MS"      (6, 6).right => micros(t.turn_us);
        "min_rtt_us"     ALL    "MINRTT"  (6, 6).right => micros(unless(t.min_rtt_us, u32::MAX));
        "srtt_us"        DETAIL "SRTT"    (6, 6).right => micros(unless(t.srtt_us, 0));
        "where"          ALL    "WHERE"   (7, 7)       => part(t.part);
        "network_us"     JSON   "NETWORK" (7, 7).right => micros(unless(t.network_us, UNKNOWN));
        "peer_us"        JSON   "PEER_MS" (7, 7).right => micros(peer(t));
        "retrans_segs"   DETAIL "RTX"     (3, 4).right => t.retrans;
        "request_calls"  JSON   "CALLS"   (5, 5).right => t.request_calls;
        "pipelined"      JSON   "PIPELINED" (9, 9)     => t.pipelined != 0;
        "restarts"       JSON   "RESTARTS" (8, 8).right => t.restarts;
        "accept_us"      JSON   "ACCEPT"  (6, 6).right => micros(unless(t.accept_us, UNKNOWN));
        "first_read_us"  JSON   "FIRST"   (6, 6).right => micros(unless(t.first_read_us, UNKNOWN));
    }
}

/// A client receives the answer, and a server the request.
fn rx(t: &turn) -> u64 {
    if t.role == CLIENT {
        t.answer_bytes
    } else {
        t.request_bytes
    }
}

fn tx(t: &turn) -> u64 {
    if t.role == CLIENT {
        t.request_bytes
    } else {
        t.answer_bytes
    }
}

/// What of a client's turn the other end took.
fn peer(t: &turn) -> Option<u64> {
    let network = unless(t.network_us, UNKNOWN)?;
    let read = unless(t.unread_us, UNKNOWN).unwrap_or(0);
    Some(t.turn_us.saturating_sub(network).saturating_sub(read))
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::row("turn", &columns()).known(&[PROGRAMS])];
    let own = Keys::new(vec![Key::Own(BY_SERVER)]);
    let keys = Keys::each().chain([own]);
    kinds.extend(keys.map(|keys| Kind::sums_by("total", &summary::columns(&keys))));
    kinds.extend(hist_keys::kinds(&["sample"]));
    kinds
}
