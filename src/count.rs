// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts per flow, made in the kernel (`bpf/count.bpf.h`): read at the end of a run or at an interval, and shown sorted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock::boot_ns;
use crate::output::{Column, Format, Rows, Shown, Style, ifindex, ifname};
use crate::session::Printer;
use crate::table::Table;
use crate::types::{Record, count_key, head};
use crate::value::Value;

/// How many entries a table of counts has: what it has no room for is counted, and told.
pub const MAX_FLOWS: u32 = 1 << 16;

/// One flow and how often it occurred. The head has the flow, the namespace, and the tool's kind as its event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Counted {
    /// Its flow, namespace and kind; nothing else of it is set but the time.
    pub head: head,
    /// Occurrences.
    pub count: u64,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Counted {}
// SAFETY: as above, and the head comes first.
unsafe impl Record for Counted {}

/// When something is due that happens at an interval; never, when there is none.
#[derive(Clone, Copy, Debug)]
pub struct Every {
    interval: Option<Duration>,
    due: Instant,
}

impl Every {
    /// The first time is one interval from now.
    pub fn new(interval: Option<Duration>) -> Self {
        let due = Instant::now() + interval.unwrap_or_default();
        Self { interval, due }
    }

    /// Whether it is time; if so, the next time begins. Does not drift.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let Some(interval) = self.interval.filter(|_| now >= self.due) else {
            return false;
        };
        self.due = (self.due + interval).max(now);
        true
    }
}

/// The columns of counts; `by_lport`: the local port is part of what is counted by; `heading`: what is counted.
pub fn columns(by_lport: bool, heading: &'static str) -> Vec<Column<Counted>> {
    let json = |key, get| Column::new(key, "", (0, 0), get).shown(Shown::JSON);
    let unknown = |key| json(key, |_| Value::Unknown);
    let mut columns: Vec<Column<Counted>> = vec![
        json("boot_ns", |r| Value::Int(r.head.boot_ns)),
        json("netns", |r| match r.head.netns {
            0 => Value::Unknown,
            netns => Value::Int(netns.into()),
        }),
        unknown("cookie"),
        json("family", |r| Value::Int(r.head.flow.family.into())),
        Column::new("laddr", "LADDR", (15, 39), |r| Value::Addr(r.head.local())),
        if by_lport {
            Column::new("lport", "LPORT", (5, 5), |r| {
                Value::Int(r.head.flow.lport.into())
            })
        } else {
            unknown("lport")
        },
        Column::new("raddr", "RADDR", (15, 39), |r| Value::Addr(r.head.remote())),
        Column::new("rport", "RPORT", (5, 5), |r| {
            Value::Int(r.head.flow.rport.into())
        }),
    ];
    columns.extend([json("ifindex", ifindex), json("ifname", ifname)]);
    columns.extend(["pid", "comm", "uid", "pid_source"].map(unknown));
    columns.push(
        Column::<Counted>::new("count", heading, (10, 10), |r| Value::Int(r.body.count)).right(),
    );
    columns
}

/// Shows what a table of counts has gained since the last time, the largest first.
pub struct Counts {
    tool: &'static str,
    table: Table,
    rows: Rows<Counted>,
    shown: HashMap<Vec<u8>, u64>,
    every: Every,
}

impl Counts {
    /// Rows at every `interval`, if there is one, then with the time of day; [`Counts::print`] is for the end.
    pub fn new(
        tool: &'static str,
        mut style: Style,
        table: Table,
        columns: Vec<Column<Counted>>,
        interval: Option<Duration>,
    ) -> Self {
        style.time |= interval.is_some() && style.format == Format::Table;
        Self {
            tool,
            table,
            rows: Rows::aggregate(tool, style, columns),
            shown: HashMap::new(),
            every: Every::new(interval),
        }
    }

    /// count_flow() of count.bpf.h, on this side.
    pub fn add(&mut self, head: &head, by_lport: bool, kind: u32) {
        let mut key = count_key {
            flow: head.flow,
            netns: head.netns,
            kind,
        };
        if !by_lport {
            key.flow.lport = 0;
        }
        // SAFETY: integers only, with explicit padding, so all its bytes have values.
        let key = unsafe { plain::as_bytes(&key) };
        self.table.change(key, |count: &mut u64| *count += 1);
    }

    /// See [`Table::uncounted`].
    pub fn uncounted(&self) -> u64 {
        self.table.uncounted()
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    /// Prints if the interval is over.
    pub fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.rows.refresh_clock();
            self.print(out);
        }
    }

    /// Prints what was counted since the last time.
    pub fn print(&mut self, out: &mut Printer) {
        match self.table.read() {
            Ok(entries) => self.show(entries, out),
            Err(error) => crate::message!("{}: counts are not shown: {error:#}", self.tool),
        }
    }

    fn show(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Printer) {
        let now = boot_ns();
        let mut rows: Vec<_> = entries
            .into_iter()
            .filter_map(|(key, value)| {
                let mut row = decode_count(&key, &value)?;
                row.head.boot_ns = now;
                let total = row.count;
                row.count -= self.shown.insert(key, total).unwrap_or(0);
                (row.count != 0).then_some(row)
            })
            .collect();
        rows.sort_by_key(|row| {
            let flow = &row.head.flow;
            (
                std::cmp::Reverse(row.count),
                flow.raddr,
                flow.rport,
                flow.laddr,
                flow.lport,
            )
        });
        for row in &rows {
            out.row(|buf| self.rows.row(buf, "count", &row.into()));
        }
    }
}

/// An entry of the table; `None` when it has another layout.
fn decode_count(key: &[u8], value: &[u8]) -> Option<Counted> {
    let mut from = count_key::default();
    plain::copy_from_bytes(&mut from, key).ok()?;
    let mut row = Counted {
        count: u64::from_ne_bytes(value.try_into().ok()?),
        ..Counted::default()
    };
    row.head.flow = from.flow;
    row.head.netns = from.netns;
    row.head.event = from.kind;
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_does_not_drift_and_does_not_catch_up() {
        let mut every = Every::new(Some(Duration::from_secs(3600)));
        assert!(!every.is_due());
        every.due = Instant::now() - Duration::from_secs(2 * 3600);
        assert!(every.is_due());
        assert!(every.is_due(), "one is still due");
        assert!(!every.is_due());
        assert!(!Every::new(None).is_due());
    }

    #[test]
    fn an_entry_of_another_layout_is_refused() {
        let key = vec![0; size_of::<count_key>()];
        assert!(decode_count(&key, &7u64.to_ne_bytes()).is_some_and(|row| row.count == 7));
        assert!(decode_count(&key, &[0; 4]).is_none());
        assert!(decode_count(&key[1..], &[0; 8]).is_none());
    }
}
