// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: one column table per tool gives the table, JSON Lines and CSV.

use std::io::Write;

use crate::choice::Choice;
use crate::clock::Clock;
use crate::types::{Record, head};
use crate::value::Value;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON Lines: one object per row, documented in docs/json.md.
    Json,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
}

/// In which layouts a column appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(u8);

impl Shown {
    /// The table of 80 columns.
    pub const NARROW: Self = Self(1);
    /// The wide table, and CSV with `--wide`.
    pub const WIDE: Self = Self(2);
    /// CSV.
    pub const CSV: Self = Self(4);
    /// JSON Lines.
    pub const JSON: Self = Self(8);
    /// Every layout.
    pub const ALL: Self = Self(15);
    /// Where people read it: everything but JSON.
    pub const TEXT: Self = Self(7);
    /// Everything but the 80-column table.
    pub const DETAIL: Self = Self(14);

    /// In either of the two.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have a layout in common.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A record as a row sees it: the shared head and the tool's own part.
pub struct Row<'a, E> {
    /// The shared part.
    pub head: &'a head,
    /// The whole record.
    pub body: &'a E,
}

impl<'a, E: Record> From<&'a E> for Row<'a, E> {
    fn from(body: &'a E) -> Self {
        let head = body.head();
        Self { head, body }
    }
}

/// One column of a tool.
pub struct Column<E> {
    /// JSON key: snake_case, with its unit.
    pub key: &'static str,
    /// Heading in the table and in CSV.
    pub heading: &'static str,
    /// Width in the narrow and in the wide table.
    pub width: (usize, usize),
    /// Aligned to the right.
    pub right: bool,
    /// Where it appears.
    pub shown: Shown,
    /// Takes the value from a record.
    pub get: for<'a> fn(&Row<'a, E>) -> Value<'a>,
}

impl<E> Column<E> {
    /// A left-aligned column that every layout shows.
    pub const fn new(
        key: &'static str,
        heading: &'static str,
        width: (usize, usize),
        get: for<'a> fn(&Row<'a, E>) -> Value<'a>,
    ) -> Self {
        Self {
            key,
            heading,
            width,
            right: false,
            shown: Shown::ALL,
            get,
        }
    }

    /// The heading; the key where the column was made for JSON only.
    pub const fn title(&self) -> &'static str {
        if self.heading.is_empty() {
            self.key
        } else {
            self.heading
        }
    }

    /// Aligned to the right, as numbers are.
    pub const fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// Shown in these layouts only.
    pub const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }
}

/// The columns that begin every JSON record; the table and CSV get theirs from the tool, in its peers' order.
pub fn common_columns<E>() -> Vec<Column<E>> {
    let json = |key, get| Column::new(key, "", (0, 0), get).shown(Shown::JSON);
    vec![
        json("boot_ns", |r| Value::Int(r.head.boot_ns)),
        json("netns", |r| match r.head.netns {
            0 => Value::Unknown, // no namespace has it
            netns => Value::Int(netns.into()),
        }),
        json("cookie", cookie),
        json("family", family),
        json("laddr", laddr),
        json("lport", lport),
        json("raddr", raddr),
        json("rport", rport),
        json("pid", pid),
        json("comm", comm),
        json("uid", uid),
        json("pid_source", pid_source),
    ]
}

/// An address or port, for a column: unknown for a socket that has none, as of AF_PACKET.
pub fn of_flow<'a, E>(row: &Row<'_, E>, value: Value<'a>) -> Value<'a> {
    match row.head.flow.family {
        0 => Value::Unknown,
        _ => value,
    }
}

/// The socket's cookie, for a column: unknown where there is no socket, or the kernel does not tell.
pub fn cookie<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.cookie {
        0 => Value::Unknown,
        cookie => Value::Int(cookie),
    }
}

/// The socket's user, for a column.
pub fn uid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.uid {
        u32::MAX => Value::Unknown, // no user has it
        uid => Value::Int(uid.into()),
    }
}

/// The owner's process id, for a column.
pub fn pid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head
        .pid()
        .map_or(Value::Unknown, |pid| Value::Int(pid.into()))
}

/// 4 or 6, for a column.
pub fn family<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Int(row.head.flow.family.into()))
}

/// The local address, for a column.
pub fn laddr<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Addr(row.head.flow.local()))
}

/// The local port, for a column.
pub fn lport<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.flow.lport {
        0 => of_flow(row, Value::Int(0)),
        // All that the record of a tracepoint may tell.
        port => Value::Int(port.into()),
    }
}

/// The remote address, for a column.
pub fn raddr<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Addr(row.head.flow.remote()))
}

/// The remote port, for a column.
pub fn rport<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Int(row.head.flow.rport.into()))
}

/// How the owner is known, for a column.
pub fn pid_source<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.pid_source().map_or(Value::Unknown, Value::Text)
}

/// The owner's name, for a column.
pub fn comm<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.comm().map_or(Value::Unknown, Value::Comm)
}

/// What the user chose about the output.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Table, JSON or CSV.
    pub format: Format,
    /// More and wider columns.
    pub wide: bool,
    /// A column with the time of day.
    pub time: bool,
    /// A column with the seconds since the first row.
    pub timestamp: bool,
    /// Whether a header line comes first.
    pub header: bool,
}

impl Style {
    fn layout(&self) -> Shown {
        match (self.format, self.wide) {
            (Format::Json, _) => Shown::JSON,
            (Format::Csv, false) => Shown::CSV,
            (Format::Csv, true) => Shown::CSV.or(Shown::WIDE),
            (Format::Table, false) => Shown::NARROW,
            (Format::Table, true) => Shown::WIDE,
        }
    }
}

/// The numbers of a run by their keys in JSON; `None`: not known.
pub type Figures = [(&'static str, Option<u64>)];

/// Turns records into bytes. Holds what a row needs and nothing per row is allocated.
pub struct Rows<E> {
    tool: &'static str,
    style: Style,
    columns: Vec<Column<E>>,
    clock: Clock,
    /// Boot time of the first row, for relative timestamps.
    first_ns: Option<u64>,
    cell: Vec<u8>,
}

impl<E> Rows<E> {
    /// `columns` are the tool's own; those of every tool are added where the format has them.
    pub fn new(tool: &'static str, style: Style, columns: Vec<Column<E>>) -> Self {
        let mut all = Vec::new();
        if style.format == Format::Json {
            all = common_columns();
        }
        all.extend(columns);
        Self::aggregate(tool, style, all)
    }

    /// For rows that speak of many sockets: without the columns of every tool, which name one.
    pub fn aggregate(tool: &'static str, style: Style, mut columns: Vec<Column<E>>) -> Self {
        let layout = style.layout();
        columns.retain(|c| c.shown.has(layout));
        Self {
            tool,
            style,
            columns,
            clock: Clock::default(),
            first_ns: None,
            cell: Vec::new(),
        }
    }

    /// As `new`, with the columns that the user named instead of the format's own.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn chosen(
        tool: &'static str,
        style: Style,
        columns: Vec<Column<E>>,
        choice: Option<&Choice>,
    ) -> anyhow::Result<Self> {
        let Some(choice) = choice else {
            return Ok(Self::new(tool, style, columns));
        };
        let columns = choice.of(columns, style.layout(), style.format == Format::Json)?;
        let mut rows = Self::new(tool, style, Vec::new());
        rows.columns = columns;
        Ok(rows)
    }

    /// Follows steps of the wall clock; call it now and then.
    pub fn refresh_clock(&mut self) {
        self.clock.refresh();
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        if !self.style.header || self.style.format == Format::Json {
            return;
        }
        let csv = self.style.format == Format::Csv;
        let mut line = Line::new(csv);
        if self.style.time {
            line.cell(out, b"TIME", 8, false);
        }
        if self.style.timestamp {
            line.cell(out, b"TIME(s)", 9, false);
        }
        for column in &self.columns {
            let width = self.width(column);
            line.cell(out, column.title().as_bytes(), width, column.right);
        }
        line.end(out);
    }

    /// One row. `event` is its kind in JSON.
    pub fn row(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        match self.style.format {
            Format::Json => self.json(out, event, row),
            Format::Csv | Format::Table => self.text(out, row),
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, row: &Row<'_, E>) {
        let csv = self.style.format == Format::Csv;
        let mut line = Line::new(csv);
        if self.style.time {
            let time = self.clock.local_time(row.head.boot_ns);
            line.cell(out, time.as_bytes(), 8, false);
        }
        if self.style.timestamp {
            let first = *self.first_ns.get_or_insert(row.head.boot_ns);
            let since = row.head.boot_ns.saturating_sub(first);
            self.cell.clear();
            let _ = write!(self.cell, "{:.6}", since as f64 / 1e9);
            line.cell(out, &self.cell, 9, false);
        }
        for column in &self.columns {
            let value = (column.get)(row);
            self.cell.clear();
            if csv {
                value.csv(&mut self.cell);
            } else {
                value.table(&mut self.cell);
            }
            let width = self.width(column);
            if !csv && matches!(value, Value::Comm(_)) {
                truncate(&mut self.cell, width);
            }
            line.cell(out, &self.cell, width, column.right);
        }
        line.end(out);
    }

    fn json(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        let (second, ns) = self.clock.rfc3339(row.head.boot_ns);
        let tool = self.tool;
        let _ = write!(
            out,
            r#"{{"tool":"{tool}","event":"{event}","ts":"{second}.{ns:09}Z""#
        );
        for column in &self.columns {
            let _ = write!(out, r#","{}":"#, column.key);
            (column.get)(row).json(out);
        }
        out.extend_from_slice(b"}\n");
    }

    /// The last record of a JSON run: `fields` are its numbers.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        if self.style.format != Format::Json {
            return;
        }
        let now = crate::clock::boot_ns();
        let (second, ns) = self.clock.rfc3339(now);
        let tool = self.tool;
        let _ = write!(
            out,
            r#"{{"tool":"{tool}","event":"summary","ts":"{second}.{ns:09}Z","boot_ns":{now}"#
        );
        for (key, value) in fields {
            let _ = write!(out, r#","{key}":"#);
            let _ = match value {
                Some(value) => write!(out, "{value}"),
                None => write!(out, "null"),
            };
        }
        out.extend_from_slice(b"}\n");
    }

    fn width(&self, column: &Column<E>) -> usize {
        let (narrow, wide) = column.width;
        let width = if self.style.wide { wide } else { narrow };
        width.max(column.title().len())
    }
}

/// A name is cut to its column, as bcc does; an address or a number never is.
fn truncate(cell: &mut Vec<u8>, width: usize) {
    if let Ok(text) = std::str::from_utf8(cell)
        && let Some((end, _)) = text.char_indices().nth(width)
    {
        cell.truncate(end);
    }
}

/// Puts cells side by side. The padding of a cell is written before the next one, so no line ends in blanks.
struct Line {
    csv: bool,
    first: bool,
    pad: usize,
}

impl Line {
    fn new(csv: bool) -> Self {
        Self {
            csv,
            first: true,
            pad: 0,
        }
    }

    fn cell(&mut self, out: &mut Vec<u8>, cell: &[u8], width: usize, right: bool) {
        if !self.first {
            out.push(if self.csv { b',' } else { b' ' });
        }
        self.first = false;
        if self.csv {
            out.extend_from_slice(cell);
            return;
        }
        // The separator was pushed first so that CSV and table share it; the padding belongs before it.
        out.resize(out.len() + self.pad, b' ');
        let chars = cell.iter().filter(|&&b| b & 0xc0 != 0x80).count();
        let pad = width.saturating_sub(chars);
        if right {
            out.resize(out.len() + pad, b' ');
            self.pad = 0;
        } else {
            self.pad = pad;
        }
        out.extend_from_slice(cell);
    }

    fn end(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PID_SOURCES;

    fn columns() -> Vec<Column<u64>> {
        vec![
            Column::new("pid", "PID", (5, 7), pid).shown(Shown::NARROW.or(Shown::CSV)),
            Column::new("comm", "COMM", (4, 16), comm).shown(Shown::NARROW.or(Shown::CSV)),
            Column::new("tx_bytes", "TX_KB", (5, 6), |r| Value::Bytes(*r.body)).right(),
        ]
    }

    fn rows(format: Format, timestamp: bool) -> String {
        let style = Style {
            format,
            timestamp,
            header: true,
            ..Style::default()
        };
        let mut rows = Rows::new("tool", style, columns());
        let mut head = head {
            boot_ns: 5_000_000_000,
            ..head::default()
        };
        let mut out = vec![];
        rows.header(&mut out);
        rows.row(
            &mut out,
            "row",
            &Row {
                head: &head,
                body: &2048,
            },
        );
        head.owner.source = PID_SOURCES.iter().position(|s| *s == Some("seed")).unwrap() as u8;
        head.owner.pid = 12;
        head.owner.comm[..6].copy_from_slice(b"a,long");
        head.boot_ns += 1_500_000_000;
        rows.row(
            &mut out,
            "row",
            &Row {
                head: &head,
                body: &10_240,
            },
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_aligns_and_cuts_names_only() {
        let expected = "PID   COMM TX_KB\n-     -    2.000\n12    a,lo 10.00\n";
        assert_eq!(rows(Format::Table, false), expected);
    }

    #[test]
    fn relative_time_begins_with_the_first_row() {
        let table = rows(Format::Table, true);
        let times: Vec<_> = table
            .lines()
            .map(|l| l.split(' ').next().unwrap())
            .collect();
        assert_eq!(times, ["TIME(s)", "0.000000", "1.500000"]);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            rows(Format::Csv, false),
            "PID,COMM,TX_KB\n,,2.00\n12,\"a,long\",10.00\n"
        );
    }

    #[test]
    fn json_has_the_common_fields_and_the_tools_own() {
        let text = rows(Format::Json, false);
        let row: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(row["tool"], "tool");
        assert_eq!(row["comm"], "a,long");
        assert_eq!(row["pid_source"], "seed");
        assert_eq!(row["tx_bytes"], 10_240);
        assert!(row["ts"].as_str().unwrap().ends_with('Z'));
    }
}
