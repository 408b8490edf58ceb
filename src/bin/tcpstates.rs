// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpstates`: `src/commands/tcpstates/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpstates::main()
}
