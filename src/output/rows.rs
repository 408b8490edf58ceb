// SPDX-License-Identifier: MIT OR Apache-2.0
//! From records to lines of output.

use std::io::Write;

use super::column::{leading_columns, wide_columns};
use super::digits::append;
use super::line::{Cell, cut};
use super::placed::{Placed, Placeds};
use super::stamp::{Figures, Period, Stamp};
use super::terminal::Screen;
use super::{Column, Format, Row, Style};
use crate::error::Usage;
use crate::output::choice::sort::Order;
use crate::output::value::Value;

/// Formats records. Allocates nothing per row.
pub struct Rows<E> {
    style: Style,
    columns: Vec<Placed<E>>,
    order: Order<E>,
    stamp: Stamp,
    screen: Screen,
}

impl<E> Rows<E> {
    /// `columns` are the tool's own; those of every tool are added where the format has them. What the user chose of
    /// them is in `style`.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub fn new(tool: &'static str, style: Style, columns: Vec<Column<E>>) -> Result<Self, Usage> {
        let mut all = columns;
        let leading = leading_columns(&mut all);
        // Formats for logs have the columns of JSON.
        let json = style.format != Format::Table;
        let at = if json { 0 } else { all.len() };
        all.splice(at..at, leading);
        // JSON has all of its parts.
        let at = if json { all.len() } else { at };
        all.splice(at..at, wide_columns());
        Self::of(tool, style, all)
    }

    /// For sums over many sockets: with the head of a sum ([`Stamp::of_sums`]) instead of the shared columns, which
    /// describe one.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub fn sums(tool: &'static str, style: Style, columns: Vec<Column<E>>) -> Result<Self, Usage> {
        let stamp = Stamp::of_sums(tool, &style);
        let rows = Self::of(tool, style, columns)?;
        Ok(Self { stamp, ..rows })
    }

    fn of(tool: &'static str, style: Style, mut all: Vec<Column<E>>) -> Result<Self, Usage> {
        let order = style.sort.as_ref().map(|sort| Order::new(sort, &all));
        let order = order.transpose()?.unwrap_or_default();
        let layout = style.layout();
        match &style.columns {
            Some(choice) => all = choice.of(all, layout)?,
            None => all.retain(|c| c.shown.has(layout)),
        }
        // A stack has lines of its own.
        all.sort_by_key(|c| c.key.is_empty() && c.width == (0, 0) && c.heading.is_empty());
        let titles: Vec<_> = all.iter().map(Column::title).collect();
        let screen = Screen::new(&style, &titles);
        let place = |column| Placed::new(column, &style);
        Ok(Self {
            columns: all.into_iter().map(place).collect(),
            order,
            stamp: Stamp::new(tool, &style),
            screen,
            style,
        })
    }

    /// Says in JSON and CSV what sums are made by.
    pub fn by(mut self, keys: &str) -> Self {
        self.stamp.by(keys);
        self
    }

    /// Sorts what rows are made of, if the user chose an order.
    pub fn sort<T>(&self, all: &mut [T], row: impl for<'t> Fn(&'t T) -> Row<'t, E>) {
        self.order.sort(all, row);
    }

    /// See [`Stamp::next_period`].
    pub fn next_period(&mut self) -> Period {
        self.stamp.next_period()
    }

    /// See [`Stamp::end_period`].
    pub fn end_period(&mut self, boot_ns: u64) {
        self.stamp.end_period(boot_ns);
    }

    /// Times are of records made elsewhere: this one, since that boot, was at this time since 1970.
    pub fn fix_clock(&mut self, boot_ns: u64, unix_ns: i64) {
        self.stamp.fix_clock(boot_ns, unix_ns);
    }

    /// Follows steps of the wall clock; call it from time to time.
    pub fn refresh_clock(&mut self) {
        self.stamp.refresh_clock();
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        match self.style.format {
            _ if !self.style.header => {}
            Format::Json | Format::Journal | Format::Otlp => {}
            Format::Csv => {
                self.stamp.csv_header(out);
                for Placed { column, .. } in &self.columns {
                    let _ = write!(out, ",{}", column.key);
                }
                out.push(b'\n');
            }
            Format::Table => self.titles(out),
        }
    }

    fn titles(&mut self, out: &mut Vec<u8>) {
        let begin = out.len();
        let mut line = self.screen.header();
        if self.style.time {
            line.cell(out, "TIME", 8, false);
        }
        if self.style.timestamp {
            line.cell(out, "TIME(s)", 9, false);
        }
        for Placed { column, width, .. } in &self.columns {
            line.cell(out, column.title(), *width, column.right);
        }
        out.push(b'\n');
        self.screen.shown(out, begin);
    }

    /// One row. `event` is its kind in JSON and CSV.
    pub fn row(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        match self.style.format {
            Format::Json => self.json(out, event, row),
            Format::Csv => self.csv(out, event, row),
            Format::Table => self.text(out, row),
            Format::Journal | Format::Otlp => self.log(out, event, row),
        }
    }

    fn log(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        let start = self.stamp.begin(out, event, row.head.boot_ns);
        if let Some(logs) = self.stamp.logs() {
            for Placed { column, key, .. } in &self.columns {
                logs.value(out, key, column.key, &column.value(row));
            }
        }
        let columns = &self.columns;
        self.stamp.end(out, start, event, &Placeds { columns, row });
    }

    fn text(&mut self, out: &mut Vec<u8>, row: &Row<'_, E>) {
        if self.style.header && self.screen.is_over() {
            self.titles(out);
        }
        let begin = out.len();
        let mut line = self.screen.row();
        if self.style.time {
            line.cell(out, self.stamp.local_time(row.head.boot_ns), 8, false);
        }
        if self.style.timestamp {
            let elapsed = format!("{:.6}", self.stamp.elapsed(row.head.boot_ns));
            line.cell(out, &elapsed, 9, false);
        }
        for Placed { column, width, .. } in &self.columns {
            let value = column.value(row);
            let cell = Cell {
                columns: *width,
                right: column.right,
                ascii: value.is_ascii(),
                address: matches!(value, Value::Addr(_) | Value::Endpoint(..)),
            };
            let place = line.cell_of(out, cell, |out| {
                let start = out.len();
                value.table(out);
                if matches!(value, Value::Comm(_) | Value::Process(..)) && !self.style.wide {
                    cut(out, start, *width);
                }
            });
            self.screen.cell(place);
        }
        out.push(b'\n');
        self.screen.shown(out, begin);
    }

    fn json(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        self.stamp.json(out, event, row.head.boot_ns);
        for Placed { column, key, .. } in &self.columns {
            key.add(out);
            column.value(row).json(out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn csv(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        self.stamp.csv(out, event, row.head.boot_ns);
        for Placed { column, .. } in &self.columns {
            append::all(out, b",");
            column.value(row).csv(out);
        }
        out.push(b'\n');
    }

    /// The last record of a run, in JSON or for logs: `fields` are its numbers.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        if self.style.format == Format::Json || self.style.format.is_logs() {
            self.stamp.summary(out, fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::types::{PID_SOURCES, head};
    use crate::output::Shown;
    use crate::output::column::{comm, pid};

    fn columns() -> Vec<Column<u64>> {
        vec![
            Column::new("pid", "PID", (5, 7), pid).shown(Shown::NARROW),
            Column::new("comm", "COMM", (4, 16), comm).shown(Shown::NARROW),
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
        let mut rows = Rows::new("tool", style, columns()).unwrap();
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
        head.owner.source = PID_SOURCES.iter().position(|s| *s == Some("scan")).unwrap() as u8;
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
    fn table_aligns_and_truncates_names_only() {
        let expected = "PID   COMM TX_KB\n-     -    2.000\n12    a…   10.00\n";
        assert_eq!(rows(Format::Table, false), expected);
    }

    #[test]
    fn relative_time_starts_at_first_row() {
        let table = rows(Format::Table, true);
        let times: Vec<_> = table
            .lines()
            .map(|l| l.split(' ').next().unwrap())
            .collect();
        assert_eq!(times, ["TIME(s)", "0.000000", "1.500000"]);
    }

    /// CSV is JSON's fields in JSON's order; each of its values is JSON's, or empty for null.
    #[test]
    fn csv_matches_json() {
        for timestamp in [false, true] {
            let (csv, json) = (rows(Format::Csv, timestamp), rows(Format::Json, timestamp));
            let (header, lines) = csv.split_once('\n').unwrap();
            assert!(header.starts_with("tool,event,ts,") && header.ends_with(",tx_bytes"));
            assert_eq!(lines.lines().count(), 2);
            for (line, json) in lines.lines().zip(json.lines()) {
                let json: serde_json::Value = serde_json::from_str(json).unwrap();
                assert_eq!(header.split(',').count(), json.as_object().unwrap().len());
                for (key, cell) in header.split(',').zip(line.split(',')).skip(3) {
                    let value = match &json[key] {
                        serde_json::Value::Null => String::new(),
                        serde_json::Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    let equal = cell == value || cell.parse::<f64>().ok() == json[key].as_f64();
                    assert!(equal, "{key}: {cell} is {value} in JSON");
                }
            }
        }
    }

    #[test]
    fn json_has_common_and_own_fields() {
        let text = rows(Format::Json, false);
        let row: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(row["tool"], "tool");
        assert_eq!(row["comm"], r"a\x2clong");
        assert_eq!(row["pid_source"], "scan");
        assert_eq!(row["tx_bytes"], 10_240);
        assert!(row["ts"].as_str().unwrap().ends_with('Z'));
    }
}
