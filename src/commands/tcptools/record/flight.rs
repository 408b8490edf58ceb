// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flight recorder: the rows of the last minutes, compressed, in bounded memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use crate::commands::tcptools::feed::{Row, gzip};

/// Rows that are compressed together, in bytes. Larger ones would be smaller in sum, and forgotten in larger steps.
const CHUNK: usize = 256 << 10;

/// Into how many steps the time is divided at least.
const STEPS: u32 = 20;

/// Compressed rows, and when the last of them happened.
struct Chunk {
    packed: Vec<u8>,
    rows: u64,
    first_ns: u64,
    last_ns: u64,
}

/// What is kept.
pub struct Flight {
    last: Duration,
    /// Bytes of compressed rows.
    most: usize,
    chunks: VecDeque<Chunk>,
    packed: usize,
    waiting: Vec<u8>,
    waiting_rows: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Flight {
    /// The rows of this time, in at most so many bytes; some 256 KiB wait besides to be compressed.
    pub fn new(last: Duration, most: u64) -> Self {
        Self {
            last,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            chunks: VecDeque::new(),
            packed: 0,
            waiting: Vec::with_capacity(CHUNK),
            waiting_rows: 0,
            first_ns: 0,
            last_ns: 0,
        }
    }

    pub fn put(&mut self, row: &Row) {
        if self.waiting.is_empty() {
            self.first_ns = row.boot_ns();
        }
        self.last_ns = self.last_ns.max(row.boot_ns());
        self.waiting.extend(row.line().as_bytes());
        self.waiting.push(b'\n');
        self.waiting_rows += 1;
        let step = self.last / STEPS;
        let span = Duration::from_nanos(self.last_ns.saturating_sub(self.first_ns));
        if self.waiting.len() >= CHUNK || span >= step {
            self.pack();
        }
    }

    fn pack(&mut self) {
        let packed = gzip::member(&self.waiting);
        self.packed += packed.len();
        self.chunks.push_back(Chunk {
            packed,
            rows: self.waiting_rows,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
        });
        self.waiting.clear();
        self.waiting_rows = 0;
        self.forget(self.last_ns);
    }

    /// What is older, or too much. Of the time, a step more than asked for may stay.
    fn forget(&mut self, now: u64) {
        let oldest = now.saturating_sub(self.last.as_nanos() as u64);
        let is_over = |this: &Self| {
            let first = this.chunks.front();
            first.is_some_and(|chunk| chunk.last_ns < oldest || this.packed > this.most)
        };
        while is_over(self) {
            if let Some(chunk) = self.chunks.pop_front() {
                self.packed -= chunk.packed.len();
            }
        }
    }

    /// How many rows it has, and the time of the first.
    pub fn holds(&self) -> (u64, Option<u64>) {
        let rows: u64 = self.chunks.iter().map(|chunk| chunk.rows).sum();
        let first = self.chunks.front().map(|chunk| chunk.first_ns);
        let waiting = (self.waiting_rows > 0).then_some(self.first_ns);
        (rows + self.waiting_rows, first.or(waiting))
    }

    /// Writes all, which is kept nevertheless, between these two lines.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(&self, file: &mut File, packed: bool, first: &str, last: &str) -> io::Result<()> {
        let mut write = |text: &[u8]| match packed {
            true => file.write_all(&gzip::member(text)),
            false => file.write_all(text),
        };
        write(first.as_bytes())?;
        for chunk in &self.chunks {
            match packed {
                true => file.write_all(&chunk.packed)?,
                false => drop(io::copy(&mut gzip::Reader::new(&chunk.packed[..]), file)?),
            }
        }
        let rest = [&self.waiting, last.as_bytes()].concat();
        match packed {
            true => file.write_all(&gzip::member(&rest)),
            false => file.write_all(&rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ms: u64, fill: &str) -> Row {
        let ns = ms * 1_000_000;
        let line = format!(r#"{{"tool":"tcplife","event":"e","boot_ns":{ns},"fill":"{fill}"}}"#);
        Row::parse(line, 0).unwrap()
    }

    #[test]
    fn the_last_minutes_are_kept() {
        let mut flight = Flight::new(Duration::from_secs(10), 1 << 20);
        (0..60_000)
            .step_by(10)
            .for_each(|ms| flight.put(&row(ms, "")));
        let (rows, first) = flight.holds();
        let first = first.unwrap() / 1_000_000;
        assert!((49_000..=50_000).contains(&first), "{first}");
        assert_eq!(rows, (60_000 - first) / 10);
    }

    #[test]
    fn memory_is_bounded() {
        let mut flight = Flight::new(Duration::from_secs(3600), 100_000);
        let mut noise = 1u64;
        for ms in 0..20_000 {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            flight.put(&row(ms, &format!("{noise:x}").repeat(3)));
        }
        assert!(flight.packed <= 100_000 && flight.waiting.len() < CHUNK + 1000);
        assert!(flight.holds().0 > 0);
    }
}
