// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tcptools`: `src/commands/tcptools/`, or all commands in one file: `src/commands/single.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "single")]
    return tcptools::commands::single::main();
    #[cfg(not(feature = "single"))]
    tcptools::commands::tcptools::main()
}
