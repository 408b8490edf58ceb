// SPDX-License-Identifier: MIT OR Apache-2.0
//! From records to lines of output.

use std::io::Write;

use super::line::{Line, cut};
use super::stamp::Stamp;
use super::{Column, Format, Row, Style, common_columns};
use crate::choice::Choice;
use crate::value::Value;

/// The numbers of a run by their keys in JSON; `None`: not known.
pub type Figures = [(&'static str, Option<u64>)];

/// Turns records into bytes. Holds what a row needs and nothing per row is allocated.
pub struct Rows<E> {
    style: Style,
    columns: Vec<Column<E>>,
    stamp: Stamp,
    cell: Vec<u8>,
}

impl<E> Rows<E> {
    /// `columns` are the tool's own; those of every tool are added where the format has them.
    pub fn new(tool: &'static str, style: Style, columns: Vec<Column<E>>) -> Self {
        let mut all = Vec::new();
        if style.format != Format::Table {
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
            stamp: Stamp::new(tool, &style),
            style,
            columns,
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
        let columns = choice.of(columns, style.layout(), style.format != Format::Table)?;
        let mut rows = Self::new(tool, style, Vec::new());
        rows.columns = columns;
        Ok(rows)
    }

    /// Follows steps of the wall clock; call it now and then.
    pub fn refresh_clock(&mut self) {
        self.stamp.refresh_clock();
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        match self.style.format {
            _ if !self.style.header => {}
            Format::Json => {}
            Format::Csv => {
                self.stamp.csv_header(out);
                for column in &self.columns {
                    let _ = write!(out, ",{}", column.key);
                }
                out.push(b'\n');
            }
            Format::Table => self.titles(out),
        }
    }

    fn titles(&self, out: &mut Vec<u8>) {
        let mut line = Line::default();
        if self.style.time {
            line.cell(out, "TIME", 8, false);
        }
        if self.style.timestamp {
            line.cell(out, "TIME(s)", 9, false);
        }
        for column in &self.columns {
            line.cell(out, column.title(), self.width(column), column.right);
        }
        out.push(b'\n');
    }

    /// One row. `event` is its kind in JSON and CSV.
    pub fn row(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        match self.style.format {
            Format::Json => self.json(out, event, row),
            Format::Csv => self.csv(out, event, row),
            Format::Table => self.text(out, row),
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, row: &Row<'_, E>) {
        let mut line = Line::default();
        if self.style.time {
            line.cell(out, self.stamp.local_time(row.head.boot_ns), 8, false);
        }
        if self.style.timestamp {
            let elapsed = format!("{:.6}", self.stamp.elapsed(row.head.boot_ns));
            line.cell(out, &elapsed, 9, false);
        }
        for column in &self.columns {
            let value = (column.get)(row);
            self.cell.clear();
            value.table(&mut self.cell);
            let cell = std::str::from_utf8(&self.cell).unwrap_or_default();
            let width = self.width(column);
            match value {
                Value::Comm(_) if !self.style.wide => {
                    line.cell(out, &cut(cell, width), width, column.right);
                }
                _ => line.cell(out, cell, width, column.right),
            }
        }
        out.push(b'\n');
    }

    fn json(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        self.stamp.json(out, event, row.head.boot_ns);
        for column in &self.columns {
            let _ = write!(out, r#","{}":"#, column.key);
            (column.get)(row).json(out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn csv(&mut self, out: &mut Vec<u8>, event: &str, row: &Row<'_, E>) {
        self.stamp.csv(out, event, row.head.boot_ns);
        for column in &self.columns {
            out.push(b',');
            (column.get)(row).csv(out);
        }
        out.push(b'\n');
    }

    /// The last record of a JSON run: `fields` are its numbers.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        if self.style.format != Format::Json {
            return;
        }
        let now = crate::clock::boot_ns();
        self.stamp.json_only_ts(out, "summary", now);
        let _ = write!(out, r#","boot_ns":{now}"#);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Shown, comm, pid};
    use crate::types::{PID_SOURCES, head};

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
        let expected = "PID   COMM TX_KB\n-     -    2.000\n12    a…   10.00\n";
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

    /// CSV is JSON's fields in JSON's order; each of its values is JSON's, or empty for null.
    #[test]
    fn csv_is_json_in_cells() {
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
    fn json_has_the_common_fields_and_the_tools_own() {
        let text = rows(Format::Json, false);
        let row: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(row["tool"], "tool");
        assert_eq!(row["comm"], r"a\x2clong");
        assert_eq!(row["pid_source"], "seed");
        assert_eq!(row["tx_bytes"], 10_240);
        assert!(row["ts"].as_str().unwrap().ends_with('Z'));
    }
}
