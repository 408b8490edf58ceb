// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of the package, for tests that go through all of them.

use std::path::PathBuf;

/// Every command that traces.
pub const ALL: &[&str] = &[
    "sockbuf",
    "tcpaccept",
    "tcpconnect",
    "tcpinfo",
    "tcplife",
    "tcpprobe",
    "tcprcvspace",
    "tcpreset",
    "tcpretrans",
    "tcpstates",
];

/// Every command that does not.
#[allow(dead_code, reason = "not every test goes through all")]
pub const OTHERS: &[&str] = &["tplist", "tcptools"];

/// Every command.
#[allow(dead_code, reason = "not every test goes through all")]
pub fn every() -> impl Iterator<Item = &'static str> {
    ALL.iter().chain(OTHERS).copied()
}

/// Where cargo built it: beside this test's own directory.
#[allow(dead_code, reason = "not every test starts the commands")]
pub fn binary(tool: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tcplife")).with_file_name(tool)
}
