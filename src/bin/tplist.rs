// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `tplist`: `src/commands/tplist/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tcptools::commands::tplist::main()
}
