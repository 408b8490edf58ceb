// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is in a state now, and the columns of `--summary`.

use std::collections::HashMap;

use crate::abi::names::tcp_state;
use crate::abi::types::{Record, head, trim_nul};
use crate::aggregate::bounded::Sum;
use crate::aggregate::keys::Keys;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::{Column, Shown, Value};

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
        self.age(socket);
    }

    /// By when they entered it: each was visited at a time of its own.
    fn age(&mut self, socket: &active) {
        let since = |s: &active| s.head.boot_ns.saturating_sub(s.in_state_ns);
        let older = |than: &active| since(socket) < since(than);
        if self.oldest.as_ref().is_none_or(older) {
            self.oldest = Some(*socket);
        }
    }

    /// Adds those of another group.
    pub(super) fn add_all(&mut self, more: Self) {
        self.sockets += more.sockets;
        for (owner, n) in more.owners {
            *self.owners.entry(owner).or_default() += n;
        }
        if let Some(oldest) = &more.oldest {
            self.age(oldest);
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

impl Sum for Now {
    fn occurrences(&self) -> u64 {
        self.sockets
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
    pub(super) fn new(state: u8, times: Times, now: Now) -> Self {
        Self {
            state,
            times,
            most: now.most(),
            oldest_owner: now.oldest.as_ref().and_then(|o| owner(o.head())),
            now,
        }
    }

    /// How many have left it.
    pub(super) fn left(&self) -> u64 {
        self.times.timed() + self.times.unknown
    }

    fn oldest<T>(&self, of: impl FnOnce(&active) -> T) -> Option<T> {
        self.now.oldest.as_ref().map(of)
    }
}

/// Nanoseconds.
fn nanos(ns: Option<u64>) -> Value<'static> {
    micros(ns.map(|ns| ns / 1000))
}

/// How much of a narrow table keys may take beside the times and the oldest socket, and beside the latter alone.
const KEYS_WIDTHS: [usize; 2] = [26, 47];

/// `keys`: what the sockets of a state are told apart by.
#[rustfmt::skip] // one line per column
pub(super) fn columns(keys: Option<&Keys>) -> Vec<Column<State>> {
    let mut all = keys.map_or_else(Vec::new, |keys| keys.columns(|_| Vec::new()));
    let width: usize = all.iter().filter(|c| c.shown.has(Shown::NARROW)).map(|c| c.room(false) + 1).sum();
    let fits = |room: usize| if width > room + 1 { Shown::DETAIL } else { Shown::ALL };
    let [times, oldest] = KEYS_WIDTHS.map(fits);
    // What sockets of a group have in common are its keys.
    let (owners, oldest_too) = match keys {
        Some(_) => (Shown::JSON, Shown::JSON),
        None => (Shown::ALL, Shown::DETAIL),
    };
    all.extend(columns! { |row, s: State|
        "state"         ALL    "STATE"    (11, 11)         => tcp_state(s.state);
        "left"          ALL    "LEFT"     (6, 8).right     => s.left();
        "timed"         JSON   "TIMED"    (6, 8).right     => s.times.timed();
        "p50_us"        (times) "P50_MS"  (6, 8).right     => nanos(s.times.percentile(50));
        "p99_us"        (times) "P99_MS"  (6, 8).right     => nanos(s.times.percentile(99));
        "max_us"        (times) "MAX_MS"  (6, 8).right     => nanos(s.times.longest());
        "now"           ALL    "NOW"      (5, 7).right     => s.now.sockets;
        "most_sockets"  (oldest_too) "TOP"      (5, 7).right     => s.most.map(|(_, n)| n);
        "most_pid"      (owners) "TOP_PID" (7, 7)          => s.most.and_then(|(owner, _)| pid(&owner));
        "most_comm"     (owners) "TOP_COMM" (10, 16)       => s.most.as_ref().map(|(owner, _)| comm(owner));
        "oldest_us"     (oldest) "OLD_MS" (7, 10).right    => s.oldest(|o| micros_since(o.in_state_ns / 1000, o.at_least != 0));
        "oldest_at_least" JSON                             => s.oldest(|o| o.at_least != 0);
        "oldest_pid"    (owners) "OLD_PID" (7, 7)          => pid(&s.oldest_owner);
        "oldest_comm"   (oldest_too) "OLD_COMM" (16, 16)         => comm(&s.oldest_owner);
        "oldest_laddr"  JSON   "LADDR"    (15, 39)        => s.oldest(|o| o.head().local());
        "oldest_lport"  (oldest_too) "LPORT" (5, 5)        => s.oldest(|o| o.head.flow.lport);
        "oldest_raddr"  (oldest_too) "RADDR" (15, 39)      => s.oldest(|o| o.head().remote());
        "oldest_rport"  (oldest_too) "RPORT" (5, 5)        => s.oldest(|o| o.head.flow.rport);
        "oldest_netns"  (oldest_too) "NETNS" (10, 10)      => s.oldest(|o| o.head.netns);
        "oldest_cookie" (oldest_too) "COOKIE" (8, 8)       => s.oldest(|o| o.head.cookie);
    });
    all
}

/// What `--describe-columns` says of its rows, for each way to group.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    let grouped = Keys::each().map(|keys| Kind::sums_by("state", &columns(Some(&keys))));
    [Kind::sums("state", &columns(None))]
        .into_iter()
        .chain(grouped)
}
