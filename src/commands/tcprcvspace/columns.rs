// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a sample, and of a socket's summary.

use crate::abi::known::*;
use crate::by_number;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::value::Value;
use crate::output::{Column, Shown};

use super::bpf::types::{self, adjust};

/// The row's `event` in JSON.
pub(super) const EVENTS: [&str; 4] = by_number! { types::event_kind:
    ADJUST => "adjust",
    LIMITED_CLOSED => "limited",
    LIMITED_OPEN => "active",
    GROWN => "grow",
};

/// What there is a row for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Each call.
    Calls,
    /// Each step in which a buffer was to grow.
    Steps,
    /// Each socket.
    Sockets,
}

const GROWTH: [&str; 4] = by_number! { types::growth:
    GROWTH_OPEN => "open",
    GROWTH_LOCKED => "locked",
    GROWTH_OFF => "off",
    GROWTH_MAX => "max",
};

pub(super) fn columns(of: Of) -> Vec<Column<adjust>> {
    let own = match of {
        Of::Calls => sample(Shown::DETAIL),
        Of::Steps => [sample(Shown::JSON), step()]
            .into_iter()
            .flatten()
            .collect(),
        Of::Sockets => stats(),
    };
    [who(of), own, sizes()].into_iter().flatten().collect()
}

fn who(of: Of) -> Vec<Column<adjust>> {
    let laddr_shown = match of {
        Of::Steps => Shown::WIDE,
        _ => Shown::TEXT,
    };
    columns! { |row, s: adjust|
        "pid"    TEXT "PID"   (5, 7)   => pid(row);
        "comm"   TEXT "COMM"  (7, 16)  => comm(row);
        "laddr"  (laddr_shown) "LADDR" (15, 39) => laddr(row);
        "lport"  TEXT "LPORT" (5, 5)   => lport(row);
        "raddr"  TEXT "RADDR" (15, 39) => raddr(row);
        "rport"  TEXT "RPORT" (5, 5)   => rport(row);
    }
}

/// What one call has measured; `queued`: where what is not read yet is shown.
fn sample(queued: Shown) -> Vec<Column<adjust>> {
    columns! { |row, s: adjust|
        "copied_bytes" ALL    "COPIED"  (6, 7).right if KNOWN_SOCKET => bytes(s.copied);
        "measure_us"   DETAIL "MEASURE" (7, 7).right if KNOWN_SOCKET => micros(s.measure_us);
        "measured"     JSON                          if KNOWN_SOCKET => s.measured != 0;
        "queued_bytes" (queued) "QUEUED"  (6, 7).right if KNOWN_SOCKET => bytes(s.queued);
    }
}

/// What a step began with.
fn step() -> Vec<Column<adjust>> {
    columns! { |row, s: adjust|
        "old_rcvbuf_bytes" ALL "OLDBUF" (6, 7).right => bytes(s.old_rcvbuf);
    }
}

/// What all calls of a socket have, since its first one that was seen.
fn stats() -> Vec<Column<adjust>> {
    columns! { |row, s: adjust|
        "limited_percent"  ALL    "LIM%"      (5, 5).right => Value::Percent(limited_percent(s));
        "limited"          JSON   "LIMITED"   (7, 7).right => s.limited;
        "measures"         JSON   "MEASURES"  (8, 8).right => s.measures;
        "max_copied_bytes" JSON   "MAXCOPIED" (9, 9).right => bytes(s.max_copied);
        "watched_us"       DETAIL "MS"        (8, 8).right => micros(s.stats_ns / 1000);
        "window_rate_bytes_per_s" DETAIL "MBIT/S" (6, 7).right => rate(window_rate(s));
    }
}

fn sizes() -> Vec<Column<adjust>> {
    columns! { |row, s: adjust|
        "rcvbuf_bytes"       ALL    "RCVBUF"   (6, 7).right if KNOWN_SOCKET => bytes(s.rcvbuf);
        "growth"             ALL    "GROWTH"   (6, 6)       if KNOWN_SOCKET => GROWTH.get(usize::from(s.growth)).copied();
        "rcv_rtt_us"         DETAIL "RTT"      (6, 6).right if KNOWN_SOCKET => micros(unless(s.rcv_rtt_us, 0));
        "rcv_space_bytes"    JSON   "SPACE"    (6, 7).right if KNOWN_SOCKET => bytes(s.space);
        "window_clamp_bytes" JSON   "CLAMP"    (6, 7).right if KNOWN_SOCKET => bytes(s.window_clamp);
        "rcv_ssthresh_bytes" JSON   "SSTHRESH" (8, 8).right if KNOWN_SOCKET => bytes(s.rcv_ssthresh);
        "rcv_wnd_bytes"      DETAIL "RCVWND"   (6, 7).right if KNOWN_SOCKET => bytes(s.rcv_wnd);
        "tcp_rmem_max_bytes" DETAIL "RMEMMAX"  (7, 7).right if KNOWN_SOCKET => bytes(s.rmem_max);
        "rmem_alloc_bytes"   JSON.right                     if KNOWN_SOCKET => bytes(s.rmem_alloc);
        "calls"              JSON.right                                     => s.calls;
    }
}

fn limited_percent(body: &adjust) -> f64 {
    f64::from(body.limited) * 100.0 / f64::from(body.measures.max(1))
}

/// What this window allows: one of it in each round trip.
fn window_rate(body: &adjust) -> Option<u64> {
    (u64::from(body.rcv_ssthresh) * 1_000_000).checked_div(body.rcv_rtt_us.into())
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let [sample, summaries @ .., step] = EVENTS;
    let modes = [PROGRAMS, with_btf(KNOWN_SOCKET), records(0)];
    let mut kinds = vec![Kind::row(sample, &columns(Of::Calls)).known(&modes)];
    let summaries: [&str; 2] = summaries;
    kinds.extend(summaries.map(|event| Kind::row(event, &columns(Of::Sockets))));
    kinds.push(Kind::row(step, &columns(Of::Steps)));
    kinds.extend(super::grouped::kinds());
    kinds
}
