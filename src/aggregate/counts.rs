// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts made in the kernel (`bpf/common/count.bpf.h`): read at the end of a run or at an interval, and shown sorted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::abi::types::{Record, head};
use crate::aggregate::group::{Group, bits};
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::error::Usage;
use crate::output::column::{columns, ifindex, ifname, netns};
use crate::output::value::Value;
use crate::output::{Column, Figures, Format, Rows, Style};
use crate::session::{Printer, interval::Interval};
use anyhow::Result;

/// Capacity of a table of counts; the excess is counted and reported.
pub const MAX_COUNTS: u32 = 1 << 16;

/// A group and how often it occurred. The head has what it is grouped by, and the tool's kind as its event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Counted {
    /// What it is grouped by; nothing else of it is set but the time.
    pub head: head,
    /// Occurrences.
    pub count: u64,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Counted {}
// SAFETY: as above, and the head comes first.
unsafe impl Record for Counted {}

/// What is counted by.
#[derive(Clone, Debug)]
pub enum Per {
    /// The other end, and one's own address; with one's own port, too?
    Flow(bool),
    /// What the user named.
    Keys(Keys),
}

impl Per {
    /// `by`: the user's; `lport`: whether the local port is counted by, too.
    pub fn new(by: Option<&Keys>, lport: bool) -> Self {
        by.map_or(Self::Flow(lport), |keys| Self::Keys(keys.clone()))
    }

    /// For `group_by` of the kernel half.
    pub fn bits(&self) -> u32 {
        match self {
            Self::Flow(true) => bits::FLOW,
            Self::Flow(false) => bits::FLOW & !bits::LPORT,
            Self::Keys(keys) => keys.bits(),
        }
    }

    /// The columns of counts; `heading`: what is counted.
    pub fn columns(&self, heading: &'static str) -> Vec<Column<Counted>> {
        let mut all = match self {
            Self::Flow(by_lport) => flow_columns(*by_lport),
            Self::Keys(keys) => keys.columns(|_| Vec::new()),
        };
        all.push(
            Column::<Counted>::new("count", heading, (10, 10), |r| r.body.count.into()).right(),
        );
        all
    }

    fn merged(&self, groups: impl Iterator<Item = (Group, u64)>) -> Vec<(Group, u64)> {
        match self {
            Self::Flow(_) => groups.collect(),
            Self::Keys(keys) => keys.merged(groups, |to, more| *to += more),
        }
    }
}

#[rustfmt::skip] // one line per column
fn flow_columns(by_lport: bool) -> Vec<Column<Counted>> {
    let mut all = columns! { |row, count: Counted|
        "netns"       JSON                      => netns(row);
        "cookie"      JSON                      => Value::Unknown;
        "family"      JSON                      => row.head.flow.family;
        "laddr"       ALL  "LADDR" (15, 39)     => Value::Addr(row.head.local());
    };
    all.extend(match by_lport {
        true => columns! { |row, count: Counted| "lport" ALL "LPORT" (5, 5) => row.head.flow.lport; },
        false => columns! { |row, count: Counted| "lport" JSON => Value::Unknown; },
    });
    all.extend(columns! { |row, count: Counted|
        "raddr"       ALL  "RADDR" (15, 39)     => Value::Addr(row.head.remote());
        "rport"       ALL  "RPORT" (5, 5)       => row.head.flow.rport;
        "ifindex"     JSON                      => ifindex(row);
        "ifname"      JSON                      => ifname(row);
        "pid"         JSON                      => Value::Unknown;
        "comm"        JSON                      => Value::Unknown;
        "uid"         JSON                      => Value::Unknown;
        "pid_source"  JSON                      => Value::Unknown;
    });
    all
}

/// A table of counts, and what of it is new.
pub struct Growth {
    table: Table,
    /// What the kernel half's table had the last time, if there is a next one.
    shown: HashMap<Group, u64>,
    again: bool,
}

impl Growth {
    /// `again`: it is read more than once.
    pub fn new(table: Table, again: bool) -> Self {
        Self {
            table,
            shown: HashMap::new(),
            again,
        }
    }

    /// What was counted since the last time, by group.
    ///
    /// # Errors
    /// See [`Table::read`].
    pub fn take(&mut self) -> Result<Vec<(Group, u64)>> {
        let entries = self.table.read()?.into_iter();
        let grown = entries.filter_map(|(key, value)| {
            let (group, total) = decode_count(&key, &value)?;
            let mut count = total;
            if self.again && !self.table.begins_anew() {
                count -= self.shown.insert(group, total).unwrap_or(0);
            }
            (count != 0).then_some((group, count))
        });
        Ok(grown.collect())
    }
}

/// Shows the increase of a table of counts since the last time, the largest first.
pub struct Counts {
    tool: &'static str,
    counts: Growth,
    per: Per,
    rows: Rows<Counted>,
    every: Interval,
}

impl Counts {
    /// Rows at every `interval`, if there is one, then with the time of day; [`Counts::print`] is for the end.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub fn new(
        tool: &'static str,
        mut style: Style,
        per: Per,
        columns: Vec<Column<Counted>>,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        style.time |= interval.is_some() && style.format == Format::Table;
        let mut rows = Rows::sums(tool, style, columns)?;
        if let Per::Keys(keys) = &per {
            rows = rows.by(&keys.name());
        }
        Ok(Self {
            tool,
            counts: Growth::new(Table::own(MAX_COUNTS), interval.is_some()),
            per,
            rows,
            every: Interval::new(interval),
        })
    }

    /// For `group_by` of the kernel half.
    pub fn bits(&self) -> u32 {
        self.per.bits()
    }

    /// Reads the kernel half's table instead of one of its own.
    pub fn read_from(&mut self, table: Table) {
        self.counts.table = table;
    }

    /// count_add() of count.bpf.h, on this side.
    pub fn add(&mut self, head: &head, kind: u32, n: u64) {
        let group = Group::new(head, self.per.bits(), kind);
        self.counts
            .table
            .change(group.bytes(), n, |count: &mut u64| *count += n);
    }

    /// See [`Table::uncounted`].
    pub fn uncounted(&self) -> u64 {
        self.counts.table.uncounted()
    }

    /// At which it prints, if at any.
    pub fn interval(&self) -> Option<Duration> {
        self.every.length()
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    /// When the interval is over.
    pub fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    /// Prints if the interval is over.
    pub fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    /// Prints what was counted since the last time.
    pub fn print(&mut self, out: &mut Printer) {
        match self.counts.take() {
            Ok(counts) => self.show(counts, out),
            Err(error) => crate::message!("{}: cannot show counts: {error:#}", self.tool),
        }
    }

    /// The last record of a JSON run.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }

    fn show(&mut self, counts: Vec<(Group, u64)>, out: &mut Printer) {
        let now = self.rows.next_period().boot_ns;
        let mut rows = self.per.merged(counts.into_iter());
        rows.sort_by_key(|(group, count)| (Reverse(*count), *group));
        let mut rows: Vec<_> = rows.iter().map(|row| counted(row, now)).collect();
        self.rows.sort(&mut rows, |row| row.into());
        for row in &rows {
            out.row(|buf| self.rows.row(buf, "count", &row.into()));
        }
    }
}

fn counted((group, count): &(Group, u64), now: u64) -> Counted {
    let mut head = group.head(now);
    head.event = group.kind() as u16;
    Counted {
        head,
        count: *count,
    }
}

/// An entry of the table; `None` when it has another layout.
fn decode_count(key: &[u8], value: &[u8]) -> Option<(Group, u64)> {
    let count = u64::from_ne_bytes(value.try_into().ok()?);
    Some((Group::from_bytes(key)?, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_of_other_layout_is_rejected() {
        let key = Group::default().bytes().to_vec();
        let seven = 7u64.to_ne_bytes();
        assert!(decode_count(&key, &seven).is_some_and(|(_, count)| count == 7));
        assert!(decode_count(&key, &[0; 4]).is_none());
        assert!(decode_count(&key[1..], &[0; 8]).is_none());
    }
}
