// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpcong`: `src/commands/tcpcong/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpcong::main()
}
