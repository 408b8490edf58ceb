// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpdrop`: `src/commands/tcpdrop/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpdrop::main()
}
