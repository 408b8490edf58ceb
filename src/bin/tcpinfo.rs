// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpinfo`: `src/commands/tcpinfo/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpinfo::main()
}
