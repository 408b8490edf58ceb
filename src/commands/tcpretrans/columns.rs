// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a retransmission.

use crate::abi::known::*;
use crate::abi::names::{ca_state_name, errno, tcp_state};
use crate::aggregate::{counts::Per, keys::Keys, totals::Totals};
use crate::kernel::clock::jiffy_us;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::{micros, unless};
use crate::output::value::Value;
use crate::output::{Column, Row, Shown};
use crate::{by_number, enumerators};
use clap::Parser;

use super::Args;
use super::bpf::types::{self, retrans};
use super::per_flow::count_columns;
use super::why;

/// What a retransmission was for: in JSON, and in a table.
const KINDS: [(&str, &str); 6] = by_number! { types::kind:
    KIND_OTHER => ("other", "other"),
    KIND_SYN => ("syn", "SYN"),
    KIND_SYNACK => ("synack", "SYNACK"),
    KIND_RTO => ("rto", "RTO"),
    KIND_FAST => ("fast", "fast"),
    KIND_TLP => ("tlp", "TLP"),
};
enumerators! { types::kind as u8:
    pub(super) OTHER = KIND_OTHER,
    pub(super) SYN = KIND_SYN,
    pub(super) SYNACK = KIND_SYNACK,
    pub(super) RTO = KIND_RTO,
    pub(super) FAST = KIND_FAST,
    pub(super) TLP = KIND_TLP,
}

const HINTS: [&str; 3] = by_number! { types::synack_hint:
    SYNACK_UNTOLD => "",
    SYNACK_DEFER_ACCEPT => "defer_accept",
    SYNACK_ACCEPT_QUEUE_FULL => "accept_queue_full",
};

#[rustfmt::skip] // one line per column
pub(super) fn columns(args: &Args) -> Vec<Column<retrans>> {
    let seq = if args.sequence { Shown::ALL } else { Shown::JSON };
    let error = if args.failed || args.lossprobe { Shown::ALL } else { Shown::JSON };
    let mut columns = columns! { |row, r: retrans|
        "pid"              TEXT    "PID"         (5, 7)    => pid(row);
        "comm"             TEXT    "COMM"        (15, 16)  => comm(row);
        "family"           REQUEST  "IP"          (2, 2)    => family(row);
        "lport"            NARROW  "LPORT"       (5, 5)    => lport(row);
        ""                 WIDE    "LADDR:LPORT" (20, 47)  => local_end(row);
        ""                 TEXT    "T>"          (2, 2)    => sign(row);
        ""                 TEXT    "RADDR:RPORT" (20, 47)  => remote_end(row);
        "state"            ALL     "STATE"       (11, 11)  => (r.state != 0).then(|| tcp_state(r.state)); // since 5.0
        "seq"              (seq)   "SEQ"         (10, 10)       if KNOWN_SOCKET => r.seq;
        "kind"             JSON                                 if KNOWN_CAUSE  => kind(r).map(|kind| kind.0);
        ""                 TEXT    "KIND"        (6, 6)         if KNOWN_CAUSE  => kind(r).map(|kind| kind.1);
        "segs"             JSON    "SEGS"        (4, 4).right   if KNOWN_SOCKET => r.segs;
        "len_bytes"        JSON    "LEN"         (5, 5).right   if KNOWN_SOCKET => r.len;
        "tcp_flags"        JSON    "FLAGS"       (11, 11)        if KNOWN_SOCKET => Value::TcpFlags(r.tcp_flags);
        "ca_state"         JSON    "CA_STATE"    (8, 8)         if KNOWN_SOCKET => full(r).and_then(|r| ca_state_name(r.ca_state));
        "attempt"          DETAIL  "TRY"         (3, 3).right   if KNOWN_SOCKET => unless(r.attempt, 0);
        "by_timer"         JSON                                 if KNOWN_SOCKET => full(r).map(|r| r.timer != 0);
        "rto_us"           DETAIL  "RTO_MS"      (6, 6).right   if KNOWN_SOCKET => micros(full(r).map(|r| u64::from(r.rto_jiffies) * jiffy_us()));
        "srtt_us"          JSON    "SRTT_MS"     (7, 7).right   if KNOWN_SOCKET => micros(unless(r.srtt_us, 0));
        "snd_cwnd"         JSON    "CWND"        (5, 5).right   if KNOWN_SOCKET => full(r).map(|r| r.snd_cwnd);
        "in_flight_bytes"  JSON    "INFLIGHT"    (8, 8).right   if KNOWN_SOCKET => full(r).map(|r| r.in_flight_bytes);
        "syn_queue"        JSON    "SYNQ"        (5, 5).right   if KNOWN_SOCKET => queue(r, r.syn_queue);
        "accept_queue"     JSON    "ACCQ"        (5, 5).right   if KNOWN_SOCKET => queue(r, r.accept_queue);
        "accept_queue_max" JSON    "ACCQ_MAX"    (8, 8).right   if KNOWN_SOCKET => queue(r, r.accept_queue_max);
        "hint"             DETAIL  "HINT"        (17, 17)        if KNOWN_SOCKET => hint(r);
        "counted"          JSON                             => r.counted != 0;
        "errno"            JSON                             => (r.err < 0).then_some(-r.err);
        "error"            (error) "ERROR"       (5, 12)    => error_name(r.err);
    };
    if args.why {
        columns.extend(why::columns());
    }
    if args.stack {
        columns.extend(columns! { |row, r: retrans|
            ""      TEXT                 => Value::Stack(&r.stack);
            "stack" JSON "STACK" (0, 0)  => Value::Stack(&r.stack);
        });
    }
    columns
}

/// Whether it is a loss probe, and whether it left the host.
fn sign(row: &Row<'_, retrans>) -> &'static str {
    let known = row.head.known & KNOWN_CAUSE != 0;
    match (row.body.kind, row.body.err) {
        (_, 0) if !known => "?>",
        _ if !known => "?!",
        (TLP, 0) => "L>",
        (TLP, _) => "L!",
        (_, 0) => "R>",
        _ => "R!",
    }
}

fn hint(body: &retrans) -> Option<&'static str> {
    let hint = HINTS.get(usize::from(body.hint)).copied();
    hint.filter(|hint| !hint.is_empty())
}

/// The name of a kind of retransmission in JSON.
pub(in crate::commands) fn kind_name(kind: u8) -> Option<&'static str> {
    KINDS.get(usize::from(kind)).map(|(name, _)| *name)
}

pub(super) fn kind(body: &retrans) -> Option<(&'static str, &'static str)> {
    KINDS.get(usize::from(body.kind)).copied()
}

/// The record, if it has a connection's own fields: a listener has none of the connection that it answers.
fn full(body: &retrans) -> Option<&retrans> {
    (body.kind != SYNACK || body.rto_jiffies != 0).then_some(body)
}

fn queue(body: &retrans, length: u32) -> Option<u32> {
    (body.listener != 0).then_some(length)
}

/// What `__tcp_retransmit_skb` returned: a negative errno, or what the queueing discipline says (`NET_XMIT_*`).
fn error_name(err: i32) -> Option<&'static str> {
    match err {
        1.. => Some("NET_XMIT_DROP"),
        _ => errno(err.unsigned_abs()),
    }
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let args = Args::parse_from(["tcpretrans", "--stack", "--failed", "--why"]);
    let mut kinds = vec![
        Kind::row("retransmit", &columns(&args)).known(&[
            PROGRAMS,
            with_btf(KNOWN_SOCKET | KNOWN_CAUSE),
            records(0),
        ]),
        Kind::sums("count", &count_columns(&Per::Flow(true), true)),
    ];
    let counts = Keys::each().map(|keys| count_columns(&Per::Keys(keys), true));
    kinds.extend(counts.map(|columns| Kind::sums_by("count", &columns)));
    kinds.extend(Totals::kinds());
    kinds
}
