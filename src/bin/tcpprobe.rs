// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpprobe`: `src/commands/tcpprobe/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpprobe::main()
}
