// SPDX-License-Identifier: MIT OR Apache-2.0
//! A row says the same as JSON, as CSV and in a table: random records of every kind of rows.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::commands::{TOOLS, kinds};
use super::{records::record, written};
use crate::abi::known::KNOWN_ALL;
use crate::abi::noise;
use crate::abi::types::{Record, head};
use crate::output::choice::Choice;
use crate::output::golden::Kinds;
use crate::output::logs::Logs;
use crate::output::{Column, Format, Row, Rows, Style, escape};

/// A test for each command, so that each says what is wrong with its rows.
macro_rules! formats_say_the_same {
    ($($tool:ident)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(#[test]
            fn $tool(seed: u64) {
                let tool = stringify!($tool);
                kinds(tool, Alike { tool, seed });
            })*
        }

        #[test]
        fn each_command_is_compared() {
            assert_eq!(TOOLS, [$(stringify!($tool)),*]);
        }
    };
}

formats_say_the_same! {
    sockbuf tcpaccept tcpcong tcpconnect tcpdrop tcpinfo tcplat tcplife tcpprobe tcprcvspace tcpreset tcpretrans tcpstates
    tcptop
}

/// Compares the formats of rows.
struct Alike {
    tool: &'static str,
    seed: u64,
}

/// Whole words of any kind: small and large ones, none, and the largest, which often stands for an unknown one.
fn bytes(number: &mut impl FnMut() -> u64, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let word = match number() % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => number() % 100,
            3 => number() >> 32,
            4 => ((number() % 100_000) << 32) | (number() % 5000),
            _ => number(),
        };
        all.extend(word.to_ne_bytes());
    }
    all.truncate(len);
    all
}

/// One that programs can have written.
fn possible(mut head: head, number: &mut impl FnMut() -> u64) -> head {
    head.boot_ns %= 1 << 60;
    head.flow.family = if number().is_multiple_of(2) { 4 } else { 6 };
    head.owner.source %= 4;
    head.event %= 8;
    if !number().is_multiple_of(4) {
        head.known = KNOWN_ALL;
    }
    head
}

impl Alike {
    /// Each of some random records, in every format.
    fn compare<E: Record>(
        self,
        event: &'static str,
        mend: impl Fn(&mut E),
        rows: impl Fn(Style) -> Rows<E>,
    ) -> Self {
        let mut number = noise::numbers(self.seed ^ size_of::<E>() as u64);
        for _ in 0..4 {
            let mut body: E = record(&bytes(&mut number, size_of::<E>()));
            mend(&mut body);
            let body = body.with_head(&possible(*body.head(), &mut number));
            self.alike(event, &Row::from(&body), &rows);
        }
        self
    }

    fn alike<E>(&self, event: &'static str, row: &Row<'_, E>, rows: &impl Fn(Style) -> Rows<E>) {
        let print = |format, columns: Option<Choice>| {
            let style = Style {
                format,
                columns,
                wide: true,
                header: true,
                ..Style::default()
            };
            let (mut rows, mut out) = (rows(style), Vec::new());
            rows.header(&mut out);
            rows.row(&mut out, event, row);
            written::check(&out, format);
            out
        };
        let text = |format, columns| String::from_utf8(print(format, columns)).expect("UTF-8");
        let json = text(Format::Json, None);
        let json = written::object(json.trim_end());
        let csv = text(Format::Csv, None);
        self.csv(&csv, &json);
        self.otlp(&text(Format::Otlp, None), &json);
        self.journal(&print(Format::Journal, None), &json);
        let mut different = Vec::new();
        for (key, value) in json
            .iter()
            .filter(|(key, _)| !STAMP.contains(&key.as_str()))
        {
            let column = Choice::Only(vec![key.clone()]);
            let table = text(Format::Table, Some(column));
            let (_, cell) = table.split_once('\n').expect("a header");
            let cell = cell.trim();
            if !in_table(key, cell, value) {
                different.push(format!("{key} is {value}, and '{cell}' in a table"));
            }
        }
        assert!(different.is_empty(), "{} {event}: {different:?}", self.tool);
    }

    /// As many attributes as JSON has values, and one that says what it is of.
    fn otlp(&self, line: &str, json: &Map<String, Value>) {
        let attributes = written::attributes(line.trim_end());
        for (key, value) in json
            .iter()
            .filter(|(key, _)| !NOT_LOGGED.contains(&key.as_str()))
        {
            let name = Logs::before(Format::Otlp, key);
            let mut before = Vec::new();
            name.add(&mut before);
            let before = String::from_utf8(before).expect("UTF-8");
            let name = before.split('"').nth(3).expect("a name");
            let attribute = attributes.get(name);
            let same = match (value, attribute) {
                (Value::Null, attribute) => attribute.is_none(),
                // Of no flag: an attribute that says nothing.
                (Value::String(text), None) => text.is_empty(),
                (_, None) => false,
                (Value::Number(number), Some(Value::String(text))) => {
                    number.to_string() == *text || key == "family"
                }
                (Value::Number(a), Some(Value::Number(b))) => {
                    let apart = a.as_f64().expect("one") - b.as_f64().expect("one");
                    apart.abs() <= a.as_f64().expect("one").abs() * 1e-15
                }
                (Value::String(text), Some(Value::String(said))) => escape::text(text) == *said,
                (Value::Array(all), Some(said)) => {
                    said["values"].as_array().map(Vec::len) == Some(all.len())
                }
                (value, Some(attribute)) => value == attribute,
            };
            assert!(
                same,
                "{}: {key} is {value}, and {attribute:?} in OTLP",
                self.tool
            );
        }
    }

    fn journal(&self, text: &[u8], json: &Map<String, Value>) {
        let entries = written::entries(text);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        for (key, value) in json
            .iter()
            .filter(|(key, _)| *key != "tool" && *key != "ts")
        {
            let field = entry.get(&format!("TCPTOOLS_{}", key.to_ascii_uppercase()));
            let said = field.and_then(Value::as_str);
            let same = match value {
                Value::Null => said.is_none(),
                Value::String(text) => said.unwrap_or_default() == escape::text(text),
                Value::Array(all) => {
                    let all: Vec<_> = all.iter().filter_map(Value::as_str).collect();
                    said.unwrap_or_default() == all.join(";")
                }
                other => {
                    let exact = other.as_f64();
                    let shown = said.and_then(|said| said.parse::<f64>().ok());
                    said == Some(&other.to_string())
                        || exact.zip(shown).is_some_and(|(exact, shown)| {
                            (exact - shown).abs() <= exact.abs() * 1e-15
                        })
                }
            };
            assert!(
                same,
                "{}: {key} is {value}, and {said:?} in the journal",
                self.tool
            );
        }
        assert!(entry.contains_key("MESSAGE") && entry.contains_key("PRIORITY"));
    }

    fn csv(&self, csv: &str, json: &Map<String, Value>) {
        let (header, line) = csv
            .trim_end()
            .split_once('\n')
            .expect("a header, and one line");
        let keys: Vec<_> = header.split(',').collect();
        assert!(
            keys.iter().eq(json.keys().collect::<Vec<_>>().iter()) || keys.len() == json.len(),
            "{header}"
        );
        // The time since 1970 is that of the clock, which goes on.
        let cells = keys.iter().zip(written::fields(line));
        for (key, cell) in cells.filter(|(key, _)| **key != "ts") {
            let value = json
                .get(*key)
                .unwrap_or_else(|| panic!("{} has no {key} in JSON", self.tool));
            let same = match value {
                Value::Null => cell.is_empty(),
                // JSON has other escapes for what does not show.
                Value::String(text) => escape::text(text) == cell,
                Value::Number(number) => {
                    let exact = number.as_f64().expect("a number");
                    let shown: f64 = cell.parse().unwrap_or(f64::NAN);
                    // serde_json rounds the last bit in its own way.
                    number.to_string() == cell || (shown - exact).abs() <= exact.abs() * 1e-15
                }
                Value::Bool(is) => is.to_string() == cell,
                Value::Array(parts) => {
                    let parts: Vec<_> = parts.iter().filter_map(Value::as_str).collect();
                    parts.join(";") == cell
                }
                Value::Object(_) => false,
            };
            assert!(same, "{}: {key} is {value}, and '{cell}' in CSV", self.tool);
        }
    }
}

/// What OTLP has in other places than attributes.
const NOT_LOGGED: [&str; 2] = ["tool", "ts"];

/// What each row begins with, which is no column.
const STAMP: [&str; 6] = ["tool", "event", "ts", "boot_ns", "interval_us", "by"];

/// A table has units of its own, and as many digits as five characters hold.
fn in_table(key: &str, cell: &str, value: &Value) -> bool {
    match value {
        Value::Null => cell == "-",
        Value::Bool(is) => cell == is.to_string(),
        Value::String(text) => cell == escape::text(text).trim(),
        Value::Array(frames) => {
            let lines = cell.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.eq(frames.iter().filter_map(Value::as_str))
        }
        Value::Number(number) => {
            let exact = number.as_f64().expect("a number");
            // A port that is not chosen yet.
            if cell == number.to_string() || key == "lport" && exact == 0.0 && cell == "-" {
                return true;
            }
            let scales: &[f64] = match key {
                _ if key.ends_with("_us") => &[1e-3],
                _ if key.ends_with("bytes_per_s") => &[8e-6],
                _ if key.contains("bytes") => &[1.0 / 1024.0],
                _ => &[1.0, 1.0 / 1024.0, 8e-6],
            };
            let cell = cell.trim_start_matches('>');
            scales.iter().any(|scale| is_shown(cell, exact * scale))
        }
        Value::Object(_) => false,
    }
}

/// With three digits at least.
fn is_shown(cell: &str, exact: f64) -> bool {
    if cell == "<.001" {
        return exact > 0.0 && exact < 0.0005;
    }
    let shown: f64 = cell.parse().unwrap_or(f64::NAN);
    (shown - exact).abs() <= (exact.abs() * 6e-4).max(5.1e-4)
}

impl Kinds for Alike {
    fn records<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let tool = self.tool;
        self.compare(event, mend, |style| {
            Rows::new(tool, style, columns()).expect("columns")
        })
    }

    fn sums<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let tool = self.tool;
        self.compare(event, mend, |style| {
            Rows::sums(tool, style, columns()).expect("columns")
        })
    }

    fn lines<E>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        all: &[(head, E)],
    ) -> Self {
        let tool = self.tool;
        for (head, body) in all {
            let rows = |style| Rows::sums(tool, style, columns()).expect("columns");
            self.alike(event, &Row { head, body }, &rows);
        }
        self
    }
}
