// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: what resets are counted by.

use crate::abi::known::*;
use crate::abi::names::tcp_state;
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

use super::bpf::types::reset;
use super::columns::{self, direction_name, is_sent};
use super::{Args, reasons};

/// What only resets are counted by.
pub(super) const OWN: &[&str] = &["reason", "direction"];

/// The usual: direction, state and reason.
pub(super) fn usual() -> Keys {
    Keys::new(vec![Key::Own("reason")])
}

/// What is counted by besides the keys of every command, as the kind of a group: bit 0: received, bits 8 to 15: the
/// state, bits 16 to 31: the reason.
fn kind(keys: &Keys, body: &reset) -> u32 {
    let received = u32::from(!is_sent(body));
    if keys.has("reason") {
        return received | u32::from(body.state) << 8 | u32::from(body.reason as u16) << 16;
    }
    if keys.has("direction") { received } else { 0 }
}

/// How many resets have a thing in common.
pub(super) struct Sum {
    kind: u32,
    count: u64,
}

impl Sum {
    fn direction(&self) -> &'static str {
        direction_name(self.kind & 1 == 0)
    }

    fn state(&self) -> Option<&'static str> {
        let state = (self.kind >> 8) as u8;
        (state != 0).then(|| tcp_state(state))
    }

    fn reason(&self) -> Option<&'static str> {
        reasons::name(i32::from((self.kind >> 16) as u16 as i16))
    }
}

/// The columns of what is counted together, and how many there were.
#[rustfmt::skip] // one line per column
pub(super) fn sum_columns(keys: &Keys) -> Vec<Column<Sum>> {
    let mut columns = keys.columns(|own| match own {
        "reason" => columns! { |row, t: Sum|
            "direction" ALL "DIRECTION" (9, 9)    => t.direction();
            "state"     ALL "STATE"     (12, 12)  => t.state();
            "reason"    ALL "REASON"    (24, 39)  => t.reason();
        },
        // Which the reason has, too.
        _ if keys.has("reason") => Vec::new(),
        _ => columns! { |row, t: Sum| "direction" ALL "DIRECTION" (9, 9) => t.direction(); },
    });
    columns.extend(columns! { |row, t: Sum| "count" ALL "RESETS" (10, 10).right => t.count; });
    columns
}

/// Maximum number of counts kept, those with most resets: a flood may have very many source addresses.
const MAX_SUMS: usize = 50_000;

/// Counts resets.
pub(super) struct Sums {
    keys: Keys,
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
        let rows = Rows::sums("tcpreset", style, sum_columns(&keys))?;
        Ok(Self {
            sums: Bounded::new(MAX_SUMS),
            rows: rows.by(&keys.name()),
            every: Interval::new(interval),
            keys,
        })
    }

    pub(super) fn add(&mut self, body: &reset) {
        let group = self.keys.group(body.head(), kind(&self.keys, body));
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
            let kind = group.kind();
            (group.head(boot_ns), Sum { kind, count })
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
    let counts = own.chain(Keys::each());
    let counts = counts.map(|keys| Kind::sums_by("count", &sum_columns(&keys)));
    let mut kinds = vec![Kind::row("reset", &columns::columns(true)).known(&[
        PROGRAMS,
        with_btf(KNOWN_SOCKET | KNOWN_PACKET),
        records(0),
    ])];
    kinds.extend(counts);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_keeps_what_is_counted_by() {
        let mut body = reset {
            reason: -1,
            state: 8,
            ..reset::default()
        };
        body.head.event = super::columns::RECEIVED;
        let of = |keys: &Keys| Sum {
            kind: kind(keys, &body),
            count: 1,
        };
        let sum = of(&usual());
        assert_eq!(
            (sum.direction(), sum.state()),
            ("received", Some("CLOSE_WAIT"))
        );
        assert_eq!(sum.reason(), None);
        let direction = of(&Keys::new(vec![Key::Own("direction")]));
        assert_eq!(
            (direction.direction(), direction.state()),
            ("received", None)
        );
        assert_eq!(of(&Keys::new(Vec::new())).kind, 0);
    }
}
