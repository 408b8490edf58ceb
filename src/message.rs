// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one way of writing to standard error.

use std::fmt::Arguments;
use std::io::Write;

use crate::output::escape;

/// Writes a line to standard error, as `eprintln!` does; one that cannot be written is dropped, as a run must not end
/// because nobody reads its messages.
#[macro_export]
macro_rules! message {
    ($($text:tt)*) => { $crate::message::line(format_args!($($text)*)) };
}

/// See [`message!`](crate::message!).
pub fn line(text: Arguments<'_>) {
    // Arguments, paths and names are in it, which may not move a cursor or begin a line.
    write(format_args!("{}\n", escape::text(&text.to_string())));
}

/// As [`line`], for text that ends its own lines.
pub fn write(text: Arguments<'_>) {
    let _ = std::io::stderr().write_all(text.to_string().as_bytes());
}
