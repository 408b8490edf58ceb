// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--explain`: what the kernel's reasons mean.

use std::io::{self, ErrorKind, Write};

use anyhow::Result;

/// The prefix of TCP's own reasons, which users and tables leave out.
const PREFIX: &str = "TCP_";

/// A reason, its cause, and what to look at.
#[derive(Clone, Copy, Debug)]
pub struct Explained<'a>(pub &'a str, pub &'a str, pub &'a str);

impl Explained<'_> {
    /// Whether a user calls it so.
    pub fn is_named(&self, wanted: &str) -> bool {
        is_named(self.0, wanted)
    }
}

/// Whether a user calls a reason so: in any case, with or without the prefix `TCP_`.
pub fn is_named(reason: &str, wanted: &str) -> bool {
    let same = |name: &str| name.eq_ignore_ascii_case(wanted);
    same(reason) || reason.strip_prefix(PREFIX).is_some_and(same)
}

/// As a narrow table shows a reason.
pub fn short(reason: &str) -> &str {
    reason.strip_prefix(PREFIX).unwrap_or(reason)
}

/// Writes the explanation of each, to standard output.
///
/// # Errors
/// When it cannot be written; not if its reader has left.
pub fn print<'a>(all: impl Iterator<Item = Explained<'a>>) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut write = |Explained(name, cause, look): Explained<'_>| {
        writeln!(out, "{name}\n    {cause}\n    Look at: {look}")
    };
    for one in all {
        match write(one) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            done => done?,
        }
    }
    Ok(())
}
