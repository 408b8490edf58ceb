// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcplife`: `src/commands/tcplife/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcplife::main()
}
