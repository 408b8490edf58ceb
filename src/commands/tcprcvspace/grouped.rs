// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary --by`: window-limited sockets, added up by whatever the user groups by.

use std::cmp::Reverse;

use crate::abi::types::Record;
use crate::aggregate::bounded::{Bounded, Sum};
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;
use crate::error::Usage;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::units::bytes;
use crate::output::value::Value;
use crate::output::{Column, Figures, Row, Rows, Style};
use crate::session::Printer;

use super::bpf::types::{self, adjust};

crate::enumerators! { types::growth as u8: LOCKED = GROWTH_LOCKED, MAX = GROWTH_MAX }

/// Groups that are kept at once, those of most sockets.
const MAX_GROUPS: usize = 50_000;

/// The sockets of a group.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    sockets: u64,
    limited: u64,
    measures: u64,
    max_copied: u64,
    max_rcvbuf: u64,
    locked: u64,
    at_max: u64,
}

impl Sum for Sums {
    fn occurrences(&self) -> u64 {
        self.sockets
    }
}

impl Sums {
    fn of(body: &adjust) -> Self {
        Self {
            sockets: 1,
            limited: body.limited.into(),
            measures: body.measures.into(),
            max_copied: body.max_copied.into(),
            max_rcvbuf: body.rcvbuf.into(),
            locked: u64::from(body.growth == LOCKED),
            at_max: u64::from(body.growth == MAX),
        }
    }

    fn add(&mut self, more: Self) {
        self.sockets += more.sockets;
        self.limited += more.limited;
        self.measures += more.measures;
        self.max_copied = self.max_copied.max(more.max_copied);
        self.max_rcvbuf = self.max_rcvbuf.max(more.max_rcvbuf);
        self.locked += more.locked;
        self.at_max += more.at_max;
    }

    fn limited_percent(&self) -> f64 {
        self.limited as f64 * 100.0 / self.measures.max(1) as f64
    }
}

#[rustfmt::skip] // one line per column
fn columns_of(keys: &Keys) -> Vec<Column<Sums>> {
    let mut all = keys.columns(|_| Vec::new());
    all.extend(columns! { |row, s: Sums|
        "sockets"          ALL    "SOCKETS"   (7, 7).right => s.sockets;
        "limited_percent"  ALL    "LIM%"      (5, 5).right => Value::Percent(s.limited_percent());
        "limited"          DETAIL "LIMITED"   (8, 8).right => s.limited;
        "measures"         DETAIL "MEASURES"  (8, 8).right => s.measures;
        "max_copied_bytes" DETAIL "MAXCOPIED" (9, 9).right => bytes(s.max_copied);
        "max_rcvbuf_bytes" ALL    "RCVBUF"    (7, 7).right => bytes(s.max_rcvbuf);
        "locked"           ALL    "LOCKED"    (6, 6).right => s.locked;
        "at_max"           ALL    "ATMAX"     (5, 6).right => s.at_max;
    });
    all
}

/// What `--describe-columns` says of its rows, for each way to group.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    Keys::each().map(|keys| Kind::sums_by("total", &columns_of(&keys)))
}

/// Adds up sockets.
pub(super) struct Grouped {
    keys: Keys,
    sums: Bounded<Group, Sums>,
    rows: Rows<Sums>,
}

impl Grouped {
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(keys: Keys, style: Style) -> Result<Self, Usage> {
        let rows = Rows::sums("tcprcvspace", style, columns_of(&keys))?;
        Ok(Self {
            rows: rows.by(&keys.name()),
            keys,
            sums: Bounded::new(MAX_GROUPS),
        })
    }

    pub(super) fn add(&mut self, body: &adjust) {
        let group = self.keys.group(body.head(), 0);
        let sums = self.sums.entry(group, |_| Sums::default());
        sums.add(Sums::of(body));
    }

    pub(super) fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    /// Shows the groups, those of most sockets first; the next ones begin.
    pub(super) fn print(&mut self, out: &mut Printer) {
        let boot_ns = self.rows.next_period().boot_ns;
        let mut groups = self.keys.merged(self.sums.drain(), Sums::add);
        groups.sort_by_key(|(group, sums)| (Reverse((sums.sockets, sums.limited)), *group));
        let with_head = |(group, sums): (Group, Sums)| (group.head(boot_ns), sums);
        let mut groups: Vec<_> = groups.into_iter().map(with_head).collect();
        self.rows
            .sort(&mut groups, |(head, body)| Row { head, body });
        for (head, body) in &groups {
            out.row(|buf| self.rows.row(buf, "total", &Row { head, body }));
        }
    }

    /// Sockets in no group, for lack of space.
    pub(super) fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }

    pub(super) fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Shown;

    #[test]
    fn sockets_of_a_group_add_up() {
        let socket = |limited, measures, growth| adjust {
            limited,
            measures,
            growth,
            rcvbuf: 1000 * limited,
            ..adjust::default()
        };
        let mut sum = Sums::of(&socket(3, 4, LOCKED));
        sum.add(Sums::of(&socket(0, 8, MAX)));
        assert_eq!((sum.sockets, sum.locked, sum.at_max), (2, 1, 1));
        assert_eq!((sum.limited_percent(), sum.max_rcvbuf), (25.0, 3000));
    }

    #[test]
    fn narrow_tables_fit_80_columns() {
        for keys in Keys::each() {
            let narrow = columns_of(&keys);
            let narrow = narrow.iter().filter(|c| c.shown.has(Shown::NARROW));
            let width: usize = narrow.map(|c| c.room(false) + 1).sum();
            assert!(width - 1 <= 80, "{}: {width}", keys.name());
        }
    }
}
