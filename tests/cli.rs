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

/// What the user typed, or a script was given, is told without moving the cursor or turning the line round.
#[test]
fn a_wrong_argument_is_told_with_escapes() {
    let hidden = "a\u{1b}[31m\u{202e}b\nc\u{200b}";
    for tool in tools::every() {
        for args in [
            &[hidden][..],
            &["--no-such", hidden],
            &["--netns", hidden],
            &["--raddr", hidden],
        ] {
            let output = run(tool, args);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_ne!(output.status.code(), Some(0), "{tool} {args:?}");
            assert!(
                said.is_ascii() && said.lines().count() == 1,
                "{tool}: {said:?}"
            );
            assert!(
                !said.trim_end().contains(char::is_control),
                "{tool}: {said:?}"
            );
        }
    }
}

#[test]
fn a_bound_is_told_and_nothing_wraps() {
    for (tool, args, bound) in [
        (
            "tcpconnect",
            &["--min-ms", "18446744073709.6"][..],
            "must be at most 2147483648000",
        ),
        (
            "tcpstates",
            &["--min-ms", "2147483648000.1"],
            "must be at most 2147483648000",
        ),
        ("tcpconnect", &["--pending", "0"], "must be at least 1ms"),
        (
            "tcpretrans",
            &["--summary", "--top", "4294967296"],
            "must be at most 4294967295",
        ),
        ("tcpprobe", &["--every", "0"], "must be at least 1"),
        (
            "tcprcvspace",
            &["--interval", "4294967296"],
            "must be at most 4294967295",
        ),
        (
            "tcplife",
            &["--duration", "2147483649"],
            "must be at most 2147483648s",
        ),
        ("tcplife", &["--count-events", "0"], "must be at least 1"),
        ("sockbuf", &["--buffer", "63"], "must be at least 64"),
    ] {
        let output = run(tool, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{tool} {args:?}: {said}");
        assert!(said.trim_end().ends_with(bound), "{tool} {args:?}: {said}");
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
