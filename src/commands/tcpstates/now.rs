// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is in a state now, and the columns of `--summary`.

use std::collections::HashMap;

use crate::abi::names::tcp_state;
use crate::abi::types::{Record, head, trim_nul};
use crate::output::Column;
use crate::output::Value;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::units::*;

use super::bpf::types::active;
use super::times::Times;

/// An owner, as far as it is known.
type Owner = Option<(u32, [u8; 16])>;

pub(super) fn owner(head: &head) -> Owner {
    head.pid().map(|pid| (pid, head.owner.comm))
}

fn comm(owner: &Owner) -> Option<Value<'_>> {
    let (_, comm) = owner.as_ref()?;
    Some(Value::Comm(trim_nul(comm)))
}

fn pid(owner: &Owner) -> Option<u32> {
    owner.map(|(pid, _)| pid)
}

/// The sockets that are in one state.
#[derive(Default)]
pub(super) struct Now {
    pub(super) sockets: u64,
    owners: HashMap<Owner, u64>,
    pub(super) oldest: Option<active>,
}

impl Now {
    pub(super) fn add(&mut self, socket: &active) {
        self.sockets += 1;
        *self.owners.entry(owner(socket.head())).or_default() += 1;
        // By when they entered it: each was visited at a time of its own.
        let since = |s: &active| s.head.boot_ns.saturating_sub(s.in_state_ns);
        let older = |than: &active| since(socket) < since(than);
        if self.oldest.as_ref().is_none_or(older) {
            self.oldest = Some(*socket);
        }
    }

    /// The owner of most of them; of two with as many, the one with the lower process id.
    pub(super) fn most(&self) -> Option<(Owner, u64)> {
        let most = self
            .owners
            .iter()
            .max_by_key(|(owner, n)| (**n, std::cmp::Reverse(**owner)));
        most.map(|(owner, n)| (*owner, *n))
    }
}

/// One row.
pub(super) struct State {
    pub(super) state: u8,
    pub(super) times: Times,
    pub(super) now: Now,
    pub(super) most: Option<(Owner, u64)>,
    pub(super) oldest_owner: Owner,
}

impl State {
    fn oldest<T>(&self, of: impl FnOnce(&active) -> T) -> Option<T> {
        self.now.oldest.as_ref().map(of)
    }
}

/// Nanoseconds.
fn nanos(ns: Option<u64>) -> Value<'static> {
    micros(ns.map(|ns| ns / 1000))
}

pub(super) fn columns() -> Vec<Column<State>> {
    columns! { |row, s: State|
        "state"         ALL    "STATE"    (11, 11)         => tcp_state(s.state);
        "left"          ALL    "LEFT"     (6, 8).right     => s.times.timed() + s.times.unknown;
        "timed"         JSON   "TIMED"    (6, 8).right     => s.times.timed();
        "p50_us"        ALL    "P50_MS"   (6, 8).right     => nanos(s.times.percentile(50));
        "p99_us"        ALL    "P99_MS"   (6, 8).right     => nanos(s.times.percentile(99));
        "max_us"        ALL    "MAX_MS"   (6, 8).right     => nanos(s.times.longest());
        "now"           ALL    "NOW"      (5, 7).right     => s.now.sockets;
        "most_sockets"  DETAIL "TOP"      (5, 7).right     => s.most.map(|(_, n)| n);
        "most_pid"      ALL    "TOP_PID"  (7, 7)           => s.most.and_then(|(owner, _)| pid(&owner));
        "most_comm"     ALL    "TOP_COMM" (10, 16)         => s.most.as_ref().map(|(owner, _)| comm(owner));
        "oldest_us"     ALL    "OLD_MS"   (7, 10).right    => s.oldest(|o| micros_since(o.in_state_ns / 1000, o.at_least != 0));
        "oldest_at_least" JSON                             => s.oldest(|o| o.at_least != 0);
        "oldest_pid"    ALL    "OLD_PID"  (7, 7)           => pid(&s.oldest_owner);
        "oldest_comm"   DETAIL "OLD_COMM" (16, 16)         => comm(&s.oldest_owner);
        "oldest_laddr"  JSON   "LADDR"    (15, 39)         => s.oldest(|o| o.head().local());
        "oldest_lport"  DETAIL "LPORT"    (5, 5)           => s.oldest(|o| o.head.flow.lport);
        "oldest_raddr"  DETAIL "RADDR"    (15, 39)         => s.oldest(|o| o.head().remote());
        "oldest_rport"  DETAIL "RPORT"    (5, 5)           => s.oldest(|o| o.head.flow.rport);
        "oldest_netns"  DETAIL "NETNS"    (10, 10)         => s.oldest(|o| o.head.netns);
        "oldest_cookie" DETAIL "COOKIE"   (8, 8)           => s.oldest(|o| o.head.cookie);
    }
}

/// What `--describe-columns` says of its rows.
pub fn kind() -> Kind {
    Kind::sums("state", &columns())
}
