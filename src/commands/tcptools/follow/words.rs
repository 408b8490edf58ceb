// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a row says, in a line for a person.

use crate::commands::tcptools::feed::Row;
use crate::output::logs::words::say;
pub use crate::output::logs::words::time;

/// A word for what it is, and the rest of the line. `None`: it tells nothing about a connection.
pub fn of(row: &Row) -> Option<(&'static str, String)> {
    let mut out = Vec::new();
    let word = say(row.tool(), row.event(), row.values(), &mut out)?;
    Some((word, String::from_utf8_lossy(&out).into_owned()))
}
