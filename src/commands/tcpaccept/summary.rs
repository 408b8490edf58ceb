// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of listeners, at an interval or at the end: those that were busy, or all.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::abi::types::head;
use crate::aggregate::counts::Growth;
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::output::{Format, Rows, Style};
use crate::session::{Figures, Handler, Interval, Printer, Shows};
use anyhow::Result;

use super::bpf::types::listener_stats;
use super::columns::{Which, listener_columns};
use super::grouped::Grouped;
use super::listener::{Listener, Opens, TIME_UNKNOWN, UNKNOWN, known};
use super::listeners::{Key, Listeners};

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for listener_stats {}

/// What the kernel half counts.
pub(super) struct Counts {
    /// Opens, by listener.
    pub table: Table,
    /// The listeners' heads at their first open.
    pub heads: Table,
    /// The number of the interval.
    pub interval: Table,
    epoch: u64,
    shown: HashMap<Key, Shown>,
}

/// What a listener did until the last look.
#[derive(Default)]
struct Shown {
    accepts: u64,
    /// It was closed by then, and had no opens.
    is_over: bool,
}

impl Counts {
    pub fn new(table: Table, heads: Table, interval: Table) -> Self {
        Self {
            table,
            heads,
            interval,
            epoch: 1,
            shown: HashMap::new(),
        }
    }

    /// What each listener did since the last call.
    fn take(&mut self) -> Result<HashMap<Key, Opens>> {
        let before = self.epoch;
        // New opens count for the next interval, so this one no longer changes.
        self.interval.write(&(before + 1).to_ne_bytes())?;
        let entries = self.table.read()?;
        self.epoch += 1;
        let mut all = HashMap::new();
        for (key, value) in entries {
            let mut stats = listener_stats::default();
            if plain::copy_from_bytes(&mut stats, &value).is_err() {
                continue;
            }
            let shown = self.shown.entry(key.clone()).or_default();
            let before_accepts = std::mem::replace(&mut shown.accepts, stats.accepts);
            let high = longest(&stats, before);
            let opens = Opens {
                accepts: stats.accepts - before_accepts,
                high,
                max: known(high).map_or(UNKNOWN, |_| stats.accept_queue_max),
            };
            all.insert(key, opens);
        }
        Ok(all)
    }

    /// Forgets listeners that were closed before the last look, and have had no opens since: others have room then.
    fn forget_closed(&mut self, open: &HashSet<&Key>, opens: &HashMap<Key, Opens>) -> Result<()> {
        let mut over = Vec::new();
        for (key, shown) in &mut self.shown {
            let rests = opens.get(key).is_none_or(|opens| opens.accepts == 0);
            let was_over = std::mem::replace(&mut shown.is_over, rests && !open.contains(key));
            if was_over && shown.is_over {
                over.push(key.clone());
            }
        }
        for key in over {
            self.shown.remove(&key);
            self.table.delete(&key)?;
            self.heads.delete(&key)?;
        }
        Ok(())
    }

    /// After the numbers: of each there is a head then.
    fn heads(&mut self) -> Result<HashMap<Key, head>> {
        let heads = self.heads.read()?.into_iter().filter_map(|(key, value)| {
            let mut head = head::default();
            plain::copy_from_bytes(&mut head, &value).ok()?;
            Some((key, head))
        });
        Ok(heads.collect())
    }
}

/// The longest accept queue of an interval.
fn longest(stats: &listener_stats, epoch: u64) -> u32 {
    let of_epoch = stats
        .high
        .iter()
        .filter(|&&high| high >> 32 == epoch & 0xffff_ffff);

    of_epoch.map(|&high| high as u32).max().unwrap_or(UNKNOWN)
}

/// Prints them.
pub(super) struct Summary {
    which: Which,
    counts: Option<Counts>,
    listeners: Listeners,
    rows: Rows<Listener>,
    every: Interval,
    /// Finds the listeners that no process has open.
    find: Box<dyn Fn() -> Result<()>>,
    /// `--by`: they are added up.
    grouped: Option<Grouped>,
    /// A table of `--listeners` has a header each time.
    again: bool,
    printed: bool,
}

impl Summary {
    /// `counts`: `None` where opens are not counted.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub fn new(
        (which, interval): (Which, Option<Duration>),
        mut style: Style,
        (counts, listeners): (Option<Counts>, Listeners),
        find: Box<dyn Fn() -> Result<()>>,
        (by, top): (Option<Keys>, Option<u32>),
    ) -> Result<Self> {
        let table = style.format == Format::Table;
        style.time |= which == Which::Busy && interval.is_some() && table;
        let mut listeners_style = style.clone();
        if by.is_some() {
            (listeners_style.columns, listeners_style.sort) = (None, None);
        }
        let grouped = by.map(|by| Grouped::new(by, style, top)).transpose()?;
        Ok(Self {
            which,
            counts,
            listeners,
            rows: Rows::sums("tcpaccept", listeners_style, listener_columns(which))?,
            every: Interval::new(interval),
            find,
            grouped,
            again: which == Which::Every && table,
            printed: false,
        })
    }

    /// Opens that the kernel half counts by what the user groups by.
    pub fn read_from(&mut self, opens: Growth) {
        if let Some(grouped) = &mut self.grouped {
            grouped.read_from(opens);
        }
    }

    fn read(&mut self) -> Result<Vec<Listener>> {
        let mut opens = match &mut self.counts {
            Some(counts) => counts.take()?,
            None => HashMap::new(),
        };
        let none = Opens {
            accepts: self.counts.as_ref().map_or(TIME_UNKNOWN, |_| 0),
            high: UNKNOWN,
            max: UNKNOWN,
        };
        let now = self.listeners.look()?;
        let period = self.rows.next_period();
        let of = |key: &Key| opens.get(key).copied().unwrap_or(none);
        let open = self.listeners.end(&now, period.interval_us, of);
        // One that was not visited is no closed one.
        if let (0, Some(counts)) = (self.listeners.unvisited(), &mut self.counts) {
            let keys = open.iter().map(|(key, ..)| key).collect();
            counts.forget_closed(&keys, &opens)?;
        }
        let mut rows = Vec::new();
        for (key, matches, listener) in open {
            // Opens have passed the filters themselves.
            let counted = opens.remove(&key).is_some_and(|opens| opens.accepts != 0);
            let dropped = known(listener.new_drops).is_some_and(|drops| drops != 0);
            if self.which == Which::Every || counted || dropped && matches {
                rows.push(listener);
            }
        }
        if let (Which::Busy, Some(counts)) = (self.which, &mut self.counts) {
            let heads = counts.heads()?;
            let closed = opens.iter().filter(|(_, opens)| opens.accepts != 0);
            let closed = closed.filter_map(|(key, opens)| Some((*heads.get(key)?, *opens)));
            rows.extend(
                closed.map(|(head, opens)| Listener::closed(head, opens, period.interval_us)),
            );
        }
        for row in &mut rows {
            row.head.boot_ns = period.boot_ns;
        }
        Ok(rows)
    }

    fn print(&mut self, out: &mut Printer) {
        let mut rows = match self.read() {
            Ok(rows) => rows,
            Err(error) => {
                crate::message!("tcpaccept: cannot show listeners: {error:#}");
                return;
            }
        };
        if let Some(grouped) = &mut self.grouped {
            if let Err(error) = grouped.print(&rows, out) {
                crate::message!("tcpaccept: cannot show groups: {error:#}");
            }
            return;
        }
        match self.which {
            Which::Every => rows.sort_by_cached_key(Listener::by_trouble),
            Which::Busy => rows.sort_by_key(|row| {
                let drops = known(row.new_drops).unwrap_or(0);
                let busiest = Reverse((row.accepts, drops));
                (busiest, row.head.flow.lport, row.head.cookie)
            }),
        }
        self.rows.sort(&mut rows, |row| row.into());
        if self.printed && self.again {
            out.heading(|buf| self.rows.header(buf));
        }
        for row in &rows {
            out.row(|buf| self.rows.row(buf, "listener", &row.into()));
        }
        self.printed = true;
    }
}

impl Handler for Summary {
    fn attached(&mut self) {
        if let Err(error) = (self.find)().and_then(|()| self.listeners.begin()) {
            crate::message!("tcpaccept: cannot look at listeners: {error:#}");
        }
        self.rows.next_period();
        if let Some(grouped) = &mut self.grouped {
            grouped.begin();
        }
        self.every.restart();
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.grouped {
            Some(grouped) => grouped.header(out),
            None => self.rows.header(out),
        }
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
        // What is now was shown; sums have a rest.
        if self.which == Which::Busy || !self.printed {
            self.print(out);
        }
    }

    fn unvisited(&self) -> u64 {
        self.listeners.unvisited()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.grouped {
            Some(grouped) => grouped.summary(out, fields),
            None => self.rows.summary(out, fields),
        }
    }
}
