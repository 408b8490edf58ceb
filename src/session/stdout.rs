// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output that does not block a run and ends with its reader; or the systemd journal in its place (`-o journal`).

use std::collections::VecDeque;
use std::io::{Stdout, stdout};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, ftruncate, lseek};

use super::signals::Interrupt;
use crate::output::logs::framed;
use crate::output::logs::socket::{self, Journal, Sent};
use crate::output::nonblocking::Writer;

/// Output that may wait for the reader before records stay in the kernel's buffer, which counts its losses.
const BACKLOG: usize = 256 * 1024;
/// How long the end of a run waits without progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often progress is checked.
const LOOK: Duration = Duration::from_millis(50);

/// Why rows cannot be written any more.
#[derive(Debug)]
pub enum Stop {
    /// The reader has closed: ends silently with success.
    Closed,
    /// The disk is full, or the like.
    Failed(Errno),
}

/// Where rows go.
enum To {
    Stdout(Writer<Stdout>),
    /// A datagram per row. Like a reader of standard output it may be slow, but does not leave.
    Journal(Journal),
}

/// Collects rows and writes them in one go.
pub struct Sink {
    to: To,
    /// What is not written yet.
    pub buf: Vec<u8>,
    /// The end of each row in `buf`, as an offset in the whole output.
    ends: VecDeque<u64>,
    written: u64,
    /// Bytes of a line whose end is not written yet.
    begun: u64,
    /// Nothing is written any more, only counted.
    given_up: bool,
    unwritten: u64,
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            to: match socket::take() {
                Some(journal) => To::Journal(journal),
                None => To::Stdout(Writer::new(stdout())),
            },
            buf: Vec::with_capacity(64 * 1024),
            ends: VecDeque::new(),
            written: 0,
            begun: 0,
            given_up: false,
            unwritten: 0,
        }
    }
}

impl Sink {
    /// Adds a row.
    pub fn row(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.buf.len();
        write(&mut self.buf);
        if self.given_up {
            self.buf.truncate(before);
            self.unwritten += 1;
        } else {
            self.ends.push_back(self.written + self.buf.len() as u64);
        }
    }

    /// Whether the output waiting for the reader has reached the limit.
    pub fn is_full(&self) -> bool {
        self.buf.len() >= BACKLOG
    }

    /// For poll(): that the reader leaves, and that there is room if something waits for it.
    pub fn poll_fds(&self) -> [PollFd<'_>; 2] {
        let waits = !self.buf.is_empty();
        match &self.to {
            To::Stdout(out) => out.poll_fds(waits),
            To::Journal(journal) => journal.poll_fds(waits),
        }
    }

    /// Whether poll() says of the first of [`Sink::poll_fds`] that the reader has left.
    pub fn has_left(&self, events: PollFlags) -> bool {
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        matches!(self.to, To::Stdout(_)) && events.intersects(gone)
    }

    /// Writes what fits; the rest stays.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn flush(&mut self) -> Result<(), Stop> {
        if self.given_up {
            self.buf.clear();
            return Ok(());
        }
        let (done, result) = match &mut self.to {
            To::Stdout(out) => write(out, &self.buf),
            To::Journal(journal) => (send(journal, &self.buf), Ok(())),
        };
        self.note_written(done);
        if matches!(result, Err(Stop::Failed(_))) {
            self.take_back();
        }
        result
    }

    fn note_written(&mut self, bytes: usize) {
        self.written += bytes as u64;
        while self.ends.front().is_some_and(|&end| end <= self.written) {
            self.ends.pop_front();
        }
        let gone = self.buf.drain(..bytes);
        let last = gone.as_slice().iter().rev().position(|&b| b == b'\n');
        self.begun = match last {
            Some(after) => after as u64,
            None => self.begun + bytes as u64,
        };
        drop(gone);
    }

    /// Truncates an incomplete last line, unless another process has appended to the file.
    fn take_back(&mut self) {
        let To::Stdout(out) = &self.to else { return };
        if self.begun == 0 || !out.is_regular() {
            return;
        }
        let fd = out.get();
        let (Ok(at), Ok(stat)) = (lseek(fd, 0, Whence::SeekCur), fstat(fd)) else {
            return;
        };
        let begun = self.begun as i64;
        if at == stat.st_size && at >= begun && ftruncate(fd, at - begun).is_ok() {
            // Where more would go; nothing more will.
            let _ = lseek(fd, at - begun, Whence::SeekSet);
            self.begun = 0;
        }
    }

    /// Writes everything. A slow reader has all the time it needs; a stalled one, or a second signal, ends it: then
    /// the rest is discarded, and counted.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn deliver(&mut self, interrupt: &Interrupt) -> Result<(), Stop> {
        let mut moved = Instant::now();
        let mut queued = self.queued();
        loop {
            let before = self.written;
            self.flush()?;
            if self.buf.is_empty() {
                return Ok(());
            }
            // Its reader may take less than there must be for the next write.
            let now = self.queued();
            if self.written != before || now < queued {
                moved = Instant::now();
            }
            queued = now;
            if moved.elapsed() >= STALL_TIMEOUT || interrupt.is_urgent() {
                self.give_up();
                return Ok(());
            }
            match &self.to {
                To::Stdout(out) => out.wait(LOOK),
                To::Journal(journal) => journal.wait(LOOK),
            };
        }
    }

    /// How many bytes the reader has not read, if that is known.
    fn queued(&self) -> Option<i32> {
        match &self.to {
            To::Stdout(out) => out.queued(),
            To::Journal(_) => None,
        }
    }

    /// Discards and counts rows from now on.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.unwritten += self.ends.len() as u64;
        self.ends.clear();
        self.buf.clear();
    }

    /// The number of discarded rows, if any were.
    pub fn left_out(&self) -> Option<u64> {
        let lost = self.journal_lost().unwrap_or_default();
        (self.given_up || lost > 0).then_some(self.unwritten + lost)
    }

    /// Why they were discarded.
    pub fn why(&self) -> &'static str {
        match self.to {
            To::Stdout(_) => "nothing is reading standard output",
            To::Journal(_) => "the systemd journal did not accept them",
        }
    }

    /// How many entries the journal did not accept, if rows go there.
    pub fn journal_lost(&self) -> Option<u64> {
        match &self.to {
            To::Stdout(_) => None,
            To::Journal(journal) => Some(journal.lost()),
        }
    }

    /// Reports these, if that is due.
    pub fn report(&mut self, tool: &str) {
        if let To::Journal(journal) = &mut self.to {
            journal.report(tool, false);
        }
    }
}

/// Writes what fits; returns how many bytes that is.
fn write(out: &mut Writer<Stdout>, bytes: &[u8]) -> (usize, Result<(), Stop>) {
    let mut done = 0;
    let result = loop {
        let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) else {
            break Ok(());
        };
        let chunk = out.chunk(rest);
        match out.try_write(chunk) {
            Ok(0) | Err(Errno::EAGAIN) => break Ok(()),
            Ok(n) => done += n,
            Err(error) if out.has_left(error) => break Err(Stop::Closed),
            Err(e) => break Err(Stop::Failed(e)),
        }
    };
    (done, result)
}

/// Sends the entries for which there is room; returns how many bytes they take here.
fn send(journal: &mut Journal, bytes: &[u8]) -> usize {
    let mut done = 0;
    while let Some((entry, taken)) = bytes.get(done..).and_then(framed) {
        if journal.offer(entry) == Sent::Full {
            break;
        }
        done += taken;
    }
    done
}

/// Whether all rows were written, or why not, and how many.
///
/// # Errors
/// A sentence that says so.
pub(super) fn written(result: Result<(), Stop>, sink: &mut Sink) -> anyhow::Result<()> {
    let why = match result {
        Ok(()) => None,
        Err(Stop::Closed) => return Ok(()),
        Err(Stop::Failed(error)) => {
            sink.give_up();
            Some(error)
        }
    };
    let rows = match sink.left_out() {
        None => return Ok(()),
        Some(0) => "the end of the output was not written".into(),
        Some(1) => "1 row was not written".into(),
        Some(rows) => format!("{rows} rows were not written"),
    };
    Err(match why {
        None => anyhow!("{rows}: {}", sink.why()),
        Some(error) => anyhow!("cannot write rows: {}; {rows}", error.desc()),
    })
}
