// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a refused packet or allocation.

use std::sync::LazyLock;

use crate::abi::known::*;
use crate::by_number;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::{self, overflow};
use super::cause::Cause;

/// The row's `event` in JSON.
pub(super) const EVENTS: [&str; 3] = by_number! { types::event_kind:
    RCVQUEUE_FULL => "rcvqueue_full",
    EXCEED_BUF_LIMIT => "exceed_buf_limit",
    UDP_FAIL_QUEUE => "udp_fail_queue_rcv",
};

/// What each tracepoint's record has, by [`EVENTS`]. A limit names its protocol, which may be one that we do not know; then
/// it has no `KNOWN_PROTOCOL`, and the numbers may not tell the cause.
pub(super) const RECORDS: [u16; 3] = [
    KNOWN_CAUSE | KNOWN_RMEM | KNOWN_RCVBUF,
    KNOWN_RMEM | KNOWN_WMEM,
    KNOWN_CAUSE,
];

/// AF_* of include/linux/socket.h by number, those that can come here.
const FAMILIES: [(u16, &str); 19] = [
    (2, "inet"),
    (3, "ax25"),
    (6, "netrom"),
    (9, "x25"),
    (10, "inet6"),
    (11, "rose"),
    (15, "key"),
    (17, "packet"),
    (21, "rds"),
    (26, "llc"),
    (29, "can"),
    (30, "tipc"),
    (31, "bluetooth"),
    (35, "phonet"),
    (36, "ieee802154"),
    (38, "alg"),
    (40, "vsock"),
    (42, "qipcrtr"),
    (43, "smc"),
];

/// SOCK_STREAM
const STREAM: u16 = 1;

/// SOCK_* of include/linux/net.h by number.
const TYPES: [&str; 11] = [
    "",
    "stream",
    "dgram",
    "raw",
    "rdm",
    "seqpacket",
    "dccp",
    "",
    "",
    "",
    "packet",
];

pub(super) fn columns() -> Vec<Column<overflow>> {
    columns! { |row, s: overflow|
        "pid"                 TEXT   "PID"    (5, 7)    => pid(row);
        "comm"                TEXT   "COMM"   (6, 16)   => comm(row);
        "proto"               ALL    "PROTO"  (6, 8)    => kernel_name(&s.proto_name);
        "laddr"               TEXT   "LADDR"  (15, 39)  => laddr(row);
        "lport"               TEXT   "LPORT"  (5, 5)    => lport(row);
        "raddr"               TEXT   "RADDR"  (15, 39)  => raddr(row);
        "rport"               TEXT   "RPORT"  (5, 5)    => rport(row);
        "socket_family"       JSON   "FAMILY" (9, 9)    => FAMILIES.iter().find(|(n, _)| *n == s.family).map(|(_, name)| *name);
        "type"                JSON   "TYPE"   (6, 6)    => TYPES.get(usize::from(s.sock_type)).and_then(|name| unless(*name, ""));
        "protocol"            JSON                        if KNOWN_PROTOCOL => s.protocol;

        "cause"               ALL    "WHY"    (8, 8)        if KNOWN_CAUSE  => Cause::of(s).map(Cause::name);
        "direction"           JSON   "DIR"    (4, 4)                        => if s.sending == 0 { "recv" } else { "send" };
        "used_bytes"          ALL    "USED"   (6, 7).right                  => bytes(used(s));
        "limit_bytes"         DETAIL "LIMIT"  (6, 7).right  if KNOWN_CAUSE  => bytes(limit(s));
        "drops"               DETAIL "DROPS"  (7, 7).right  if KNOWN_SOCKET => s.drops;
        "tune"                DETAIL "TUNE"   (22, 22)      if KNOWN_CAUSE  => tune(s);

        "rmem_alloc_bytes"    JSON.right  if KNOWN_RMEM    => bytes(s.rmem_alloc);
        "rcvbuf_bytes"        JSON.right  if KNOWN_RCVBUF  => bytes(s.rcvbuf);
        "rcvbuf_locked"       JSON.right  if KNOWN_SOCKET  => s.rcvbuf_locked != 0;
        "wmem_queued_bytes"   JSON.right  if KNOWN_WMEM    => bytes(s.wmem_queued);
        "wmem_alloc_bytes"    JSON.right  if KNOWN_WMEM    => bytes(s.wmem_alloc);
        "sndbuf_bytes"        JSON.right  if KNOWN_SOCKET  => bytes(s.sndbuf);
        "truesize_bytes"      JSON.right                   => bytes(unless(s.truesize, 0));
        "minimum_bytes"       JSON.right                   => bytes(of_limit(s, s.minimum.into()));
        "mem_allocated_pages" JSON.right                   => of_limit(s, allocated_pages(s));
        "mem_low_pages"       JSON.right                   => of_limit(s, s.mem[0]);
        "mem_pressure_pages"  JSON.right                   => of_limit(s, s.mem[1]);
        "mem_max_pages"       JSON.right                   => of_limit(s, s.mem[2]);
    }
}

fn has(body: &overflow, known: u16) -> bool {
    body.head.known & known != 0
}

/// What only a memory limit has.
fn of_limit(body: &overflow, value: i64) -> Option<u64> {
    (Cause::of(body) != Some(Cause::RcvBuf)).then_some(value.max(0) as u64)
}

/// What is held against the limit that `cause` names: the memory of all sockets, or this one's.
fn used(body: &overflow) -> Option<u64> {
    Some(match Cause::of(body) {
        Some(Cause::MemMax) => page_bytes(allocated_pages(body)),
        _ if body.sending == 0 && !has(body, KNOWN_RMEM) => return None,
        _ if body.sending == 0 => body.rmem_alloc.into(),
        // A stream counts what waits to be acknowledged, the others what is on its way.
        _ if body.sock_type == STREAM => body.wmem_queued.into(),
        // Not in the record of a protocol that we do not know.
        _ if body.sock_type == 0 => return None,
        _ => body.wmem_alloc.into(),
    })
}

/// The limit that `cause` names; the cgroup's is not the socket's to know.
pub(super) fn limit(body: &overflow) -> Option<u64> {
    match Cause::of(body)? {
        Cause::RcvBuf if !has(body, KNOWN_RCVBUF) => None,
        Cause::RcvBuf => Some(body.rcvbuf.into()),
        Cause::MemMax => Some(page_bytes(body.mem[2])),
        Cause::Pressure => Some(body.minimum.into()),
        Cause::MemCg => None,
    }
}

/// Of all sockets of the protocol.
fn allocated_pages(body: &overflow) -> i64 {
    body.allocated.checked_shr(body.shift.into()).unwrap_or(0)
}

fn page_bytes(pages: i64) -> u64 {
    (pages.max(0) as u64).saturating_mul(*PAGE)
}

pub(super) static PAGE: LazyLock<u64> = LazyLock::new(|| {
    // SAFETY: asks for a constant of the running system.
    let size = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
});

/// What would have let it pass: a sysctl, a socket option, or the cgroup's limit.
pub(super) fn tune(body: &overflow) -> Option<&'static str> {
    Some(match (Cause::of(body)?, body.protocol) {
        // Whether SO_RCVBUF was set is the socket's to know.
        (Cause::RcvBuf, _) if !has(body, KNOWN_SOCKET) => return None,
        // SO_RCVBUF was set, and net.core.rmem_max bounds what it may be.
        (Cause::RcvBuf, _) if body.rcvbuf_locked != 0 => "SO_RCVBUF (net.core.rmem_max)",
        (Cause::RcvBuf, _) => "net.core.rmem_default",
        (Cause::MemCg, _) => "memory cgroup limit",
        _ if body.sock_type == 3 => "memory limit of the protocol",
        (_, 6 | 262) => "net.ipv4.tcp_mem",
        (_, 17 | 136) => "net.ipv4.udp_mem",
        (_, 132) => "net.sctp.sctp_mem",
        _ => "memory limit of the protocol",
    })
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let kind = |(event, known)| Kind::row(event, &columns()).known(&[PROGRAMS, records(known)]);
    let rows = EVENTS.into_iter().zip(RECORDS).map(kind);
    rows.chain(super::summary::kinds()).collect()
}
