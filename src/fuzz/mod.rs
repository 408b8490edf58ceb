// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries for a fuzzer: each gives any bytes to what reads foreign ones. Neither may panic, nor take for ever; what is
//! printed must be what its format says.
//!
//! Only there for `cargo fuzz`, which sets `cfg(fuzzing)`, and for tests: they replay `fuzz/seeds/`, whole and damaged.
//! `scripts/fuzz.sh` runs each.

#![allow(clippy::expect_used)]

pub mod arguments;
mod commands;
mod http;
pub mod kernel;
#[cfg(test)]
mod otlp_tests;
#[cfg(test)]
mod printed_tests;
pub mod records;
#[cfg(test)]
mod rows_tests;
#[cfg(test)]
mod seeds_tests;
mod written;

pub use crate::commands::tcptools::fuzz::recordings;
pub use arguments::arguments;
pub use http::http;
pub use kernel::{btf, conntrack, inet_diag, kallsyms, proc_files, tracefs};
pub use records::records;

/// The name of a folder in `fuzz/seeds/`, and what takes its files.
pub type Target = (&'static str, fn(&[u8]));

/// Each entry.
pub const TARGETS: [Target; 10] = [
    ("arguments", arguments),
    ("btf", btf),
    ("conntrack", conntrack),
    ("http", http),
    ("inet_diag", inet_diag),
    ("kallsyms", kallsyms),
    ("proc_files", proc_files),
    ("recordings", recordings),
    ("records", records),
    ("tracefs", tracefs),
];
