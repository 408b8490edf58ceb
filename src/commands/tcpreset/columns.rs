// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a reset.

use crate::abi::known::*;
use crate::abi::names::tcp_state;
use crate::cli::explain::short;
use crate::output::Column;
use crate::output::column::*;
use crate::output::units::{bytes, jiffies, micros_since, unless};
use crate::output::value::Value;

use super::bpf::types::{event_kind, reset};
use super::reasons;

crate::enumerators! { event_kind as u16:
    pub(super) SENT = RESET_SENT,
    pub(super) RECEIVED = RESET_RECEIVED,
}

pub(super) fn is_sent(body: &reset) -> bool {
    body.head.event != RECEIVED
}

#[rustfmt::skip] // one line per column
pub(super) fn columns(stack: bool) -> Vec<Column<reset>> {
    let mut columns = columns! { |row, r: reset|
        "pid"              TEXT   "PID"         (5, 7)    => pid(row);
        "comm"             TEXT   "COMM"        (10, 16)  => comm(row);
        "family"           REQUEST "IP"          (2, 2)    => family(row);
        "lport"            NARROW "LPORT"       (5, 5)    => lport(row);
        ""                 WIDE   "LADDR:LPORT" (20, 47)  => local_end(row);
        ""                 TEXT   "D"           (2, 2)    => if is_sent(r) { "->" } else { "<-" };
        "direction"        JSON   "DIRECTION"   (0, 0)    => direction(r);
        ""                 TEXT   "RADDR:RPORT" (20, 47)  => remote_end(row);
        "state"            ALL    "STATE"       (11, 11)  => (r.state != 0).then(|| tcp_state(r.state));
        ""                 TEXT   "REASON"      (20, 20)  => reason(r).map(short);
        "reason"           JSON   "REASON"      (24, 24)   => reason(r);
        "hint"             DETAIL "HINT"        (19, 19)   => reasons::hint_name(r.hint);
        "trigger_flags"    JSON   "TRIGGER"     (9, 9)         if KNOWN_PACKET => unless(r.trigger, 0).map(|flags| Value::TcpFlags(flags.into()));
        "age_us"           JSON   "AGE_MS"      (9, 9).right                   => micros_since(session(r).map(|r| r.age_ns / 1000), r.partial != 0);
        "idle_us"          DETAIL "IDLE"        (7, 7).right   if KNOWN_IDLE   => session(r).map(|r| jiffies(r.idle_jiffies));
        "partial"          JSON                                                => session(r).map(|r| r.partial != 0);
        "tx_bytes"         JSON   "TX_KB"       (6, 6).right   if KNOWN_SOCKET => bytes(session(r).map(|r| r.tx_bytes));
        "rx_bytes"         JSON   "RX_KB"       (6, 6).right   if KNOWN_SOCKET => bytes(session(r).map(|r| r.rx_bytes));
        "accept_queue"     JSON                                if KNOWN_SOCKET => queue(r, r.accept_queue);
        "accept_queue_max" JSON                                if KNOWN_SOCKET => queue(r, r.accept_queue_max);
        "close_boot_ns"    JSON                                                => unless(r.close_ns, 0);
        "after_shutdown"   JSON                                                => r.retracts != 0;
    };
    if stack {
        columns.extend(columns! { |row, r: reset|
            ""      TEXT                 => Value::Stack(&r.stack);
            "stack" JSON "STACK" (0, 0)  => Value::Stack(&r.stack);
        });
    }
    columns
}

fn direction(body: &reset) -> &'static str {
    direction_name(is_sent(body))
}

pub(super) fn direction_name(sent: bool) -> &'static str {
    if sent { "sent" } else { "received" }
}

fn reason(body: &reset) -> Option<&'static str> {
    reasons::name(body.reason)
}

/// The record, if it is of a session.
fn session(body: &reset) -> Option<&reset> {
    (body.session != 0).then_some(body)
}

fn queue(body: &reset, length: u32) -> Option<u32> {
    (body.listener != 0).then_some(length)
}
