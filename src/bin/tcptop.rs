// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcptop`: `src/commands/tcptop/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcptop::main()
}
