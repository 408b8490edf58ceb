// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `sockbuf`: `src/commands/sockbuf/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::sockbuf::main()
}
