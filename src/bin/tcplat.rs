// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcplat`: `src/commands/tcplat/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcplat::main()
}
