// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a passive open, and of a listener.

use crate::abi::known::*;
use crate::abi::names::tcp_state;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::{micros, unless};
use crate::output::value::Value;
use crate::output::{Column, Shown};

use super::bpf::types::accept;
use super::listener::{Listener, TIME_UNKNOWN, UNKNOWN};
use super::verdict::Verdict;

/// Which listeners are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// `--summary`: those with opens or drops in the interval, the busiest first.
    Busy,
    /// `--listeners`: all, the worst first.
    Every,
}

#[rustfmt::skip] // one line per column
pub(super) fn columns() -> Vec<Column<accept>> {
    columns! { |row, a: accept|
        "pid"              TEXT   "PID"   (7, 7)     => pid(row);
        "comm"             TEXT   "COMM"  (10, 16)   => comm(row);
        "family"           TEXT   "IP"    (2, 2)     => family(row);
        "raddr"            TEXT   "RADDR" (15, 39)   => raddr(row);
        "rport"            TEXT   "RPORT" (5, 5)     => rport(row);
        "laddr"            TEXT   "LADDR" (15, 39)   => laddr(row);
        "lport"            TEXT   "LPORT" (5, 5)     => lport(row);
        "accept_queue"     ALL    "QLEN"  (5, 5).right if KNOWN_SOCKET => unless(a.accept_queue, UNKNOWN);
        "accept_queue_max" ALL    "QMAX"  (5, 5).right if KNOWN_SOCKET => unless(a.accept_queue_max, UNKNOWN);
        "listener_cookie"  JSON                        if KNOWN_SOCKET => unless(a.listener_cookie, 0);
        "state"            DETAIL "STATE" (11, 11)   => tcp_state(a.state);
    }
}

/// In which tables of listeners a column is: of all (`--listeners`), and of the busy ones (`--summary`).
fn tables(which: Which, every: Shown, busy: Shown) -> Shown {
    match which {
        Which::Every => every,
        Which::Busy => busy,
    }
}

#[rustfmt::skip] // one line per column
pub(super) fn listener_columns(which: Which) -> Vec<Column<Listener>> {
    let now = tables(which, Shown::ALL, Shown::JSON);
    let rate = tables(which, Shown::ALL, Shown::DETAIL);
    let sum = tables(which, Shown::DETAIL, Shown::ALL);
    let detail = tables(which, Shown::DETAIL, Shown::JSON);
    let mut columns = socket_columns();
    columns.extend(columns! { |row, l: Listener|
        "pid"                TEXT     "PID"       (7, 7)        => pid(row);
        "comm"               TEXT     "COMM"      (8, 16)       => comm(row);
        "family"             (Shown::WIDE) "IP"   (2, 2)        => family(row);
        "laddr"              TEXT     "LADDR"     (15, 39)      => laddr(row);
        "lport"              TEXT     "LPORT"     (5, 5)        => lport(row);
        "accepts"            (sum)    "ACCEPTS"   (7, 8).right  => unless(l.accepts, TIME_UNKNOWN);
        "accepts_per_s"      (sum)    "PER_S"     (5, 6).right  => per_second(unless(l.accepts, TIME_UNKNOWN), l);
        "accept_queue"       (now)    "QLEN"      (4, 5).right  => unless(l.queues.accept_queue, UNKNOWN);
        "accept_queue_high"  (sum)    "QHIGH"     (5, 5).right  => unless(l.accept_queue_high, UNKNOWN);
        "accept_queue_max"   ALL      "QMAX"      (4, 5).right  => unless(l.queues.accept_queue_max, UNKNOWN);
        "syn_queue"          (now)    "SYNQ"      (4, 5).right  => unless(l.queues.syn_queue, UNKNOWN);
        "syn_queue_max"      (detail) "SYNMAX"    (6, 6).right  => unless(l.queues.syn_queue_max, UNKNOWN);
        "drops"              ALL      "DROPS"     (5, 8).right  => unless(l.queues.drops, UNKNOWN);
        "drops_per_s"        (rate)   "DROP/S"    (6, 6).right  => per_second(unless(l.new_drops, UNKNOWN).map(u64::from), l);
        "oldest_wait_us"     (detail) "WAIT_MS"   (7, 9).right  => micros(unless(l.queues.oldest_wait_us, TIME_UNKNOWN));
        "syn_cookie_us"      (detail) "COOKIE_MS" (9, 9).right  => micros(unless(l.queues.syn_cookie_us, TIME_UNKNOWN));
        "fastopen_queue"     (detail) "FOQ"       (5, 5).right  => fastopen(l, l.queues.fastopen_queue);
        "fastopen_queue_max" (detail) "FOMAX"     (5, 5).right  => fastopen(l, l.queues.fastopen_queue_max);
        "reuseport"          (detail) "REUSE"     (5, 5).right  => unless(l.queues.group_size, 0);
        "reuseport_group"    JSON                               => unless(l.group, 0);
        "verdict"            (rate)   "VERDICT"   (13, 13)      => Verdict::name(l.verdict);
    });
    columns
}

/// Nothing where Fast Open is off.
fn fastopen(l: &Listener, number: u32) -> Option<u32> {
    let on = ![0, UNKNOWN].contains(&l.queues.fastopen_queue_max);
    on.then_some(number)
}

fn per_second(count: Option<u64>, l: &Listener) -> Value<'static> {
    let rate = |count| count as f64 * 1e6 / l.interval_us.max(1) as f64;
    count.map(|count| Value::Number(rate(count))).into()
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = vec![
        Kind::row("accept", &columns()).known(&[PROGRAMS, with_btf(0), records(0)]),
        Kind::sums("listener", &listener_columns(Which::Every)),
        Kind::sums("listener", &listener_columns(Which::Busy)),
    ];
    kinds.extend(super::grouped::kinds());
    kinds
}
