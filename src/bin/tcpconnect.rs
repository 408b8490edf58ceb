// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpconnect`: `src/commands/tcpconnect/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpconnect::main()
}
