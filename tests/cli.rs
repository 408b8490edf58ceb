// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every command's command line must do, without privileges.

use std::process::{Command, Output};

mod tools;

fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tools::binary(tool))
        .args(args)
        .output()
        .expect("the command was built")
}

#[test]
fn help_and_version_go_to_stdout() {
    for tool in tools::every() {
        let help = run(tool, &["--help"]);
        assert!(help.status.success() && help.stderr.is_empty(), "{tool}");
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains(&format!("Usage: {tool}")), "{tool}: {text}");
        let version = run(tool, &["--version"]);
        let expected = format!("{tool} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
    }
}

#[test]
fn a_wrong_argument_is_one_line_on_stderr_and_exit_code_2() {
    for tool in tools::ALL {
        for args in [
            &["--no-such-flag"][..],
            &["--duration", "soon"],
            &["--netns", "/no/such/file"],
        ] {
            let output = run(tool, args);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{tool} {args:?}");
            assert!(output.stdout.is_empty(), "{tool} {args:?}");
            assert_eq!(said.lines().count(), 1, "{tool} {args:?}: {said}");
            assert!(said.starts_with(&format!("{tool}: ")), "{said}");
        }
    }
}
