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

/// The examples at the end of the help are lines that the command takes.
#[test]
fn help_ends_with_examples_and_the_page() {
    for tool in tools::every() {
        let help = String::from_utf8(run(tool, &["--help"]).stdout).unwrap();
        let (_, end) = help.rsplit_once("Examples:\n").unwrap_or_default();
        let (lines, page) = end.rsplit_once("\n\n").unwrap_or_default();
        assert_eq!(lines.lines().count(), 3, "{tool}: {end}");
        let name = match tool {
            "tcptools" => "tcptools".to_owned(),
            _ => format!("tcptools-{tool}"),
        };
        assert_eq!(page, format!("Manual page: {name}(8)\n"));
        for line in lines.lines() {
            let words = line.trim().split("  ").next().unwrap_or_default();
            let mut words = words.split(' ').map(|word| word.trim_matches('\''));
            assert_eq!(words.next(), Some(tool), "{line}");
            let mut words = Vec::from_iter(words);
            // The flags before it are looked at, and nothing is traced.
            words.push("--help");
            let output = run(tool, &words);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{line}: {said}");
        }
    }
}

/// What the user typed, or a script was given, is told without moving the cursor or turning the line round.
#[test]
fn wrong_argument_is_escaped() {
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
fn bounds_are_reported() {
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
            &["--interval", "2147483649"],
            "must be at most 2147483648s",
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
fn wrong_argument_is_one_line_and_exit_2() {
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

/// Before anything is asked of the kernel, and without a right.
#[test]
fn unknown_column_is_one_line_and_exit_2() {
    for tool in tools::ALL {
        for list in ["nonsense", "+nonsense", "-nonsense", "pid,,comm", "--json"] {
            let output = run(tool, &["--columns", list]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{tool} {list}: {said}");
            assert_eq!(said.lines().count(), 1, "{tool} {list}: {said}");
        }
    }
}

#[test]
fn sums_have_their_flags_and_rows_do_not() {
    for (tool, args, of) in [
        ("tcpconnect", &["--by", "comm"][..], "--count"),
        ("tcpconnect", &["--sort", "comm"], "--count"),
        ("tcpretrans", &["--by", "comm"], "--count or --summary"),
        ("tcpretrans", &["--sort", "-pid"], "--count or --summary"),
        ("tcpreset", &["--by", "comm"], "--summary"),
        ("tcpdrop", &["--by", "reason"], "--summary"),
        ("tcplife", &["--sort", "pid"], "--active"),
        ("tcpaccept", &["--sort", "pid"], "--listeners or --summary"),
        ("tcprcvspace", &["--sort", "pid"], "--summary"),
        (
            "tcpconnect",
            &["-c", "--by", "comm,nonsense"],
            "comm, uid, cgroup",
        ),
        ("tcpreset", &["--summary", "--by", "reason,reason"], "twice"),
    ] {
        let output = run(tool, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{tool} {args:?}: {said}");
        assert!(said.contains(of), "{tool} {args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{tool} {args:?}: {said}");
    }
}
