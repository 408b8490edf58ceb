// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command of a feed: its process, and the threads that read what it prints.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{self, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Forwarded, Row, Source};
use crate::commands::tcptools::find;

/// What a command sends.
pub(super) enum Said {
    Row(Row),
    /// A message of its standard error.
    Note(String),
    /// It has ended, and all that it printed was read.
    End,
}

/// How long it may take to end before it is killed.
const KILL: Duration = Duration::from_secs(10);

pub(super) struct Child {
    process: process::Child,
    /// It ends when this is closed, even by the end of this process.
    stop: Option<PipeWriter>,
    ready: Option<PipeReader>,
    is_ready: bool,
}

impl Child {
    /// # Errors
    /// A sentence: it is not installed, or cannot be started.
    pub(super) fn start(
        at: usize,
        source: &Source,
        filters: &Forwarded,
        to: SyncSender<Said>,
    ) -> Result<Self> {
        let (ready, announce) = pipe().context("no pipe")?;
        let (stopped, stop) = pipe().context("no pipe")?;
        // These two descriptors are for the command, until they are closed here, before the next one starts.
        for fd in [announce.as_fd(), stopped.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("no pipe")?;
        }
        let mut command = find::child(source.tool)?;
        command.args(["--json", "--ready-fd", &announce.as_raw_fd().to_string()]);
        command.args(["--stop-fd", &stopped.as_raw_fd().to_string()]);
        command.args(&source.args).args(filters.words());
        command.stdout(Stdio::piped());
        // A signal of the terminal is for this process, which then ends the commands.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.stderr(Stdio::piped()).spawn()?;
        let rows = process.stdout.take().context("no standard output")?;
        let messages = process.stderr.take().context("no standard error")?;
        thread::Builder::new().spawn(move || read(at, rows, messages, &to))?;
        Ok(Self {
            process,
            stop: Some(stop),
            ready: Some(ready),
            is_ready: false,
        })
    }

    /// Until it says that its probes are attached, or ends.
    pub(super) fn await_ready(&mut self, until: Instant) {
        let Some(mut ready) = self.ready.take() else {
            return;
        };
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        self.is_ready = poll(&mut fds, left).is_ok_and(|n| n > 0)
            && ready.read(&mut [0]).is_ok_and(|bytes| bytes > 0);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// It writes its last rows, and ends.
    pub(super) fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
        let until = Instant::now() + KILL;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() >= until && self.process.kill().is_err() {
                return; // it ends when its reader is gone
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Until both are closed: rows here, messages in a thread beside.
fn read(at: usize, rows: impl Read, messages: impl Read + Send + 'static, to: &SyncSender<Said>) {
    let notes = to.clone();
    let beside = thread::Builder::new().spawn(move || {
        for line in BufReader::new(messages).lines().map_while(Result::ok) {
            if notes.send(Said::Note(line)).is_err() {
                return;
            }
        }
    });
    // A row that is none is left out: a command that is killed does not finish its last line.
    for line in BufReader::new(rows).lines().map_while(Result::ok) {
        let Some(row) = Row::parse(line, at) else {
            continue;
        };
        if to.send(Said::Row(row)).is_err() {
            break;
        }
    }
    if let Ok(beside) = beside {
        let _ = beside.join();
    }
    let _ = to.send(Said::End);
}
