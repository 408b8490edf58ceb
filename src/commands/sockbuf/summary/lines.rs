// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of `--summary`: sums of overflows, and below them the kernel's counters.

use std::cmp::Reverse;

use crate::abi::known::{KNOWN_CAUSE, KNOWN_NETNS};
use crate::abi::types::{Record, event_name, head};
use crate::aggregate::by::{By, Key};
use crate::aggregate::group::bits;
use crate::aggregate::keys::Keys;
use crate::error::Usage;
use crate::kernel::counters::known::{Rank, trouble};
use crate::kernel::counters::{Change, Name};
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::value::Value;
use crate::output::whose::Whose;
use crate::output::{Choice, Column, Figures, Format, Row, Rows, Shown, Style};
use crate::session::Printer;

use super::super::bpf::types::overflow;
use super::super::cause::Cause;
use super::super::columns::{EVENTS, limit, tune};
use super::tally::Total;

/// A row of either kind. CSV has both kinds in one table.
pub(in super::super) struct Line {
    /// The newest overflow of a sum; of a counter, only its namespace.
    pub(super) sample: overflow,
    /// The local port, if all are of the same.
    pub(super) lport: Option<u16>,
    pub(super) count: u64,
    counter: Option<Counter>,
}

struct Counter {
    name: Name,
    /// The namespace has ended: there may be more.
    at_least: bool,
    /// How many are rows, if that can be told.
    explained: Option<u64>,
    rank: Rank,
    see: Option<&'static str>,
    /// `count` in a table.
    text: String,
}

impl Line {
    pub(super) fn of_sum(total: Total) -> Self {
        Self {
            sample: total.sample,
            lport: total.lport,
            count: total.count,
            counter: None,
        }
    }

    pub(super) fn of_counter(change: &Change, explained: Option<u64>) -> Self {
        let mut sample = overflow::default();
        sample.head.netns = change.netns;
        sample.head.known = KNOWN_NETNS;
        let trouble = trouble(&change.name);
        let more = if change.at_least { ">" } else { "" };
        Self {
            sample,
            lport: None,
            count: change.count,
            counter: Some(Counter {
                name: Name::clone(&change.name),
                at_least: change.at_least,
                explained,
                rank: trouble.map_or(Rank::Other, |trouble| trouble.rank),
                see: trouble.and_then(|trouble| trouble.see),
                text: format!("{more}{}", change.count),
            }),
        }
    }

    /// The worst comes first: what it is about, how much of it no row explains, how much there is.
    pub(super) fn by_trouble(&self) -> impl Ord + use<> {
        let counter = self.counter.as_ref();
        let rank = counter.map(|counter| counter.rank);
        let explained = counter.and_then(|counter| counter.explained).unwrap_or(0);
        let name = counter.map(|counter| Name::clone(&counter.name));
        let unexplained = self.count.saturating_sub(explained);
        (
            rank,
            Reverse((unexplained, self.count)),
            name,
            self.sample.head.netns,
        )
    }
}

/// The namespace in a table: by its name, if it has one.
fn netns<'a>(row: &Row<'a, Line>) -> Value<'a> {
    let name = Whose::Netns(row.head.netns);
    match row.head.netns {
        0 if row.body.counter.is_some() => Value::Text("host"),
        0 => Value::Unknown,
        _ if name.with(|text| text.is_some()) => Value::Whose(name),
        inode => Value::Int(inode.into()),
    }
}

/// What only overflows are summed up by: the tracepoint, the protocol, the cause and the direction.
pub(in super::super) const OWN: &[&str] = &["cause"];

/// The usual: by owner and cause.
pub(in super::super) fn usual() -> Keys {
    let shared = [By::Netns, By::Pid, By::Comm].map(Key::Shared);
    Keys::new(shared.into_iter().chain([Key::Own(OWN[0])]).collect())
}

/// Of sums.
#[rustfmt::skip] // one line per column
pub(in super::super) fn sum_columns(keys: &Keys) -> Vec<Column<Line>> {
    let caused = keys.has(OWN[0]);
    let mut columns = keys.columns(|_| columns! { |row, l: Line|
        "kind"         JSON                         => l.kind();
        "proto"        ALL    "PROTO"  (6, 8)       => kernel_name(&l.sample.proto_name);
        "cause"        ALL    "WHY"    (8, 8)       => l.cause().map(Cause::name);
        "direction"    DETAIL "DIR"    (4, 4)       => l.kind().map(|_| if l.sample.sending == 0 { "recv" } else { "send" });
    });
    if *keys == usual() {
        // All of it fits 80 columns.
        for column in &mut columns {
            match column.key {
                "netns" => column.shown = Shown::DETAIL,
                "comm" => column.width.0 = 10,
                _ => {}
            }
        }
    }
    if keys.bits() & bits::LPORT == 0 {
        columns.extend(columns! { |row, l: Line| "lport" ALL "LPORT" (5, 5) => l.lport; });
    }
    if caused {
        columns.extend(columns! { |row, l: Line| "limit_bytes" DETAIL "LIMIT" (6, 7).right => bytes(l.cause().and_then(|_| limit(&l.sample))); });
    }
    columns.extend(columns! { |row, l: Line| "count" ALL "COUNT" (8, 8).right => l.count; });
    if caused {
        columns.extend(columns! { |row, l: Line| "tune" ALL "TUNE" (29, 29) => l.cause().and_then(|_| tune(&l.sample)); });
    }
    columns
}

/// Of counters. What sums have too has the same key.
#[rustfmt::skip] // one line per column
pub(in super::super) fn counter_columns() -> Vec<Column<Line>> {
    columns! { |row, l: Line|
        "netns"          JSON                        => unless(row.head.netns, 0);
        "netns_name"     JSON                        => Value::Whose(Whose::Netns(row.head.netns));
        ""               TEXT "NETNS"   (12, 24)     => netns(row);
        "name"           ALL  "COUNTER" (26, 32)     => l.counter.as_ref().map(|c| &*c.name);
        ""               TEXT "COUNT"   (8, 10).right => l.counter.as_ref().map(|c| &*c.text);
        "count"          JSON                        => l.count;
        "count_at_least" JSON                        => l.counter.as_ref().map(|c| c.at_least);
        "explained"      ALL  "IN_ROWS" (8, 10).right => l.counter.as_ref().and_then(|c| c.explained);
        "see"            ALL  "SEE"     (21, 29)     => l.counter.as_ref().and_then(|c| c.see);
    }
}

impl Line {
    /// Which overflows; `None` for a counter.
    fn kind(&self) -> Option<&'static str> {
        let sum = self.counter.is_none();
        sum.then(|| event_name(&EVENTS, self.sample.head.event))
    }

    /// Why, if that is known.
    fn cause(&self) -> Option<Cause> {
        let known = self.sample.head.known & KNOWN_CAUSE != 0;
        known.then(|| Cause::of(&self.sample)).flatten()
    }
}

/// Those of both kinds, each key once: for CSV. Of the columns of sums the user may have chosen some.
fn all_columns(keys: &Keys, choice: Option<&Choice>) -> Result<Vec<Column<Line>>, Usage> {
    let mut all = sum_columns(keys);
    match choice {
        Some(choice) => all = choice.of(all, Shown::JSON)?,
        None => all.retain(|column| column.shown.has(Shown::JSON)),
    }
    for column in &mut all {
        column.shown = Shown::JSON;
    }
    for column in counter_columns() {
        if column.shown.has(Shown::JSON) && all.iter().all(|before| before.key != column.key) {
            all.push(column);
        }
    }
    Ok(all)
}

/// What `--describe-columns` says of them.
pub(in super::super) fn kinds() -> Vec<Kind> {
    let own = OWN.iter().map(|name| Keys::new(vec![Key::Own(name)]));
    let sums = [usual()].into_iter().chain(own).chain(Keys::each());
    let sums = sums.map(|keys| Kind::sums_by("count", &sum_columns(&keys)));
    sums.chain([Kind::sums("counter", &counter_columns())])
        .collect()
}

/// Writes them.
pub(super) struct Lines {
    format: Format,
    sums: Rows<Line>,
    counters: Rows<Line>,
}

impl Lines {
    /// `again`: there will be more than one table, each with its time.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(mut style: Style, keys: &Keys, again: bool) -> Result<Self, Usage> {
        let format = style.format;
        style.time |= again && format == Format::Table;
        // Counters have an order and columns of their own.
        let of_counters = Style {
            columns: None,
            sort: None,
            ..style.clone()
        };
        let (sums, counters) = match format {
            Format::Csv => {
                let choice = style.columns.take();
                let all = || all_columns(keys, choice.as_ref());
                (all()?, all()?)
            }
            _ => (sum_columns(keys), counter_columns()),
        };
        let sums = Rows::sums("sockbuf", style, sums)?.by(&keys.name());
        let counters = Rows::sums("sockbuf", of_counters, counters)?;
        Ok(Self {
            format,
            sums,
            // The cell is there in CSV.
            counters: match format {
                Format::Csv => counters.by(""),
                _ => counters,
            },
        })
    }

    /// Sorts sums, if the user chose an order.
    pub(super) fn sort(&self, sums: &mut [(head, Line)]) {
        self.sums.sort(sums, |(head, body)| Row { head, body });
    }

    /// The first period begins now; returns when that is, in nanoseconds since boot.
    pub(super) fn begin(&mut self) -> u64 {
        self.counters.next_period();
        self.sums.next_period().boot_ns
    }

    /// The header of CSV. Those of tables come with their rows.
    pub(super) fn header(&mut self, out: &mut Vec<u8>) {
        if self.format == Format::Csv {
            self.sums.header(out);
        }
    }

    /// Writes those of the period that ended at `boot_ns`.
    pub(super) fn print(
        &mut self,
        boot_ns: u64,
        sums: Vec<(head, Line)>,
        counters: Vec<Line>,
        out: &mut Printer,
    ) {
        let of_netns = |line: Line| {
            let head = head {
                boot_ns,
                ..*line.sample.head()
            };
            (head, line)
        };
        let counters: Vec<_> = counters.into_iter().map(of_netns).collect();
        for (rows, event, lines) in [
            (&mut self.sums, "count", sums),
            (&mut self.counters, "counter", counters),
        ] {
            rows.end_period(boot_ns);
            if self.format == Format::Table && !lines.is_empty() {
                out.heading(|buf| rows.header(buf));
            }
            for (head, body) in &lines {
                out.row(|buf| rows.row(buf, event, &Row { head, body }));
            }
        }
    }

    pub(super) fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.sums.summary(out, fields);
    }
}

/// Lines for the golden rows: of a sum of each of these heads, or of counters.
#[cfg(any(test, fuzzing))]
pub(in super::super) fn example(counters: bool) -> Vec<(head, Line)> {
    let heads = crate::output::golden::heads();
    let line = |(n, head): (usize, head)| {
        let line = match counters {
            false => {
                let mut sample = overflow::default().with_head(&head);
                sample.rcvbuf = 4096;
                sample.proto_name[..3].copy_from_slice(b"UDP");
                Line::of_sum(Total {
                    sample,
                    lport: Some(514).filter(|_| n == 1),
                    count: 10 * n as u64 + 1,
                })
            }
            true => {
                let name = [
                    "softnet_dropped",
                    "UdpRcvbufErrors",
                    "TcpExtTCPReqQFullDoCookies",
                ][n];
                let change = Change {
                    netns: head.netns,
                    name: name.into(),
                    count: 1000 * n as u64 + 7,
                    at_least: n == 2,
                };
                Line::of_counter(&change, [Some(0), Some(1000), None][n])
            }
        };
        (head, line)
    };
    heads.into_iter().enumerate().map(line).collect()
}
