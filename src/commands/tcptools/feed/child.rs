// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command of a feed: its process, and the threads that read what it prints.

use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::os::fd::AsRawFd;
use std::process::{self, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

pub(super) struct Child {
    process: process::Child,
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
        // This one descriptor is for the command, until it is closed here, before the next one starts.
        fcntl(&announce, FcntlArg::F_SETFD(FdFlag::empty())).context("no pipe")?;
        let mut command = find::child(source.tool)?;
        command.args(["--json", "--ready-fd", &announce.as_raw_fd().to_string()]);
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
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&ready),
            PollFlags::POLLIN,
        )];
        self.is_ready = poll(&mut fds, left).is_ok_and(|n| n > 0)
            && ready.read(&mut [0]).is_ok_and(|bytes| bytes > 0);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// It writes its last rows, and ends.
    pub(super) fn stop(&self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.wait();
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
