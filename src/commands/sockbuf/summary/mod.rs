// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: overflows by owner and kind, and beside them what the kernel itself has counted, in every network
//! namespace.

mod explain;
mod lines;
mod tally;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::abi::types::Record;
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::cli::filter::Namespaces;
use crate::error::Usage;
use crate::kernel::clock::boot_ns;
use crate::kernel::counters::{Change, Counters, known::trouble};
use crate::output::message;
use crate::output::{Figures, Format, Style};
use crate::session::{Interval, Printer, Shows};

use super::Args;
use super::bpf::types::overflow;
use super::cause::Cause;
use explain::Explained;
use lines::{Line, Lines};
use tally::{Tally, Total};

pub(super) use lines::{OWN, kinds};
#[cfg(any(test, fuzzing))]
pub(super) use lines::{counter_columns, example, sum_columns, usual};

/// How long after a reading its rows are shown: what happened before must have been read by then, also from a perf buffer
/// (`fallback/`).
const LAG: Duration = Duration::from_millis(150);

/// Rows of each table, unless the user says otherwise; other formats have all.
const TOP: usize = 20;

/// What the kernel had counted, and when.
struct Reading {
    changes: Vec<Change>,
    boot_ns: u64,
    at: Instant,
}

/// What the key `cause` tells apart: tracepoint, protocol, cause, direction.
type Kind = (u16, [u8; 32], Option<Cause>, u8);

/// More are not told apart; the kernel has some thirty protocols.
const MAX_KINDS: usize = 4096;

/// Adds up overflows, and reads the counters.
pub(super) struct Summary {
    keys: Keys,
    /// The kinds so far, each with the number that stands for it in a group.
    kinds: HashMap<Kind, u32>,
    counters: Counters,
    lines: Lines,
    top: usize,
    /// The namespaces that are shown; `None`: all, and the host.
    namespaces: Option<Namespaces>,
    every: Interval,
    /// When the namespaces are looked at again.
    look: Instant,
    /// Until when rows are not of this run, since boot.
    since: u64,
    now: Tally,
    /// Of what happened after the reading that waits.
    next: Tally,
    reading: Option<Reading>,
    last: Option<Reading>,
    explained: Explained,
}

impl Summary {
    /// Call it before any thread exists but the one for signals.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(
        args: &Args,
        mut style: Style,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        let filter = &args.common.filter;
        let usual = match style.format {
            Format::Table => TOP,
            _ => usize::MAX,
        };
        let report = |n| message::unvisited("sockbuf", "the counters", n);
        let only_namespaces =
            filter.given().all(|(flag, _)| flag == "--netns") && !filter.ipv4 && !filter.ipv6;
        style.sort.clone_from(&args.sort);
        let keys = args.by.clone().unwrap_or_else(lines::usual);
        let lines = Lines::new(style, &keys, interval.is_some())?;
        Ok(Self {
            keys,
            kinds: HashMap::new(),
            counters: Counters::new(|name| trouble(name).is_some(), report),
            lines,
            top: top::limit(args.top, usual),
            namespaces: filter.netns.clone(),
            every: Interval::new(interval),
            look: Instant::now(),
            since: 0,
            now: Tally::default(),
            next: Tally::default(),
            reading: None,
            last: None,
            explained: Explained::new(only_namespaces),
        })
    }

    /// Rows do not tell their namespace: which counters they explain is not known.
    pub(super) fn without_namespaces(&mut self) {
        self.explained = Explained::new(false);
    }

    /// Reads what was counted before.
    pub(super) fn begin(&mut self) {
        self.look();
        self.since = self.lines.begin();
        self.every.restart();
    }

    pub(super) fn add(&mut self, body: &overflow) {
        let at = body.head.boot_ns;
        if at <= self.since {
            return;
        }
        let later = self.reading.as_ref().is_some_and(|r| at > r.boot_ns);
        let kind = self.kind(body);
        let group = self.keys.group(body.head(), kind);
        let tally = if later { &mut self.next } else { &mut self.now };
        tally.add(group, body);
    }

    /// The number of its kind, if kinds are told apart.
    fn kind(&mut self, body: &overflow) -> u32 {
        if !self.keys.has("cause") {
            return 0;
        }
        let kind = (
            body.head.event,
            body.proto_name,
            Cause::of(body),
            body.sending,
        );
        let next = self.kinds.len();
        if next >= MAX_KINDS {
            return self.kinds.get(&kind).copied().unwrap_or(u32::MAX);
        }
        *self.kinds.entry(kind).or_insert(next as u32)
    }

    /// Looks at the namespaces if it is time. Returns whether [`Self::print`] is due.
    pub(super) fn tick(&mut self) -> bool {
        let now = Instant::now();
        if let Some(reading) = &self.reading {
            return now >= reading.at + LAG;
        }
        if self.every.is_due() {
            self.reading = Some(self.read());
        } else if now >= self.look {
            self.look();
        }
        false
    }

    /// When it wants the next tick.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.reading {
            Some(reading) => Some(reading.at + LAG),
            None => self.every.due().into_iter().chain([self.look]).min(),
        }
    }

    fn look(&mut self) {
        if let Err(error) = self.counters.look() {
            crate::message!("sockbuf: cannot read the kernel's counters: {error:#}");
        }
        self.look = Instant::now() + self.counters.rest();
    }

    fn read(&mut self) -> Reading {
        self.look();
        let mut changes = self.counters.take();
        if let Some(namespaces) = &self.namespaces {
            changes.retain(|change| namespaces.passes(change.netns.into()) && change.netns != 0);
        }
        Reading {
            changes,
            boot_ns: boot_ns(),
            at: Instant::now(),
        }
    }

    /// Shows the interval that a reading has ended.
    pub(super) fn print(&mut self, out: &mut Printer) {
        if let Some(reading) = self.reading.take() {
            self.show(&reading, out);
            std::mem::swap(&mut self.now, &mut self.next);
        }
    }

    fn show(&mut self, reading: &Reading, out: &mut Printer) {
        let boot_ns = reading.boot_ns;
        let sums = self.now.take(&self.keys).into_iter();
        let line = |(group, total): (Group, Total)| (group.head(boot_ns), Line::of_sum(total));
        let mut sums: Vec<_> = sums.map(line).collect();
        self.lines.sort(&mut sums);
        let explained = self.explained.of(self.now.take_rows(), &reading.changes);
        let counters = reading.changes.iter().zip(explained);
        let counters = counters.map(|(change, explained)| Line::of_counter(change, explained));
        let mut counters: Vec<_> = counters.collect();
        counters.sort_by_cached_key(Line::by_trouble);
        top::report("sockbuf", ("sum", "sums"), sums.len(), self.top);
        let all = counters.len();
        top::report("sockbuf", ("counter", "counters"), all, self.top);
        sums.truncate(self.top);
        counters.truncate(self.top);
        self.lines.print(boot_ns, sums, counters, out);
    }

    /// Reads the counters while every row is still seen.
    pub(super) fn detaching(&mut self) {
        self.last = Some(self.read());
    }

    /// Shows what is left.
    pub(super) fn finish(&mut self, out: &mut Printer) {
        self.print(out);
        if let Some(last) = self.last.take() {
            self.show(&last, out);
        }
    }

    pub(super) fn header(&mut self, out: &mut Vec<u8>) {
        self.lines.header(out);
    }

    pub(super) fn shows(&self) -> Shows {
        self.every.length().into()
    }

    pub(super) fn uncounted(&self) -> u64 {
        self.now.uncounted() + self.next.uncounted()
    }

    pub(super) fn unvisited(&self) -> u64 {
        self.counters.unvisited()
    }

    pub(super) fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.lines.summary(out, fields);
    }
}
