// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a segment that was thrown away.

use crate::abi::names::tcp_state;
use crate::by_number;
use crate::cli::explain::short;
use crate::kernel::symbols;
use crate::output::address::Link;
use crate::output::column::*;
use crate::output::units::unless;
use crate::output::value::Value;
use crate::output::{Column, Row};

use super::bpf::types::{self, dropped};
use super::reasons;

/// Which way a segment went: in JSON, and in a table.
const WAYS: [(&str, &str); 3] = by_number! { types::segment_way:
    SEGMENT_RECEIVED => ("received", "<-"),
    SEGMENT_SENT => ("sent", "->"),
    SEGMENT_FORWARDED => ("forwarded", "<="),
};

#[rustfmt::skip] // one line per column
pub(super) fn columns(stack: bool) -> Vec<Column<dropped>> {
    let mut columns = columns! { |row, d: dropped|
        "pid"       TEXT    "PID"         (5, 7)    => pid(row);
        "comm"      TEXT    "COMM"        (8, 16)   => comm(row);
        "family"    REQUEST "IP"          (2, 2)    => family(row);
        "lport"     NARROW  "LPORT"       (5, 5)    => lport(row);
        ""          WIDE    "LADDR:LPORT" (20, 47)  => local_end(row);
        ""          TEXT    "D"           (2, 2)    => way(d).map(|way| way.1);
        "direction" JSON    "DIRECTION"   (9, 9)    => way(d).map(|way| way.0);
        ""          TEXT    "RADDR:RPORT" (20, 47)  => remote_end(row);
        "ifindex"   JSON    "IFINDEX"     (7, 7)    => unless(d.ifindex, 0);
        "ifname"    JSON    "IFNAME"      (8, 15)   => interface(row);
        "state"     JSON    "STATE"       (11, 11)  => (d.state != 0).then(|| tcp_state(d.state));
        "flags"     ALL     "FLAGS"       (7, 7)    => Value::TcpFlags(d.tcp_flags);
        "seq"       JSON    "SEQ"         (10, 10)  => d.seq;
        "len_bytes" DETAIL  "LEN"         (5, 5).right => d.len;
        "segs"      JSON    "SEGS"        (4, 4).right => d.segs;
        ""          TEXT    "REASON"      (15, 24)  => reasons::name(d.reason).map(short);
        "reason"    JSON    "REASON"      (26, 26)  => reasons::name(d.reason);
        "where"     ALL     "WHERE"       (11, 20)  => Place::of(d);
    };
    if stack {
        columns.extend(columns! { |row, d: dropped|
            ""      TEXT                 => Value::Stack(&d.stack);
            "stack" JSON "STACK" (0, 0)  => Value::Stack(&d.stack);
        });
    }
    columns
}

/// Where a segment was thrown away. A kernel that hides its symbols hides its addresses: only `--stack` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Function(&'static str),
    Address(u64),
}

impl Place {
    pub(super) fn of(body: &dropped) -> Self {
        match symbols::caller(body.place) {
            Some(name) => Self::Function(name),
            None => Self::Address(body.place),
        }
    }
}

impl From<Place> for Value<'_> {
    fn from(place: Place) -> Self {
        match place {
            Place::Function(name) => Self::Text(name),
            Place::Address(_) => Self::Unknown,
        }
    }
}

fn way(body: &dropped) -> Option<(&'static str, &'static str)> {
    WAYS.get(usize::from(body.way)).copied()
}

/// By the name that the segment's interface had, or, if it was at none, its name now in this namespace.
fn interface<'a>(row: &Row<'a, dropped>) -> Value<'a> {
    let (head, body) = (row.head, row.body);
    match body.ifname[0] {
        0 => Link::new(head.netns, body.ifindex).map_or(Value::Unknown, Value::Link),
        _ => Value::Name(body.ifname),
    }
}
