// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcptools`: `src/commands/tcptools/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcptools::main()
}
