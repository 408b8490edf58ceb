// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of the package, for tests that go through all of them.

use std::path::PathBuf;

use tcptools::suite::{OTHERS, TOOLS};

/// Every command that traces.
pub const ALL: &[&str] = &{
    let mut names = [""; TOOLS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TOOLS[at].name;
        at += 1;
    }
    names
};

/// Those that need type information and a ring buffer: without, they say so.
#[allow(dead_code, reason = "not every test takes them away")]
pub const NEED_BTF: [&str; 2] = ["tcpdrop", "tcptop"];

/// Every command.
#[allow(dead_code, reason = "not every test goes through all")]
pub fn every() -> impl Iterator<Item = &'static str> {
    let others = OTHERS.iter().map(|(name, _)| *name);
    ALL.iter().copied().chain(others)
}

/// Where cargo built it: beside this test's own directory.
#[allow(dead_code, reason = "not every test starts the commands")]
pub fn binary(tool: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tcplife")).with_file_name(tool)
}
