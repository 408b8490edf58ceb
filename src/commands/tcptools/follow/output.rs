// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output: of a run that ends when its reader leaves, and waits for one that is slow; and of a file's rows.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::poll::{PollTimeout, poll};

use crate::output::{logs::socket, print};
use crate::session::{Interrupt, Sink, Stop};

/// How often a slow reader is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// Of a run.
#[derive(Default)]
pub struct Output {
    sink: Sink,
}

impl Output {
    /// `false`: the reader has left. While it is slow, rows wait in the commands, which count what they lose.
    ///
    /// # Errors
    /// The disk is full, or the like; so below.
    pub fn write(&mut self, text: &[u8], interrupt: &Interrupt) -> Result<bool> {
        if !text.is_empty() {
            self.sink.row(|buf| buf.extend_from_slice(text));
        }
        loop {
            match self.sink.flush() {
                Ok(()) => {}
                Err(Stop::Closed) => return Ok(false),
                Err(Stop::Failed(error)) => bail!("cannot write rows: {}", error.desc()),
            }
            if !self.sink.is_full() || interrupt.raised() {
                return Ok(!self.has_left());
            }
            thread::sleep(LOOK);
        }
    }

    /// Also when there is nothing to write.
    fn has_left(&self) -> bool {
        let mut fds = self.sink.poll_fds();
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && fds[0]
                .revents()
                .is_some_and(|flags| self.sink.has_left(flags))
    }

    /// Writes the rest.
    pub fn end(mut self, interrupt: &Interrupt) -> Result<()> {
        match self.sink.deliver(interrupt) {
            Ok(()) | Err(Stop::Closed) => {}
            Err(Stop::Failed(error)) => bail!("cannot write rows: {}", error.desc()),
        }
        match self.sink.left_out() {
            Some(rows) if rows > 0 => bail!("{rows} rows were not written: {}", self.sink.why()),
            _ => Ok(()),
        }
    }
}

/// Of a file's rows.
pub struct Plain(BufWriter<StdoutLock<'static>>);

impl Default for Plain {
    fn default() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }
}

impl Plain {
    /// `false`: the reader has left.
    pub fn write(&mut self, text: &[u8]) -> Result<bool> {
        match socket::deliver(text) {
            Some(sent) => sent.map(|()| true),
            None => stays(self.0.write_all(text)),
        }
    }

    pub fn end(mut self) -> Result<()> {
        stays(self.0.flush()).map(|_| ())
    }
}

fn stays(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(print::failed(&error)),
    }
}
