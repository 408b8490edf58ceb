// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a change of state.

use crate::abi::known::*;
use crate::abi::names::tcp_state;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::value::Value;

use super::bpf::types::transition;

/// `in_state_ns` when the entry into the old state was not seen.
pub(super) const TIME_UNKNOWN: u64 = u64::MAX;

pub(super) fn in_state_us(body: &transition) -> Option<u64> {
    (body.in_state_ns != TIME_UNKNOWN).then_some(body.in_state_ns / 1000)
}

pub(super) fn columns(skaddr: bool) -> Vec<Column<transition>> {
    let mut columns = if skaddr { kernel_address() } else { Vec::new() };
    columns.extend(columns! { |row, s: transition|
        "cookie"      WIDE "COOKIE"   (8, 8)   => cookie(row);
        "pid"         TEXT "PID"      (7, 7)   => pid(row);
        "comm"        TEXT "COMM"     (10, 16) => comm(row);
        "family"      WIDE "IP"       (2, 2)   => family(row);
        "laddr"       WIDE "LADDR"    (15, 39) => laddr(row);
        "lport"       TEXT "LPORT"    (5, 5)   => lport(row);
        "raddr"       TEXT "RADDR"    (15, 39) => raddr(row);
        "rport"       TEXT "RPORT"    (5, 5)   => rport(row);
        "old_state"   ALL  "OLDSTATE" (11, 11) => tcp_state(s.old_state);
        ""            TEXT "->"       (2, 2)   => "->";
        "new_state"   ALL  "NEWSTATE" (11, 11) => tcp_state(s.new_state);
        "in_state_us" ALL  "MS"       (5, 9)   => micros(in_state_us(s));
    });
    columns
}

fn kernel_address() -> Vec<Column<transition>> {
    columns! { |row, s: transition|
        "skaddr" ALL "SKADDR" (16, 16) => Value::Hex(s.skaddr);
    }
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let changes = Kind::row("state_change", &columns(true));
    let mut kinds = vec![
        changes.known(&[PROGRAMS, with_btf(0), records(0)]),
        super::active::kind(),
        super::ports::kind(),
    ];
    kinds.extend(super::now::kinds());
    kinds
}
