// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording that is read, also one that was cut off.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::Row;
use super::gzip;
use crate::kernel::files::as_the_user;
use crate::suite;

/// The longest line that is read: a row with a stack has some 10 KB.
const LINE: u64 = 1 << 20;

/// A file that is read.
pub struct Recording {
    lines: Box<dyn BufRead>,
    path: PathBuf,
    line: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    looked_us: Option<u64>,
    notes: Vec<String>,
}

impl Recording {
    /// # Errors
    /// A sentence about the file; so below.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || format!("cannot read {}", path.display());
        let file = as_the_user(|| File::open(path)).with_context(named)?;
        Self::of(BufReader::new(file), path)
    }

    /// Reads what `path` has.
    ///
    /// # Errors
    /// As above.
    pub fn of(mut file: impl BufRead + 'static, path: &Path) -> Result<Self> {
        let begin = file.fill_buf();
        let begin = begin.with_context(|| format!("cannot read {}", path.display()))?;
        let is_packed = gzip::is_it(begin);
        let lines: Box<dyn BufRead> = match is_packed {
            true => Box::new(BufReader::new(gzip::Reader::new(file))),
            false => Box::new(file),
        };
        Ok(Self {
            lines,
            path: path.to_owned(),
            line: 0,
            first_ns: None,
            last_ns: 0,
            looked_us: None,
            notes: Vec::new(),
        })
    }

    /// A line without its end, and whether it has one. `None`: there is none.
    fn text(&mut self) -> Result<Option<(String, bool)>> {
        let mut bytes = Vec::new();
        self.line += 1;
        let read = (&mut self.lines).take(LINE).read_until(b'\n', &mut bytes);
        read.with_context(|| format!("line {} of {}", self.line, self.path.display()))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let is_whole = bytes.pop_if(|byte| *byte == b'\n').is_some();
        Ok(Some((
            String::from_utf8_lossy(&bytes).into_owned(),
            is_whole,
        )))
    }

    /// The next row of a command, in the order in which they were kept.
    pub fn next(&mut self) -> Result<Option<Row>> {
        loop {
            let Some((text, is_whole)) = self.text()? else {
                return self.end();
            };
            let row = Row::parse(text, 0);
            let known = row.filter(|row| row.tool() == "tcptools" || suite::has(row.tool()));
            let Some(row) = known else {
                // Its command was killed while it wrote.
                if !is_whole && self.line > 1 {
                    return Ok(None);
                }
                bail!("{}", self.refusal());
            };
            if row.boot_ns() > 0 {
                self.first_ns.get_or_insert(row.boot_ns());
                self.last_ns = self.last_ns.max(row.boot_ns());
            }
            if row.tool() != "tcptools" {
                return Ok(Some(row));
            }
            self.looked_us = row.number("duration_us").or(self.looked_us);
            if let Some(Value::Array(notes)) = row.value("notes") {
                let notes = notes.iter().filter_map(Value::as_str);
                self.notes.extend(notes.map(str::to_owned));
            }
        }
    }

    fn end(&self) -> Result<Option<Row>> {
        if self.line == 1 {
            bail!("{} is empty", self.path.display());
        }
        Ok(None)
    }

    fn refusal(&self) -> String {
        let path = self.path.display();
        match self.line {
            1 => format!("{path} is not a recording of tcptools"),
            line => format!("line {line} of {path} is not a row of a command"),
        }
    }

    /// How long was looked, after the last row was read. Of a recording without an end, the time between its rows.
    ///
    /// # Errors
    /// A sentence: no row has a time.
    pub fn looked(&self) -> Result<Duration> {
        let first = self.first_ns.context("the recording is empty")?;
        let between = self.last_ns.saturating_sub(first) / 1000;
        Ok(Duration::from_micros(self.looked_us.unwrap_or(between)))
    }

    /// What commands reported meanwhile.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ROWS: &str = "{\"tool\":\"tcptools\",\"event\":\"recording\",\"boot_ns\":1000000}
{\"tool\":\"tcplife\",\"event\":\"session\",\"boot_ns\":2000000}
{\"tool\":\"tcpdrop\",\"event\":\"drop\",\"boot_ns\":5000000}
";
    const LAST: &str = "{\"tool\":\"tcptools\",\"event\":\"recorded\",\"boot_ns\":9000000,\"duration_us\":7777,\"notes\":[\"a\"]}\n";

    /// The rows' commands, and the recording after them; or why not.
    fn read(bytes: &[u8]) -> Result<(Vec<String>, Recording), String> {
        let name = format!("tcptools-read-{}-{:p}", std::process::id(), &bytes);
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        let read = || -> Result<_> {
            let mut recording = Recording::open(&path)?;
            let mut tools = Vec::new();
            while let Some(row) = recording.next()? {
                tools.push(row.tool().to_owned());
            }
            Ok((tools, recording))
        };
        let result = read().map_err(|error| format!("{error:#}"));
        fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn first_and_last_line_are_no_rows() {
        let whole = [ROWS, LAST].concat().into_bytes();
        for bytes in [whole.clone(), gzip::member(&whole)] {
            let (tools, recording) = read(&bytes).unwrap();
            assert_eq!(tools, ["tcplife", "tcpdrop"]);
            assert_eq!(recording.looked().unwrap(), Duration::from_micros(7777));
            assert_eq!(recording.notes(), ["a"]);
        }
    }

    #[test]
    fn a_recording_may_be_cut() {
        let whole = [ROWS, LAST].concat();
        for end in ROWS.len()..whole.len() {
            let (tools, recording) = read(&whole.as_bytes()[..end]).unwrap();
            assert_eq!(tools, ["tcplife", "tcpdrop"]);
            // The newline alone may be missing.
            if end < whole.len() - 1 {
                assert_eq!(recording.looked().unwrap(), Duration::from_millis(4));
            }
        }
        let packed = [gzip::member(ROWS.as_bytes()), gzip::member(LAST.as_bytes())].concat();
        for end in gzip::member(ROWS.as_bytes()).len()..packed.len() {
            assert_eq!(read(&packed[..end]).unwrap().0, ["tcplife", "tcpdrop"]);
        }
    }

    #[test]
    fn files_of_others_are_refused_in_a_sentence() {
        let other = "{\"tool\":\"jq\",\"event\":\"e\"}\n";
        for (text, why) in [
            ("", "is empty"),
            ("hello", "is not a recording of tcptools"),
            ("\0\u{1}\u{2}", "is not a recording of tcptools"),
            (other, "is not a recording of tcptools"),
            (&[ROWS, "hello\n", LAST].concat(), "line 4 of"),
        ] {
            let said = read(text.as_bytes()).err().unwrap();
            assert!(said.contains(why) && !said.contains('\n'), "{said}");
        }
    }
}
