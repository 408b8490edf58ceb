// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of an active open, and of their counts.

use crate::abi::known::*;
use crate::abi::names::errno;
use crate::abi::types::Record;
use crate::aggregate::counts::{Counted, Per};
use crate::aggregate::hist_keys;
use crate::aggregate::keys::Keys;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::{micros_since, unless};
use crate::output::value::Value;
use crate::output::{Column, Shown};
use crate::{by_number, enumerators};
use clap::Parser;

use super::Args;
use super::bpf::types::{self, connect};

const OUTCOMES: [&str; 8] = by_number! { types::outcome:
    OUTCOME_ESTABLISHED => "established",
    OUTCOME_REFUSED => "refused",
    OUTCOME_RESET => "reset",
    OUTCOME_TIMEOUT => "timeout",
    OUTCOME_UNREACHABLE => "unreachable",
    OUTCOME_ABORTED => "aborted",
    OUTCOME_PENDING => "pending",
    OUTCOME_NO_PORT => "no_port",
};
enumerators! { types::outcome as u8:
    pub(super) ESTABLISHED = OUTCOME_ESTABLISHED,
    pub(super) PENDING = OUTCOME_PENDING,
}

/// A record, and the name of its remote address.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub(super) connect: connect,
    name: [u8; 256],
    name_len: usize,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Named {}

// SAFETY: as above, and it begins with a record, which begins with a head.
unsafe impl Record for Named {}

impl Named {
    pub(super) fn new(connect: connect) -> Self {
        Self {
            connect,
            name: [0; 256],
            name_len: 0,
        }
    }

    pub(super) fn set_name(&mut self, name: &str) {
        self.name_len = name.len().min(self.name.len());
        self.name[..self.name_len].copy_from_slice(&name.as_bytes()[..self.name_len]);
    }

    fn name(&self) -> Option<&str> {
        let name = std::str::from_utf8(&self.name[..self.name_len]).ok();
        name.filter(|name| !name.is_empty())
    }
}

pub(in crate::commands) fn outcome(number: u32) -> &'static str {
    OUTCOMES.get(number as usize).unwrap_or(&"unknown")
}

fn latency(body: &connect) -> Value<'static> {
    let known = unless(body.latency_ns, u64::MAX);
    let at_least = body.partial != 0 || body.outcome == PENDING;
    micros_since(known.map(|ns| ns / 1000), at_least)
}

#[rustfmt::skip] // one line per column
pub(super) fn columns(args: &Args) -> Vec<Column<Named>> {
    let on_request = |wanted| if wanted { Shown::TEXT } else { Shown::WIDE };
    let mut columns = columns! { |row, named: Named|
        "uid"         (on_request(args.print_uid))   "UID"      (5, 5)           if KNOWN_UID => uid(row);
        "pid"         TEXT                           "PID"      (7, 7)           => pid(row);
        "comm"        TEXT                           "COMM"     (10, 16)         => comm(row);
        "family"      TEXT                           "IP"       (2, 2)           => family(row);
        "laddr"       TEXT                           "SADDR"    (15, 39)         => laddr(row);
        "lport"       (on_request(args.print_lport)) "LPORT"    (5, 5)           => unless(row.head.flow.lport, 0);
        "raddr"       TEXT                           "DADDR"    (15, 39)         => raddr(row);
        "rport"       TEXT                           "DPORT"    (5, 5)           => rport(row);
        "outcome"     ALL    "OUTCOME"  (11, 11)      if KNOWN_CAUSE    => outcome(named.connect.outcome.into());
        "latency_us"  ALL    "MS"       (6, 7).right                    => latency(&named.connect);
        "errno"       JSON                            if KNOWN_CAUSE    => unless(named.connect.errno_, 0);
        "error"       DETAIL "ERROR"    (13, 13)      if KNOWN_CAUSE    => errno(named.connect.errno_);
        "syn_retrans" DETAIL "RETRANS"  (7, 7).right                    => named.connect.syn_retrans;
        "syn_sent"    JSON                            if KNOWN_SYN_SENT => named.connect.syn_sent != 0;
        "partial"     JSON                                              => named.connect.partial != 0;
    };
    if args.dns {
        columns.extend(columns! { |row, named: Named| "raddr_name" ALL "NAME" (0, 0) => named.name(); });
    }
    columns
}

pub(super) fn count_columns(per: &Per) -> Vec<Column<Counted>> {
    let mut columns = per.columns("CONNECTS");
    let at = columns.len() - 1;
    let outcome = columns! { |row, count: Counted|
        "outcome" ALL "OUTCOME" (11, 11) => OUTCOMES.get(usize::from(row.head.event)).copied();
    };
    columns.splice(at..at, outcome);
    columns
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let args = Args::parse_from(["tcpconnect", "--dns"]);
    let modes = [PROGRAMS, with_btf(KNOWN_CAUSE | KNOWN_SYN_SENT), records(0)];
    let mut kinds = vec![
        Kind::row("connect", &columns(&args)).known(&modes),
        Kind::row("pending", &columns(&args)),
        Kind::sums("count", &count_columns(&Per::Flow(true))),
    ];
    kinds.extend(hist_keys::kinds(&[]));
    kinds.extend(Keys::each().map(|keys| Kind::sums_by("count", &count_columns(&Per::Keys(keys)))));
    kinds
}
