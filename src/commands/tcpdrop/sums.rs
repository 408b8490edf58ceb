// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: what drops are counted by.

use std::collections::HashMap;

use crate::abi::known::PROGRAMS;
use crate::abi::types::Record;
use crate::aggregate::bounded::Bounded;
use crate::aggregate::by::Key;
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;
use crate::error::Usage;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::{Column, Figures, Format, Row, Rows, Style};
use crate::session::{Interval, Printer};

use super::bpf::types::dropped;
use super::columns::{self, Place};
use super::{Args, reasons};

/// What only drops are counted by.
pub(super) const OWN: &[&str] = &["reason", "where"];

/// The usual: what, and where.
pub(super) fn usual() -> Keys {
    Keys::new(OWN.iter().map(|name| Key::Own(name)).collect())
}

/// What is counted by besides the keys of every command.
type Cause = (Option<i32>, Option<Place>);

/// Causes by their numbers, from 0 on. There are as many as the kernel has places that throw something away.
#[derive(Default)]
struct Causes {
    numbers: HashMap<Cause, u32>,
    all: Vec<Cause>,
}

impl Causes {
    fn number(&mut self, keys: &Keys, body: &dropped) -> u32 {
        let reason = keys.has("reason").then_some(body.reason);
        let place = keys.has("where").then(|| Place::of(body));
        let cause = (reason, place);
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(cause).or_insert_with(|| {
            self.all.push(cause);
            next
        })
    }

    fn get(&self, number: u32) -> Cause {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.all.get(index).copied().unwrap_or_default()
    }
}

/// How many drops have a thing in common.
pub(super) struct Sum {
    cause: Cause,
    count: u64,
}

/// The columns of what is counted together, and how many there were.
#[rustfmt::skip] // one line per column
pub(super) fn sum_columns(keys: &Keys) -> Vec<Column<Sum>> {
    let mut columns = keys.columns(|own| match own {
        "reason" => columns! { |row, t: Sum| "reason" ALL "REASON" (26, 26) => t.cause.0.and_then(reasons::name); },
        _ => columns! { |row, t: Sum| "where" ALL "WHERE" (26, 32) => t.cause.1; },
    });
    columns.extend(columns! { |row, t: Sum| "count" ALL "DROPS" (10, 10).right => t.count; });
    columns
}

/// Maximum number of counts kept, those with most drops: a flood may have very many source addresses.
const MAX_SUMS: usize = 50_000;

/// Counts drops.
pub(super) struct Sums {
    keys: Keys,
    causes: Causes,
    sums: Bounded<Group, u64>,
    rows: Rows<Sum>,
    pub(super) every: Interval,
}

impl Sums {
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(args: &Args, mut style: Style) -> Result<Self, Usage> {
        let interval = args.summary.flatten();
        style.time |= interval.is_some() && style.format == Format::Table;
        style.sort.clone_from(&args.sort);
        let keys = args.by.clone().unwrap_or_else(usual);
        let rows = Rows::sums("tcpdrop", style, sum_columns(&keys))?;
        Ok(Self {
            causes: Causes::default(),
            sums: Bounded::new(MAX_SUMS),
            rows: rows.by(&keys.name()),
            every: Interval::new(interval),
            keys,
        })
    }

    pub(super) fn add(&mut self, body: &dropped) {
        let cause = self.causes.number(&self.keys, body);
        let group = self.keys.group(body.head(), cause);
        *self.sums.entry(group, |_| 0) += 1;
    }

    pub(super) fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }

    pub(super) fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    pub(super) fn print(&mut self, out: &mut Printer) {
        let boot_ns = self.rows.next_period().boot_ns;
        let sums = self.sums.drain();
        let mut sums = self.keys.merged(sums, |to, more| *to += more);
        sums.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        let row = |(group, count): (Group, u64)| {
            let cause = self.causes.get(group.kind());
            (group.head(boot_ns), Sum { cause, count })
        };
        let mut sums: Vec<_> = sums.into_iter().map(row).collect();
        self.rows.sort(&mut sums, |(head, body)| Row { head, body });
        for (head, body) in &sums {
            out.row(|buf| self.rows.row(buf, "count", &Row { head, body }));
        }
    }

    pub(super) fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    let own = OWN.iter().map(|name| Keys::new(vec![Key::Own(name)]));
    let all = std::iter::once(usual()).chain(own).chain(Keys::each());
    let counts = all.map(|keys| Kind::sums_by("count", &sum_columns(&keys)));
    let row = Kind::row("drop", &columns::columns(true)).known(&[PROGRAMS]);
    std::iter::once(row).chain(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart_by_what_is_counted_by() {
        let body = |reason, place| dropped {
            reason,
            place,
            ..dropped::default()
        };
        let numbers = |keys: &Keys| {
            let mut causes = Causes::default();
            let all = [body(2, 16), body(2, 32), body(3, 32), body(2, 16)];
            all.map(|body| causes.number(keys, &body))
        };
        assert_eq!(numbers(&usual()), [0, 1, 2, 0]);
        assert_eq!(numbers(&Keys::new(vec![Key::Own("reason")])), [0, 0, 1, 0]);
        assert_eq!(numbers(&Keys::new(vec![Key::Own("where")])), [0, 1, 1, 0]);
        assert_eq!(numbers(&Keys::new(Vec::new())), [0; 4]);
    }
}
