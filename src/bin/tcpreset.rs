// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcpreset`: `src/commands/tcpreset/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tcpreset::main()
}
