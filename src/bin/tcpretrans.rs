// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpretrans`: `src/commands/tcpretrans/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpretrans::main()
}
