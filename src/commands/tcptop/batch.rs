// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows at each interval: for scripts, and where there is no terminal.

use std::time::{Duration, Instant};

use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::error::Usage;
use crate::kernel::clock;
use crate::output::{Format, Row, Rows, Style};
use crate::session::{Figures, Handler, Interval, Printer, Shows};

use super::choice::Choice;
use super::groups::{Groups, Talker};
use super::look::Look;
use super::sort::{First, Ranked};
use super::traffic::Connection;

/// What rows are made of.
pub(super) enum Kinds {
    Connections(Rows<Connection>, First<Connection>),
    Groups(Rows<Talker>, Groups),
}

/// Prints the first rows at each interval.
pub(super) struct Batch {
    look: Look,
    choice: Choice,
    kinds: Kinds,
    every: Interval,
    /// The last interval's end.
    boot_ns: u64,
    /// A table has its header at every interval.
    again: bool,
    uncounted: u64,
    printed: bool,
}

impl Kinds {
    pub(super) fn connections(rows: Rows<Connection>, choice: &Choice) -> Self {
        Self::Connections(rows, First::new(choice.sort, choice.kept()))
    }

    pub(super) fn groups(style: Style, keys: Keys) -> Result<Self, Usage> {
        let rows = Rows::sums("tcptop", style, super::groups::columns(&keys))?;
        Ok(Self::Groups(rows.by(&keys.name()), Groups::new(keys)))
    }

    pub(super) fn add(&mut self, one: Connection, choice: &Choice) {
        match self {
            Self::Connections(_, first) if choice.shows(&one) => first.add(one),
            Self::Connections(..) => {}
            Self::Groups(_, groups) if choice.counts(&one) => groups.add(&one),
            Self::Groups(..) => {}
        }
    }
}

impl Batch {
    pub(super) fn new(
        look: Look,
        style: &Style,
        choice: Choice,
        kinds: Kinds,
        interval: Duration,
    ) -> Self {
        Self {
            look,
            choice,
            kinds,
            every: Interval::new(Some(interval)),
            boot_ns: 0,
            again: style.format == Format::Table && style.header,
            uncounted: 0,
            printed: false,
        }
    }

    fn print(&mut self, out: &mut Printer) {
        let (kinds, choice) = (&mut self.kinds, &self.choice);
        if let Err(error) = self.look.all(|one| kinds.add(one, choice)) {
            crate::message!("tcptop: cannot show open connections: {error:#}");
        }
        let boot_ns = clock::boot_ns();
        let interval_us = boot_ns.saturating_sub(self.boot_ns) / 1000;
        self.boot_ns = boot_ns;
        let all = match kinds {
            Kinds::Connections(rows, first) => {
                rows.refresh_clock();
                let (mut first, all) = first.take();
                if self.again && (!first.is_empty() || !self.printed) {
                    out.heading(|buf| rows.header(buf));
                }
                for one in &mut first {
                    one.interval_us = interval_us;
                    one.conn.head.boot_ns = boot_ns;
                }
                rows.sort(&mut first, |one| one.into());
                for one in first.iter().take(choice.top) {
                    out.row(|buf| rows.row(buf, choice.event(), &one.into()));
                }
                all
            }
            Kinds::Groups(rows, groups) => {
                let boot_ns = rows.next_period().boot_ns;
                let mut first = First::new(choice.sort, choice.kept());
                let shown = |one: &Talker| choice.all || one.value(choice.sort) != (0, 0);
                groups
                    .take(interval_us)
                    .filter(shown)
                    .for_each(|one| first.add(one));
                self.uncounted = groups.uncounted();
                let (first, all) = first.take();
                if self.again && (!first.is_empty() || !self.printed) {
                    out.heading(|buf| rows.header(buf));
                }
                let with_head = |one: Talker| (one.group.head(boot_ns), one);
                let mut first: Vec<_> = first.into_iter().map(with_head).collect();
                rows.sort(&mut first, |(head, body)| Row { head, body });
                for (head, body) in first.iter().take(choice.top) {
                    out.row(|buf| rows.row(buf, "total", &Row { head, body }));
                }
                all
            }
        };
        // Once: at the next interval there may be as many again.
        if !self.printed {
            top::report("tcptop", choice.what(), all, choice.top);
        }
        self.printed = true;
    }
}

impl Handler for Batch {
    fn header(&mut self, out: &mut Vec<u8>) {
        if self.again {
            return;
        }
        match &mut self.kinds {
            Kinds::Connections(rows, _) => rows.header(out),
            Kinds::Groups(rows, _) => rows.header(out),
        }
    }

    fn attached(&mut self) {
        self.look.begin();
        self.boot_ns = clock::boot_ns();
        self.every.restart();
    }

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(one) = self.look.ended(record) {
            self.kinds.add(one, &self.choice);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn uncounted(&self) -> u64 {
        self.uncounted
    }

    fn unvisited(&self) -> u64 {
        self.look.unvisited()
    }

    fn shows(&self) -> Shows {
        self.every.length().into()
    }

    fn has_ends(&self) -> bool {
        true
    }

    /// The rest of the last interval: its bytes are in the sums, too. In a table a rate of a few milliseconds misleads.
    fn finish(&mut self, out: &mut Printer) {
        let rest = Duration::from_nanos(clock::boot_ns().saturating_sub(self.boot_ns));
        let least = self.every.length().unwrap_or_default() / 10;
        if !self.again || rest >= least || !self.printed {
            self.print(out);
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.kinds {
            Kinds::Connections(rows, _) => rows.summary(out, fields),
            Kinds::Groups(rows, _) => rows.summary(out, fields),
        }
    }
}
