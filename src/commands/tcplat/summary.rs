// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: turns by process, port, peer or whatever, with percentiles, and where their time went.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::abi::types::head;
use crate::aggregate::group::Group;
use crate::aggregate::{buckets, keys::Keys, table::Table, top};
use crate::error::Usage;
use crate::output::column::*;
use crate::output::units::*;
use crate::output::value::Value;
use crate::output::{Column, Figures, Format, Row, Rows, Shown, Style};
use crate::session::{Handler, Interval, Printer, Shows};

use super::bpf::types::turn_sum;
use super::parts::{APP, CLIENT, NETWORK, PEER, READ, SERVER, largest, role, role_letter};

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for turn_sum {}

/// Totals at once; the excess is counted and reported. Each takes 2 KiB.
pub(super) const MAX_SUMS: u32 = 10_240;

/// Default number of totals in a table; other formats have all.
const TOP: usize = 20;

/// `HIST_SUB_BITS` of hist.bpf.h.
const SUB_BITS: u32 = 3;

/// The turns of a group in one role, in an interval.
#[derive(Clone, Copy, Default)]
pub(super) struct Turns {
    role: u8,
    sum: turn_sum,
}

impl Turns {
    fn count(&self) -> u64 {
        self.sum.turns.bucket.iter().sum()
    }

    fn max(&self) -> Option<u64> {
        buckets::highest(&self.sum.turns.bucket, SUB_BITS, self.sum.turns.max)
    }

    /// The middle of a bucket may be above the highest value in it.
    fn percentile(&self, percent: u64) -> Option<u64> {
        let found = buckets::percentile(&self.sum.turns.bucket, SUB_BITS, percent)?;
        Some(self.max().map_or(found, |max| found.min(max)))
    }

    fn part(&self, part: u8) -> u64 {
        self.sum.part_us[usize::from(part)]
    }

    fn us(&self) -> u64 {
        self.sum.part_us.iter().sum()
    }

    /// Parts that such turns do not have are unknown: a server does not know of the way of its request.
    fn part_of(&self, role: u8, part: u8) -> Option<u64> {
        (self.role == role).then(|| self.part(part))
    }

    /// What came since `before`. The highest values stay those since the start.
    fn since(&self, before: &turn_sum) -> Self {
        let mut gained = *self;
        let sum = &mut gained.sum;
        let less = |now: &mut u64, before: &u64| *now = now.saturating_sub(*before);
        let buckets = sum.turns.bucket.iter_mut().zip(&before.turns.bucket);
        // The kernel may have added to one while the whole was read.
        buckets.for_each(|(now, before)| less(now, before));
        let parts = sum.part_us.iter_mut().zip(&before.part_us);
        parts.for_each(|(now, before)| less(now, before));
        for (now, before) in [
            (&mut sum.turns.sum, before.turns.sum),
            (&mut sum.srtt_us, before.srtt_us),
            (&mut sum.min_rtt_us, before.min_rtt_us),
            (&mut sum.rtts, before.rtts),
            (&mut sum.rx, before.rx),
            (&mut sum.tx, before.tx),
            (&mut sum.retrans, before.retrans),
            (&mut sum.pipelined, before.pipelined),
            (&mut sum.restarts, before.restarts),
        ] {
            less(now, &before);
        }
        gained
    }

    fn add(&mut self, more: &Self) {
        let (sum, more) = (&mut self.sum, &more.sum);
        let buckets = sum.turns.bucket.iter_mut().zip(&more.turns.bucket);
        buckets.for_each(|(to, n)| *to += n);
        let parts = sum.part_us.iter_mut().zip(&more.part_us);
        parts.for_each(|(to, n)| *to += n);
        sum.turns.sum += more.turns.sum;
        sum.turns.max = sum.turns.max.max(more.turns.max);
        sum.unread_max_us = sum.unread_max_us.max(more.unread_max_us);
        sum.srtt_us += more.srtt_us;
        sum.min_rtt_us += more.min_rtt_us;
        sum.rtts += more.rtts;
        sum.rx += more.rx;
        sum.tx += more.tx;
        sum.retrans += more.retrans;
        sum.pipelined += more.pipelined;
        sum.restarts += more.restarts;
    }
}

/// Of which the keys may take so many columns of a narrow table that has all figures.
const KEYS_WIDTH: usize = 21;

/// The key of this command's own: of each row the server's end, which the other two do not have.
#[rustfmt::skip] // one line per column
fn server_columns() -> Vec<Column<Turns>> {
    fn at(t: &Turns, role: u8, value: Value<'static>) -> Value<'static> {
        if t.role == role { value } else { Value::Unknown }
    }
    columns! { |row, t: Turns|
        "netns" JSON                     => netns(row);
        "netns_name" JSON                => netns_name(row);
        "laddr" JSON                     => at(t, SERVER, Value::Addr(row.head.local()));
        "lport" JSON                     => at(t, SERVER, row.head.flow.lport.into());
        "raddr" JSON                     => at(t, CLIENT, Value::Addr(row.head.remote()));
        "rport" JSON                     => at(t, CLIENT, row.head.flow.rport.into());
        ""      TEXT "SERVER" (20, 47)   => if t.role == SERVER { local_end(row) } else { remote_end(row) };
    }
}

#[rustfmt::skip] // one line per column
pub(super) fn columns(keys: &Keys) -> Vec<Column<Turns>> {
    let mut all = keys.columns(|_| server_columns());
    let width: usize = all.iter().filter(|c| c.shown.has(Shown::NARROW)).map(|c| c.width.0 + 1).sum();
    let crowded = width > KEYS_WIDTH;
    let (name, letter) = if crowded { (Shown::DETAIL, Shown::NARROW) } else { (Shown::ALL, Shown::REQUEST) };
    let rest = if crowded { Shown::DETAIL } else { Shown::ALL };
    all.extend(columns! { |row, t: Turns|
        ""             (letter) "R"       (1, 1)       => role_letter(t.role);
        "role"         (name)   "ROLE"    (6, 6)       => role(t.role);
        "turns"        ALL      "TURNS"   (6, 8).right => t.count();
        "p50_us"       ALL      "P50"     (5, 6).right => micros(t.percentile(50));
        "p90_us"       (rest)   "P90"     (5, 6).right => micros(t.percentile(90));
        "p99_us"       ALL      "P99"     (5, 6).right => micros(t.percentile(99));
        "max_us"       (rest)   "MAX"     (5, 6).right => micros(t.max());
        "unread_max_us" (rest)  "UNREAD"  (6, 6).right => micros(t.sum.unread_max_us);
        "min_rtt_avg_us" (rest) "MINRTT"  (6, 6).right => micros(t.sum.min_rtt_us.checked_div(t.sum.rtts));
        "srtt_avg_us"  DETAIL   "SRTT"    (6, 6).right => micros(t.sum.srtt_us.checked_div(t.sum.rtts));
        "where"        ALL      "WHERE"   (7, 7)       => largest(&t.sum.part_us);
        "app_us"       JSON     "APP_MS"  (7, 7).right => micros(t.part_of(SERVER, APP));
        "read_us"      JSON     "READ_MS" (7, 7).right => micros(t.part(READ));
        "network_us"   JSON     "NETWORK" (7, 7).right => micros(t.part_of(CLIENT, NETWORK));
        "peer_us"      JSON     "PEER_MS" (7, 7).right => micros(t.part_of(CLIENT, PEER));
        "rx_bytes"     DETAIL   "RX_KB"   (6, 7).right => bytes(t.sum.rx);
        "tx_bytes"     DETAIL   "TX_KB"   (6, 7).right => bytes(t.sum.tx);
        "retrans_segs" DETAIL   "RTX"     (5, 6).right => t.sum.retrans;
        "pipelined_turns" JSON  "PIPELINED" (9, 9).right => t.sum.pipelined;
        "restarts"     JSON     "RESTARTS" (8, 8).right => t.sum.restarts;
    });
    all
}

/// Prints them, those with most time first.
pub(super) struct Summary {
    keys: Keys,
    top: usize,
    table: Table,
    rows: Rows<Turns>,
    /// What the table had the last time, if there is a next one.
    shown: HashMap<Group, turn_sum>,
    every: Interval,
}

impl Summary {
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(
        mut style: Style,
        keys: Keys,
        top: Option<u32>,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        let table = style.format == Format::Table;
        style.time &= !table;
        style.time |= interval.is_some() && table;
        Ok(Self {
            top: top::limit(top, if table { TOP } else { usize::MAX }),
            table: Table::own(MAX_SUMS),
            rows: Rows::sums("tcplat", style, columns(&keys))?.by(&keys.name()),
            shown: HashMap::new(),
            every: Interval::new(interval),
            keys,
        })
    }

    pub(super) fn read_from(&mut self, table: Table) {
        self.table = table;
    }

    fn print(&mut self, out: &mut Printer) {
        match self.table.read() {
            Ok(entries) => self.show(entries, out),
            Err(error) => crate::message!("tcplat: cannot show totals: {error:#}"),
        }
    }

    /// An entry, less what was shown of it.
    fn gained(&mut self, key: &[u8], value: &[u8]) -> Option<(Group, Turns)> {
        let group = Group::from_bytes(key)?;
        let mut turns = Turns {
            role: group.kind() as u8,
            ..Turns::default()
        };
        plain::copy_from_bytes(&mut turns.sum, value).ok()?;
        if self.every.length().is_some()
            && let Some(before) = self.shown.insert(group, turns.sum)
        {
            turns = turns.since(&before);
        }
        (turns.count() != 0).then_some((group, turns))
    }

    fn show(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Printer) {
        let boot_ns = self.rows.next_period().boot_ns;
        let gained = entries.iter().filter_map(|(k, v)| self.gained(k, v));
        let gained: Vec<_> = gained.collect();
        let mut totals = self.keys.merged(gained, |to, more| to.add(&more));
        totals.sort_by_key(|(group, turns)| (Reverse(turns.us()), *group));
        let head = |(group, turns): (Group, Turns)| (group.head(boot_ns), turns);
        let mut totals: Vec<(head, Turns)> = totals.into_iter().map(head).collect();
        self.rows
            .sort(&mut totals, |(head, body)| Row { head, body });
        top::report("tcplat", ("total", "totals"), totals.len(), self.top);
        for (head, body) in totals.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "total", &Row { head, body }));
        }
    }
}

impl Handler for Summary {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn shows(&self) -> Shows {
        self.every.length().into()
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// Turns of a server and of a client, for the golden files.
#[cfg(any(test, fuzzing))]
pub(super) fn examples() -> [Turns; 2] {
    [SERVER, CLIENT].map(|role| {
        let mut turns = Turns {
            role,
            ..Turns::default()
        };
        turns.sum.turns.bucket[100] = 99;
        turns.sum.turns.bucket[130] = 1;
        turns.sum.turns.max = 300_000;
        turns.sum.part_us = if role == CLIENT {
            [0, 1, 900, 30]
        } else {
            [9, 800, 0, 0]
        };
        turns.sum.srtt_us = 7000;
        turns.sum.min_rtt_us = 2500;
        turns.sum.rtts = 100;
        turns.sum.rx = 4096;
        turns
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_tables_fit_80_columns() {
        for keys in Keys::each() {
            let narrow = columns(&keys);
            let narrow = narrow.iter().filter(|c| c.shown.has(Shown::NARROW));
            let width: usize = narrow.map(|c| c.room(false) + 1).sum();
            assert!(width - 1 <= 80, "{}: {width}", keys.name());
        }
    }

    #[test]
    fn interval_has_what_came_since() {
        let [before, _] = examples();
        let mut now = before;
        now.add(&before);
        assert_eq!((now.count(), now.since(&before.sum).count()), (200, 100));
        assert_eq!(now.since(&before.sum).us(), before.us());
        assert_eq!(now.since(&now.sum).count(), 0);
    }

    #[test]
    fn parts_of_the_other_role_are_unknown() {
        let [server, client] = examples();
        assert_eq!(server.part_of(CLIENT, NETWORK), None);
        assert_eq!(client.part_of(CLIENT, NETWORK), Some(900));
        assert_eq!(largest(&server.sum.part_us), Some("read"));
    }
}
