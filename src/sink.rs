// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output that neither blocks a signal nor outlives its reader.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;

use crate::interrupt::Interrupt;

/// A pipe with room takes this much at once without blocking (PIPE_BUF in `include/uapi/linux/limits.h`).
const ATOMIC: usize = 4096;
/// How long a reader that does not read may hold up the end of a run.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why rows cannot be written any more.
#[derive(Debug)]
pub enum Stop {
    /// The reader has gone: a quiet, good end.
    Closed,
    /// A signal came while the reader was not reading.
    Interrupted,
    /// The disk is full, or the like.
    Failed(io::Error),
}

/// Collects rows and writes them in one go.
pub struct Sink {
    out: io::Stdout,
    regular: bool,
    /// Rows that are not written yet.
    pub buf: Vec<u8>,
}

impl Default for Sink {
    fn default() -> Self {
        let out = io::stdout();
        let mode = fstat(out.as_fd()).map_or(0, |stat| stat.st_mode);
        Self {
            regular: SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG,
            out,
            buf: Vec::with_capacity(64 * 1024),
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.out.as_fd()
    }
}

impl Sink {
    /// Writes what was collected; what could not be written stays.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn flush(&mut self, interrupt: &Interrupt) -> Result<(), Stop> {
        self.write_all(
            |sink| match sink.wait(Some(interrupt), || PollTimeout::NONE) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Stop::Interrupted),
                Err(e) => Err(Stop::Failed(e.into())),
            },
        )
    }

    /// Writes the rest at the end of a run, but does not wait for ever; returns how many lines no one has read.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn finish(&mut self) -> Result<usize, Stop> {
        let deadline = Instant::now() + PATIENCE;
        let result = self.write_all(|sink| {
            let left = || {
                let left = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
            };
            match sink.wait(None, left) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Stop::Interrupted),
                Err(e) => Err(Stop::Failed(e.into())),
            }
        });
        match result {
            Ok(()) => Ok(0),
            Err(Stop::Interrupted) => Ok(self.buf.iter().filter(|&&b| b == b'\n').count()),
            Err(stop) => Err(stop),
        }
    }

    /// Waits until there is room (true), a signal has come or time is up (false).
    ///
    /// The signal itself interrupts poll() before its handler's thread has had a turn: only the handler's word counts,
    /// and nothing but room lets the caller write.
    fn wait(
        &self,
        interrupt: Option<&Interrupt>,
        timeout: impl Fn() -> PollTimeout,
    ) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(self.out.as_fd(), PollFlags::POLLOUT)];
        if let Some(interrupt) = interrupt {
            fds.push(PollFd::new(interrupt.as_fd(), PollFlags::POLLIN));
        }
        while let Err(error) = poll(&mut fds, timeout()) {
            if error != Errno::EINTR {
                return Err(error);
            }
        }
        Ok(fds[0].any().unwrap_or(false))
    }

    fn write_all(&mut self, mut ready: impl FnMut(&Self) -> Result<(), Stop>) -> Result<(), Stop> {
        let mut done = 0;
        let result = loop {
            if done == self.buf.len() {
                break Ok(());
            }
            let chunk = if self.regular {
                &self.buf[done..]
            } else {
                if let Err(stop) = ready(self) {
                    break Err(stop);
                }
                &self.buf[done..self.buf.len().min(done + ATOMIC)]
            };
            match write(&self.out, chunk) {
                Ok(n) => done += n,
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EPIPE) => break Err(Stop::Closed),
                Err(e) => break Err(Stop::Failed(e.into())),
            }
        };
        self.buf.drain(..done);
        result
    }
}

/// Writes the whole output of a command that does not trace. A reader that has left is no error.
///
/// # Errors
/// When it cannot be written: the disk is full, or the like.
pub fn write_all(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
