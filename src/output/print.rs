// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output of the commands that do not trace.

use std::io::{self, Write};

/// Writes the whole output of a command that does not trace. A closed reader is not an error.
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
