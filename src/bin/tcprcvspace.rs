// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcprcvspace`: `src/commands/tcprcvspace/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcprcvspace::main()
}
