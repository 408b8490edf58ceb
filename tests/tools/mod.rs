// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of the package, for tests that go through all of them.

use std::path::PathBuf;

use tcptools::kernel::tracepoints::arguments::arguments;
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
pub const NEED_BTF: [&str; 4] = ["tcpcong", "tcpdrop", "tcplat", "tcptop"];

/// Those whose rows are of a tracepoint that some kernels lack: its event, and since when there is one.
#[allow(dead_code, reason = "not every test asks the kernel")]
pub const NEED_TRACEPOINT: [(&str, &str, &str); 2] = [
    (
        "tcpcong",
        "tcp_cong_state_set",
        "tcp:tcp_cong_state_set (since 5.19)",
    ),
    (
        "tcplat",
        "sock_send_length",
        "sock:sock_send_length (since 6.3)",
    ),
];

/// Every command that traces, but for those whose tracepoint this kernel lacks.
#[allow(dead_code, reason = "not every test asks the kernel")]
pub fn here() -> impl Iterator<Item = &'static str> {
    let lacks = |tool: &str| {
        let mut needs = NEED_TRACEPOINT.iter().filter(|(name, ..)| *name == tool);
        needs.any(|(_, event, _)| arguments(event) == 0)
    };
    ALL.iter().copied().filter(move |tool| !lacks(tool))
}

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
