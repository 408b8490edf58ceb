// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output of the commands that do not trace.

use std::io::{self, Write};

use anyhow::{Result, anyhow};
use nix::errno::Errno;

use super::logs::socket;

/// Writes the whole output of a command that does not trace. A closed reader is not an error.
///
/// # Errors
/// When it cannot be written: the disk is full, or the like.
pub fn write_all(text: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(&error)),
        Ok(()) => Ok(()),
    }
}

/// Writes the records of a command that does not trace: to the journal, if that was chosen.
///
/// # Errors
/// When they cannot be written, or the journal does not accept them all.
pub fn records(bytes: &[u8]) -> Result<()> {
    socket::deliver(bytes).unwrap_or_else(|| write_all(bytes))
}

/// The sentence about output that cannot be written, without the number of the error.
pub fn failed(error: &io::Error) -> anyhow::Error {
    let desc = error.raw_os_error().map(|n| Errno::from_raw(n).desc());
    match desc {
        Some(desc) => anyhow!("cannot write to standard output: {desc}"),
        None => anyhow!("cannot write to standard output: {error}"),
    }
}
