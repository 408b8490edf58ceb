// SPDX-License-Identifier: MIT OR Apache-2.0
//! A letter that means something else in one command than in the others, or in bcc, says so where it is refused.

use std::collections::BTreeMap;
use std::process::Command;

use tcptools::cli::{DESCRIBE, Flag};

mod tools;

fn flags(tool: &str) -> Vec<Flag> {
    let output = Command::new(tools::binary(tool)).arg(DESCRIBE).output();
    serde_json::from_slice(&output.unwrap().stdout).unwrap()
}

/// What a wrong command line is answered with.
fn refused(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tools::binary(tool)).args(args).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{tool} {args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{tool} {args:?}: {said}");
    said
}

/// The long name of each letter, with whether it takes a value.
fn letters(tool: &str) -> BTreeMap<char, (String, bool)> {
    let named = |flag: Flag| Some((flag.short?, (flag.long?, flag.value.is_some())));
    flags(tool).into_iter().filter_map(named).collect()
}

/// tcplife has every shared letter, and none of its own.
#[test]
fn reused_letters_are_explained() {
    let shared = letters("tcplife");
    let mut explained = vec![];
    for tool in tools::ALL {
        for (letter, (own, takes_value)) in letters(tool) {
            let Some((long, wanted)) = shared.get(&letter) else {
                continue;
            };
            if own != *long && *wanted && !takes_value {
                let said = refused(tool, &[&format!("-{letter}"), "3"]);
                let hint = format!("-{letter} is --{own} here; use --{long} 3");
                assert!(said.contains(&hint), "{tool}: {said}");
                explained.push((*tool, letter));
            }
        }
    }
    assert_eq!(explained, [("tcpconnect", 'L'), ("tcpconnect", 'd')]);
}

/// bcc's and libbpf-tools' letters, by our command of that name or that does the same.
#[test]
fn every_bcc_letter_is_accepted_or_explained() {
    for (tool, theirs) in [
        ("tcplife", "pLDwstT46"),
        ("tcpstates", "TtwsLDY46"),
        ("tcpconnect", "tpPLUucd46"),
        ("tcpaccept", "TtpP46"),
        ("tcpretrans", "slc46"),
        ("tcpcong", "LRTduj"),
        ("tcpdrop", "46"),
        ("tcpprobe", "ipPaAbBemTd"),
        ("tplist", "vpl"),
    ] {
        let help = Command::new(tools::binary(tool)).arg("--help").output();
        let help = String::from_utf8(help.unwrap().stdout).unwrap();
        let hidden = ["tplist -p", "tplist -l"];
        for letter in theirs.chars() {
            let known = letters(tool).contains_key(&letter)
                || help.contains(&format!("-{letter}"))
                || hidden.contains(&&*format!("{tool} -{letter}"));
            if !known {
                let said = refused(tool, &[&format!("-{letter}"), "3"]);
                assert!(said.contains(": use -"), "{tool} -{letter}: {said}");
            }
        }
    }
}
