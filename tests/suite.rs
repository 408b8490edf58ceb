// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of commands says what the kernel halves attach to, and the front commands say what the table says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tcptools::suite::{TOOLS, Tool, UNUSED};

mod tools;

fn bpf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bpf")
}

/// The events of every `SEC("tp_btf/...")` in a source and in the headers of ours that it includes.
fn attached(from: &Path, file: &str, events: &mut BTreeSet<String>) {
    let own = from.join(file);
    let path = if own.exists() {
        own
    } else {
        bpf().join("common").join(file)
    };
    let from = path.parent().unwrap_or(from);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
    for line in text.lines() {
        let quoted = line.split('"').nth(1).unwrap_or_default();
        if line.starts_with("SEC(") {
            let section = quoted.trim_start_matches('?');
            let event = section
                .strip_prefix("tp_btf/")
                .or(section.strip_prefix("raw_tp/"));
            events.extend(event.map(str::to_owned));
        } else if line.starts_with("#include \"") && quoted.ends_with(".bpf.h") {
            attached(from, quoted, events);
        }
    }
}

/// Which of them are attached, the live test `attached` sees.
#[test]
fn programs_match_tracepoint_table() {
    for tool in TOOLS {
        let source = format!("{}.bpf.c", tool.name);
        if !bpf().join(&source).exists() {
            continue;
        }
        let mut events = BTreeSet::new();
        attached(&bpf(), &source, &mut events);
        let event = |full: &&str| full.rsplit(':').next().unwrap().to_owned();
        let table: BTreeSet<_> = tool.rows.iter().chain(tool.also).map(event).collect();
        let missing: Vec<_> = table.difference(&events).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", tool.name);
    }
}

#[test]
fn table_lists_every_command() {
    for entry in fs::read_dir(bpf().join("../bin")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs");
        let known = tcptools::suite::has(name) || name == "tcptools";
        assert!(known, "src/suite.rs lacks {name}");
        assert!(
            tools::every().any(|tool| tool == name),
            "tests/tools lacks {name}"
        );
    }
    for tool in tools::ALL {
        assert!(
            TOOLS.iter().any(|t| t.name == *tool),
            "src/suite.rs lacks {tool}"
        );
    }
}

/// The ten tracepoints that the suite exists for have rows; the page has every one that is used, or why it is not.
#[test]
fn every_documented_tracepoint_has_a_command() {
    let rows: Vec<_> = TOOLS.iter().flat_map(|tool: &Tool| tool.rows).collect();
    let page = fs::read_to_string(bpf().join("../../docs/tracepoints.md")).unwrap();
    for (event, _) in UNUSED {
        let said = page.contains(&format!(":{event}`"));
        assert!(said, "docs/tracepoints.md lacks {event}");
    }
    for name in TOOLS
        .iter()
        .flat_map(|tool| tool.rows.iter().chain(tool.also))
    {
        let said = page.contains(&format!("`{name}`"));
        assert!(said, "docs/tracepoints.md lacks {name}");
    }
    for name in [
        "tcp:tcp_retransmit_skb",
        "tcp:tcp_retransmit_synack",
        "tcp:tcp_send_reset",
        "tcp:tcp_receive_reset",
        "tcp:tcp_destroy_sock",
        "tcp:tcp_rcv_space_adjust",
        "tcp:tcp_probe",
        "sock:inet_sock_set_state",
        "sock:sock_rcvqueue_full",
        "sock:sock_exceed_buf_limit",
    ] {
        assert!(rows.contains(&&name), "no command has rows of {name}");
    }
}

fn run(tool: &str, args: &[&str]) -> Output {
    let mut command = Command::new(tools::binary(tool));
    command.args(args).output().expect("the command was built")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn list_and_help_name_every_command() {
    let (list, help) = (run("tcptools", &["list"]), run("tcptools", &["--help"]));
    for text in [stdout(&list), stdout(&help)] {
        for name in TOOLS.iter().map(|t| t.name).chain(["tplist"]) {
            let begins = |line: &str| line.trim_start().starts_with(&format!("{name} "));
            assert!(text.lines().any(begins), "{name}: {text}");
        }
    }
    let lines = stdout(&run("tcptools", &["list", "--json"]));
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), TOOLS.len());
    let life = lines.iter().find(|l| l["command"] == "tcplife").unwrap();
    assert_eq!(life["rows_from"][0], "sock:inet_sock_set_state");
    assert_eq!(life["installed"], true);
}

#[test]
fn command_keeps_name_and_arguments() {
    let through = run("tcptools", &["tplist", "--no-such-flag"]);
    assert_eq!(through.status.code(), Some(2));
    let said = String::from_utf8(through.stderr).unwrap();
    assert!(
        said.starts_with("tplist: ") && said.contains("--no-such-flag"),
        "{said}"
    );
    let help = stdout(&run("tcplife", &["--help"]));
    for args in [&["tcplife", "--help"][..], &["help", "tcplife"]] {
        assert_eq!(stdout(&run("tcptools", args)), help, "{args:?}");
    }
}

#[test]
fn output_fits_80_columns() {
    for args in [["list"], ["check"]] {
        for line in stdout(&run("tcptools", &args)).lines() {
            // A word of its own may be longer.
            let words = line.split_whitespace().count();
            let fits = line.chars().count() <= 80 || words < 2;
            assert!(fits, "{args:?}: {line}");
        }
    }
}

#[test]
fn no_arguments_print_help() {
    let help = stdout(&run("tcptools", &["--help"]));
    for args in [&[][..], &["help"]] {
        let output = run("tcptools", args);
        assert!(output.status.success() && output.stderr.is_empty());
        assert_eq!(stdout(&output), help, "{args:?}");
    }
    for own in ["list", "check"] {
        let output = run("tcptools", &["help", own]);
        let usage = format!("Usage: tcptools {own} [OPTIONS]");
        assert!(stdout(&output).contains(&usage), "{}", stdout(&output));
    }
}

#[test]
fn failure_is_one_sentence() {
    for (args, code, said) in [
        (&["nosuchtool"][..], 2, "unknown command 'nosuchtool'"),
        (&["../tcplife"], 2, "unknown command '../tcplife'"),
        (&["tcprtt", "-i", "1"], 2, "use tcpprobe --hist"),
        (&["tcplief"], 2, "did you mean tcplife?"),
        (&["help", "nettop"], 2, "use tcptop"),
        (&["help", "tcplife", "stray"], 2, "stray"),
        (&["list", "stray"], 2, "stray"),
    ] {
        let output = run("tcptools", args);
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(
            text.lines().count() == 1 && text.contains(said),
            "{args:?}: {text}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

/// Outside an installation the commands are beside this one, and nowhere else: not in PATH.
#[test]
fn missing_command_is_reported() {
    let dir = std::env::temp_dir().join(format!("tcptools-alone-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let alone = dir.join("tcptools");
    fs::copy(tools::binary("tcptools"), &alone).unwrap();
    let built = tools::binary("tcplife");
    // Another test's child may still hold the copy open for writing, between its fork and its exec.
    let output = loop {
        let output = Command::new(&alone)
            .args(["tcplife", "--version"])
            .env("PATH", built.parent().unwrap())
            .output();
        match output {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            other => break other,
        }
    };
    fs::remove_dir_all(&dir).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("tcptools: tcplife is not installed: "),
        "{said}"
    );
}

#[test]
fn tplist_runs_or_explains_unprivileged() {
    let state = run("tplist", &["-v", "inet_sock_set_state"]);
    let text = stdout(&state);
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap_or_default()
            .starts_with("sock:inet_sock_set_state "),
        "{text}"
    );
    for field in [
        "    int oldstate;",
        "    int newstate;",
        "    __u8 saddr[4];",
    ] {
        assert!(text.lines().any(|line| line == field), "{field}: {text}");
    }
    for (args, code, said) in [
        (&["-p", "1"][..], 2, "USDT"),
        (&["-l", "c"], 2, "USDT"),
        (&["["], 2, "pattern"),
        (&["no:such*"], 1, "'no:such*'"),
    ] {
        let output = run("tplist", args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(
            text.contains(said) && output.stdout.is_empty(),
            "{args:?}: {text}"
        );
    }
}

#[test]
fn tplist_shows_users() {
    let all = stdout(&run("tplist", &["--json", "tcp:*"]));
    let all: Vec<Value> = all
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let find = |name: &str| all.iter().find(|t| t["name"] == name).unwrap();
    assert_eq!(find("tcp_probe")["shown_by"][0], "tcpprobe");
    assert_eq!(find("tcp_bad_csum")["shown_by"][0], "tcpdrop");
    assert_eq!(find("tcp_cong_state_set")["shown_by"][0], "tcpcong");
    assert!(
        find("tcp_rcv_space_adjust")["read_by"]
            .to_string()
            .contains("tcplife")
    );
    let socket = &find("tcp_probe")["args"][0];
    assert_eq!(socket["name"], "sk");
    // The kernel's own structs say the same as the record: an address fills what sockaddr_in6 needs.
    let fields = find("tcp_probe")["fields"].as_array().unwrap();
    let source = fields.iter().find(|f| f["name"] == "saddr").unwrap();
    assert_eq!(
        (source["type"].as_str(), source["size"].as_u64()),
        (Some("__u8[28]"), Some(28))
    );
}
