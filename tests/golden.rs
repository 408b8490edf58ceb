// SPDX-License-Identifier: MIT OR Apache-2.0
//! The help of each command, as files. Those of rows are in the library: `src/output/golden.rs`.

use std::process::Command;

#[path = "tools/golden.rs"]
mod files;
mod tools;

/// `-h` and `--help`, at the width of a usual terminal.
#[test]
fn golden_help() {
    for tool in tools::every() {
        let mut text = String::new();
        for flag in ["-h", "--help"] {
            let mut command = Command::new(tools::binary(tool));
            command.arg(flag).env("COLUMNS", "100").env_remove("LINES");
            let output = command.output().expect("it runs");
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{tool}: {output:?}"
            );
            let help = String::from_utf8(output.stdout).expect("UTF-8");
            text += &format!("$ {tool} {flag}\n{help}\n");
        }
        files::check(&format!("help/{tool}.txt"), &text);
    }
}
