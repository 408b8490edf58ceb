// SPDX-License-Identifier: MIT OR Apache-2.0
//! A recording that is written while rows come.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::super::Row;
use super::{Header, gzip, is_packed, last_line};
use crate::kernel::files::Place;

/// How much waits until it is written.
const CHUNK: usize = 256 << 10;

/// How long it waits: compressed rows are the smaller the more of them come together.
const PLAIN: Duration = Duration::from_secs(1);
const PACKED: Duration = Duration::from_secs(10);

/// A file that is written.
pub struct Recorder {
    place: Place,
    path: PathBuf,
    packed: bool,
    file: Option<File>,
    waiting: Vec<u8>,
    /// Since when the first of it waits.
    since: Instant,
    written: u64,
    most: u64,
    /// The name of the host, if it is kept.
    host: Option<String>,
    pub rows: u64,
}

impl Recorder {
    /// Call it before the commands are started, so that a file that cannot be written is told at once. A file that is
    /// there stays until [`begin`](Self::begin).
    ///
    /// `flag`: what named it; `most`: of how many bytes.
    ///
    /// # Errors
    /// A sentence about the file.
    pub fn create(flag: &str, path: &Path, most: Option<u64>) -> Result<Self> {
        Ok(Self {
            place: Place::new(flag, path)?,
            path: path.to_owned(),
            packed: is_packed(path),
            file: None,
            waiting: Vec::new(),
            since: Instant::now(),
            written: 0,
            most: most.unwrap_or(u64::MAX),
            host: None,
            rows: 0,
        })
    }

    /// The first line. Call it when the commands are attached.
    ///
    /// # Errors
    /// When the file does not take it; so below.
    pub fn begin(mut self, header: &Header<'_>) -> Result<Self> {
        let file = self.place.replace();
        self.file = Some(file.with_context(|| format!("cannot write {}", self.path.display()))?);
        self.waiting.extend(header.line().into_bytes());
        self.host = header.host.map(|host| host.name.clone());
        self.flush()?;
        Ok(self)
    }

    /// `false`: the file is full, and the row is not in it.
    pub fn put(&mut self, row: &Row) -> Result<bool> {
        let bytes = row.line().len() as u64 + 1;
        // Of compressed rows it is not known before how few bytes they will be.
        let waiting = if self.packed {
            0
        } else {
            self.waiting.len() as u64 + bytes
        };
        if self.written + waiting > self.most {
            return Ok(false);
        }
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.extend(row.line().as_bytes());
        self.waiting.push(b'\n');
        self.rows += 1;
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(true)
    }

    /// Writes what has waited for long. Call it now and then.
    pub fn tick(&mut self) -> Result<()> {
        let most = if self.packed { PACKED } else { PLAIN };
        match self.since.elapsed() >= most {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.waiting.is_empty()) else {
            return Ok(());
        };
        let packed = self.packed.then(|| gzip::member(&self.waiting));
        let bytes = packed.as_deref().unwrap_or(&self.waiting);
        let full = || format!("cannot write {}", self.path.display());
        file.write_all(bytes).with_context(full)?;
        self.written += bytes.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The last line. How large the file is.
    pub fn end(mut self, looked: Duration, notes: &[String]) -> Result<u64> {
        let line = last_line(looked, notes, self.host.as_deref());
        self.waiting.extend(line.into_bytes());
        self.flush()?;
        Ok(self.written)
    }
}
