// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows kept in a file: JSON Lines, as the commands printed them, between a first line that says where and when, and a
//! last one that says for how long.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::Row;
use crate::kernel::clock::boot_ns;
use crate::kernel::files::as_the_user;

/// The longest line that is read: a row with a stack has some 10 KB.
const LINE: u64 = 1 << 20;

/// A file that is written.
pub struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    /// Call it before the commands are started, so that a file that cannot be written is told at once.
    ///
    /// # Errors
    /// A sentence about the file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = as_the_user(|| File::create(path));
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
        })
    }

    /// The first line. Call it when the commands are attached.
    ///
    /// # Errors
    /// When the file does not take it; so below.
    pub fn begin(mut self) -> Result<Self> {
        let version = env!("CARGO_PKG_VERSION");
        let first = json!({
            "tool": "tcptools", "event": "recording", "boot_ns": boot_ns(), "version": version,
        });
        writeln!(self.file, "{first}").context(FULL)?;
        Ok(self)
    }

    pub fn put(&mut self, row: &Row) -> Result<()> {
        writeln!(self.file, "{}", row.line()).context(FULL)
    }

    /// The last line.
    pub fn end(mut self, seconds: f64) -> Result<()> {
        let last = json!({
            "tool": "tcptools", "event": "recorded", "boot_ns": boot_ns(), "seconds": seconds,
        });
        writeln!(self.file, "{last}").context(FULL)?;
        self.file.flush().context(FULL)
    }
}

const FULL: &str = "cannot write the recording";

/// A file that is read.
pub struct Recording {
    lines: BufReader<File>,
    line: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    seconds: Option<f64>,
}

impl Recording {
    /// # Errors
    /// A sentence about the file; so below.
    pub fn open(path: &Path) -> Result<Self> {
        let file = as_the_user(|| File::open(path));
        let file = file.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            lines: BufReader::new(file),
            line: 0,
            first_ns: None,
            last_ns: 0,
            seconds: None,
        })
    }

    /// The next row of a command, in the order in which they were kept.
    pub fn next(&mut self) -> Result<Option<Row>> {
        loop {
            let mut text = String::new();
            self.line += 1;
            let place = || format!("line {} of the recording", self.line);
            let read = (&mut self.lines).take(LINE).read_line(&mut text);
            if read.with_context(place)? == 0 {
                return Ok(None);
            }
            let Some(row) = Row::parse(text.trim_end().to_owned(), 0) else {
                bail!("{} is not a row of a command", place());
            };
            if row.boot_ns() > 0 {
                self.first_ns.get_or_insert(row.boot_ns());
                self.last_ns = self.last_ns.max(row.boot_ns());
            }
            if row.tool() != "tcptools" {
                return Ok(Some(row));
            }
            self.seconds = row.float("seconds").or(self.seconds);
        }
    }

    /// How long was looked, after the last row was read.
    pub fn seconds(&self) -> Result<f64> {
        let first = self.first_ns.context("the recording is empty")?;
        let between = self.last_ns.saturating_sub(first) as f64 / 1e9;
        Ok(self.seconds.unwrap_or(between))
    }
}
