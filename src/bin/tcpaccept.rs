// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpaccept`: `src/commands/tcpaccept/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpaccept::main()
}
