// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--by`: connections added up.

use crate::aggregate::bounded::{Bounded, Sum};
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::value::Value;
use crate::output::{Column, Shown};

use super::sort::Ranked;
use super::traffic::Connection;
use super::why::Why;

/// The sums of a group in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) connections: u64,
    pub(super) closed: u64,
    pub(super) tx: u64,
    pub(super) rx: u64,
    pub(super) retrans: u64,
    /// The longest.
    pub(super) rtt_us: u32,
    /// How many of them are stuck, and why the one that has been for the longest time is.
    pub(super) stuck: u64,
    pub(super) worst: Why,
}

impl Sum for Sums {
    fn occurrences(&self) -> u64 {
        self.connections
    }

    fn rank(&self) -> (u64, u64) {
        (self.tx + self.rx, self.connections)
    }
}

impl Sums {
    fn add(&mut self, one: &Connection) {
        self.connections += 1;
        self.closed += u64::from(one.is_closed());
        self.tx += one.tx;
        self.rx += one.rx;
        self.retrans += u64::from(one.retrans);
        self.rtt_us = self.rtt_us.max(one.conn.rtt_us);
        let why = one.why();
        self.stuck += u64::from(why.is_stuck());
        self.worsen(why);
    }

    /// Adds a group that turned out to be the same.
    fn add_all(&mut self, more: &Self) {
        self.connections += more.connections;
        self.closed += more.closed;
        self.tx += more.tx;
        self.rx += more.rx;
        self.retrans += more.retrans;
        self.rtt_us = self.rtt_us.max(more.rtt_us);
        self.stuck += more.stuck;
        self.worsen(more.worst);
    }

    fn worsen(&mut self, why: Why) {
        let worse = |why: &Why| (why.is_stuck(), why.us);
        if why.is_any() && worse(&why) >= worse(&self.worst) {
            self.worst = why;
        }
    }
}

/// A group, as a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talker {
    pub(super) group: Group,
    pub(super) interval_us: u64,
    pub(super) sums: Sums,
}

impl Ranked for Talker {
    fn tx(&self) -> u64 {
        self.sums.tx
    }

    fn rx(&self) -> u64 {
        self.sums.rx
    }

    fn retrans(&self) -> u64 {
        self.sums.retrans
    }

    fn rtt_us(&self) -> u64 {
        self.sums.rtt_us.into()
    }

    fn why(&self) -> Why {
        self.sums.worst
    }

    type Tie = Group;

    fn tie(&self) -> Group {
        self.group
    }
}

/// Groups that are kept at once: those that moved most.
const MAX_GROUPS: usize = 50_000;

/// The group that a connection is in; what is not known of any is one too.
pub(super) fn group(keys: &Keys, one: &Connection) -> Group {
    keys.group(one.head(), 0)
}

/// Adds up connections.
pub(super) struct Groups {
    keys: Keys,
    sums: Bounded<Group, Sums>,
}

impl Groups {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            sums: Bounded::new(MAX_GROUPS),
        }
    }

    pub(super) fn add(&mut self, one: &Connection) {
        let sums = self.sums.entry(group(&self.keys, one), |_| Sums::default());
        sums.add(one);
    }

    /// Connections in no group, for lack of space.
    pub(super) fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }

    /// Those of an interval of this length; the next one begins.
    pub(super) fn take(&mut self, interval_us: u64) -> impl Iterator<Item = Talker> + use<> {
        let groups = self
            .keys
            .merged(self.sums.drain(), |to, more| to.add_all(&more));
        groups.into_iter().map(move |(group, sums)| Talker {
            group,
            interval_us,
            sums,
        })
    }
}

#[rustfmt::skip] // one line per column
pub(super) fn columns(keys: &Keys) -> Vec<Column<Talker>> {
    let mut all = keys.columns(|_| Vec::new());
    let width: usize = all.iter().filter(|c| c.shown.has(Shown::NARROW)).map(|c| c.width.0 + 1).sum();
    let more = if width > KEYS_WIDTH + 1 { Shown::DETAIL } else { Shown::ALL };
    all.extend(columns! { |row, t: Talker|
        "connections"    ALL  "CONNS"   (6, 6).right  => t.sums.connections;
        "connections_closed" (more) "CLOSED"  (6, 6).right  => t.sums.closed;
        "tx_bytes"       JSON                         => bytes(t.sums.tx);
        "rx_bytes"       JSON                         => bytes(t.sums.rx);
        "tx_bytes_per_s" ALL  "TX_MBIT" (7, 7).right  => per_second(t.sums.tx, t.interval_us);
        "rx_bytes_per_s" ALL  "RX_MBIT" (7, 7).right  => per_second(t.sums.rx, t.interval_us);
        "retrans_segs"   (more) "RETR"    (4, 5).right  => t.sums.retrans;
        "max_srtt_us"    (more) "MAXRTT"  (6, 6).right  => micros(unless(t.sums.rtt_us, 0));
        "stalled"        (more) "STUCK"   (5, 5).right  => t.sums.stuck;
        "why"            ALL  "WHY"     (10, 16)      => t.sums.worst.text();
        "why_us"         DETAIL "WHY_MS" (8, 8).right => t.sums.worst.text().map(|_| t.sums.worst.us).map(Value::Micros);
    });
    all
}

/// Of which the keys may take so many columns of a narrow table that has all sums.
const KEYS_WIDTH: usize = 20;

/// What `--describe-columns` says of its rows, for each way to group.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    Keys::each().map(|keys| Kind::sums_by("total", &columns(&keys)))
}
