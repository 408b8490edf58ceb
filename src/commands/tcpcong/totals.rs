// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: how long connections were in each congestion state, and how often they went there.

use std::time::Instant;

use crate::abi::names::CA_STATES;
use crate::abi::types::{Record, decode, decode_all};
use crate::aggregate::bounded::{Bounded, Sum};
use crate::aggregate::by::By;
use crate::aggregate::group::{Group, bits};
use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::error::Usage;
use crate::kernel::holders::Holders;
use crate::output::column::columns;
use crate::output::units::micros;
use crate::output::{Column, Format, Row, Rows, Shown, Style, Value};
use crate::session::{Figures, Handler, Interval, Printer, Shows};

use super::Args;
use super::bpf::types::total;

const STATES: usize = CA_STATES.len();

/// By congestion state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    ns: [u64; STATES],
    /// Changes to this state.
    changes: [u64; STATES],
}

impl Sum for Times {
    fn occurrences(&self) -> u64 {
        self.changes()
    }

    fn rank(&self) -> (u64, u64) {
        (self.not_open_ns(), self.changes())
    }
}

impl From<&total> for Times {
    fn from(body: &total) -> Self {
        Self {
            ns: body.times.ns,
            changes: body.times.changes.map(u64::from),
        }
    }
}

impl Times {
    fn add(&mut self, more: &Self) {
        let add = |to: &mut [u64; STATES], more: [u64; STATES]| {
            to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
        };
        add(&mut self.ns, more.ns);
        add(&mut self.changes, more.changes);
    }

    fn changes(&self) -> u64 {
        self.changes.iter().sum()
    }

    fn not_open_ns(&self) -> u64 {
        self.ns[1..].iter().sum()
    }

    fn us(&self, state: usize) -> Value<'static> {
        micros(self.ns[state] / 1000)
    }

    fn not_open_percent(&self) -> Option<f64> {
        let all: u64 = self.ns.iter().sum();
        (all != 0).then(|| self.not_open_ns() as f64 * 100.0 / all as f64)
    }

    /// For tests that have no kernel.
    #[cfg(any(test, fuzzing))]
    pub(super) fn example(n: u64) -> Self {
        Self {
            ns: [
                n * 60_000_000_000,
                n * 2_500_000,
                0,
                n * 40_000_000,
                n * 1_200_000_000,
            ],
            changes: [n * 4, n * 2, 0, n * 3, n],
        }
    }

    /// Whether anything but Open was seen.
    fn is_eventful(&self) -> bool {
        self.changes() + self.not_open_ns() != 0
    }
}

/// Of which the keys may take so many columns of a narrow table that has all states.
const KEYS_WIDTH: usize = 41;

#[rustfmt::skip] // one line per column
pub(super) fn total_columns(keys: &Keys) -> Vec<Column<Times>> {
    let mut all = keys.columns(|_| Vec::new());
    let width: usize = all.iter().filter(|c| c.shown.has(Shown::NARROW)).map(|c| c.width.0 + 1).sum();
    let minor = if width > KEYS_WIDTH + 1 { Shown::DETAIL } else { Shown::ALL };
    all.extend(columns! { |row, t: Times|
        "open_us"          ALL     "OPEN"   (6, 9).right  => t.us(0);
        "disorder_us"      (minor) "DISORD" (6, 9).right  => t.us(1);
        "cwr_us"           (minor) "CWR"    (5, 9).right  => t.us(2);
        "recovery_us"      ALL     "RECOV"  (6, 9).right  => t.us(3);
        "loss_us"          ALL     "LOSS"   (6, 9).right  => t.us(4);
        "not_open_percent" DETAIL  "%"      (6, 6).right  => t.not_open_percent().map(Value::Percent);
        "changes"          ALL     "CHGS"   (4, 6).right  => t.changes();
        "open_changes"     JSON    "N_OPEN" (6, 6).right  => t.changes[0];
        "disorder_changes" DETAIL  "N_DIS"  (6, 6).right  => t.changes[1];
        "cwr_changes"      DETAIL  "N_CWR"  (6, 6).right  => t.changes[2];
        "recovery_changes" DETAIL  "N_REC"  (6, 6).right  => t.changes[3];
        "loss_changes"     DETAIL  "N_LOSS" (6, 6).right  => t.changes[4];
    });
    all
}

/// Totals that are kept at once.
const MAX_TOTALS: usize = 50_000;

/// Default number of totals in a table; other formats have all.
const TOP: usize = 20;

/// Adds up what each connection had: of closed ones from their records, of open ones from an iterator.
pub(super) struct Totals {
    keys: Keys,
    /// Of each connection alone: few have anything to show.
    per_flow: bool,
    top: usize,
    sums: Bounded<Group, Times>,
    rows: Rows<Times>,
    every: Interval,
    open: Option<Holders>,
}

impl Totals {
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(args: &Args, mut style: Style) -> Result<Self, Usage> {
        let interval = args.summary.flatten();
        let usual = match style.format {
            Format::Table => TOP,
            _ => usize::MAX,
        };
        style.time |= interval.is_some() && style.format == Format::Table;
        style.sort.clone_from(&args.sort);
        let keys = args.by.clone().unwrap_or(Keys::of(By::Flow));
        let rows = Rows::sums("tcpcong", style, total_columns(&keys))?;
        Ok(Self {
            per_flow: keys.bits() & bits::FLOW == bits::FLOW,
            top: top::limit(args.top, usual),
            sums: Bounded::new(MAX_TOTALS),
            rows: rows.by(&keys.name()),
            every: Interval::new(interval),
            open: None,
            keys,
        })
    }

    /// The sockets that are open when totals are shown.
    pub(super) fn visit(&mut self, open: Holders) {
        self.open = Some(open);
    }

    fn add(&mut self, body: &total) {
        let times = Times::from(body);
        if !self.per_flow || times.is_eventful() {
            let key = self.keys.group(body.head(), 0);
            let sum = self.sums.entry(key, |_| Times::default());
            sum.add(&times);
        }
    }

    fn visit_open(&mut self) {
        match self.open.as_ref().map(Holders::run) {
            Some(Ok(bytes)) => decode_all(&bytes).for_each(|body| self.add(&body)),
            Some(Err(error)) => {
                crate::message!("tcpcong: sockets still open are not in the totals: {error:#}");
            }
            None => {}
        }
    }

    fn print(&mut self, out: &mut Printer) {
        self.visit_open();
        let boot_ns = self.rows.next_period().boot_ns;
        let sums = self.sums.drain();
        let mut totals = self.keys.merged(sums, |to, more| to.add(&more));
        totals.retain(|(_, times)| times.is_eventful());
        totals.sort_by(|(a, x), (b, y)| y.rank().cmp(&x.rank()).then_with(|| a.cmp(b)));
        let row = |(group, times): (Group, Times)| (group.head(boot_ns), times);
        let mut totals: Vec<_> = totals.into_iter().map(row).collect();
        self.rows
            .sort(&mut totals, |(head, body)| Row { head, body });
        top::report("tcpcong", ("total", "totals"), totals.len(), self.top);
        for (head, body) in totals.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "total", &Row { head, body }));
        }
    }
}

impl Handler for Totals {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<total>(record) {
            self.add(body);
        }
    }

    fn shows(&self) -> Shows {
        self.every.length().into()
    }

    fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }

    fn unvisited(&self) -> u64 {
        self.open.as_ref().map_or(0, Holders::unvisited)
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_tables_fit_80_columns() {
        for keys in Keys::each() {
            let narrow = total_columns(&keys);
            let narrow = narrow.iter().filter(|c| c.shown.has(Shown::NARROW));
            let width: usize = narrow.map(|c| c.room(false) + 1).sum();
            assert!(width - 1 <= 80, "{}: {width}", keys.name());
        }
    }

    #[test]
    fn share_is_of_all_time_and_none_of_no_time() {
        let mut sum = Times::default();
        assert_eq!((sum.not_open_percent(), sum.is_eventful()), (None, false));
        let times = Times {
            ns: [900, 0, 0, 60, 40],
            changes: [2, 0, 0, 1, 1],
        };
        sum.add(&times);
        sum.add(&Times {
            ns: [1000, 0, 0, 0, 0],
            ..Times::default()
        });
        assert_eq!((sum.not_open_percent(), sum.changes()), (Some(5.0), 4));
        assert!(times.rank() > Times::default().rank());
    }
}
