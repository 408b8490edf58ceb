// SPDX-License-Identifier: MIT OR Apache-2.0
//! Suggestions for unknown command names: commands of other packages, and typing errors.

use crate::suite::{OTHERS, TOOLS};

/// Commands of bcc, libbpf-tools, bpftrace and the like, and what does the same here.
const PEERS: [(&str, &str); 23] = [
    ("netstat", "tcplife --active lists the open sessions"),
    ("nettop", "use tcptop"),
    ("skbdrop", "use tcpdrop, for TCP"),
    ("so1stbyte", ""),
    ("soaccept", "use tcpaccept"),
    ("soclose", "use tcplife"),
    ("soconnect", "use tcpconnect"),
    ("soconnlat", "use tcpconnect --hist"),
    ("sockstat", "tcpstates --summary counts sockets by state"),
    (
        "socksize",
        "tcpinfo and sockbuf show the sizes of socket buffers",
    ),
    ("sofdsnoop", ""),
    ("solisten", "use tcpstates --new LISTEN"),
    ("sormem", "use tcprcvspace, or sockbuf for full buffers"),
    ("ss", "tcplife --active lists the open sessions"),
    (
        "tcpconnlat",
        "use tcpconnect --hist, or --min-ms for slow ones",
    ),
    ("tcpdump", ""),
    ("tcpnagle", ""),
    (
        "tcppktlat",
        "use tcplat, which shows how long data waits for its reader",
    ),
    ("tcprtt", "use tcpprobe --hist"),
    ("tcpsubnet", "use tcplife --raddr with the subnet"),
    (
        "tcpsynbl",
        "tcpaccept --summary shows the longest accept queue",
    ),
    ("tcptracer", "use tcpconnect, tcpaccept and tcplife"),
    ("tcpwin", "use tcpprobe"),
];

/// The sentence for a name that is none of `known`.
pub fn unknown_of(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    match closest(name, known) {
        Some(other) => format!("unknown {what} '{name}'; did you mean {other}?"),
        None => format!("unknown {what} '{name}'"),
    }
}

/// The sentence for a name that is no command of the suite.
pub fn unknown(name: &str) -> String {
    // Debian's names of bcc's and bpftrace's commands.
    let bare = name.trim_end_matches("-bpfcc").trim_end_matches(".bt");
    if bare != name && known().any(|tool| tool == bare) {
        return format!("unknown command '{name}': use {bare}");
    }
    match PEERS.iter().find(|(peer, _)| *peer == bare) {
        Some((_, "")) => format!("unknown command '{name}', and no command here does the same"),
        Some((_, instead)) => format!("unknown command '{name}': {instead}"),
        None => match alike(name) {
            Some(other) => format!("unknown command '{name}'; did you mean {other}?"),
            None => format!("unknown command '{name}'; see tcptools list"),
        },
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    let others = OTHERS.iter().map(|(name, _)| *name);
    TOOLS.iter().map(|tool| tool.name).chain(others)
}

/// The command whose name is most like it, if any is.
fn alike(name: &str) -> Option<&'static str> {
    let words = known().filter(|other| *other != "tcptools");
    closest(name, words.chain(["list", "check", "help", "triage"]))
}

fn closest(name: &str, words: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let rated = words.map(|other| (strsim::jaro_winkler(name, other), other));
    let best = rated.max_by(|a, b| a.0.total_cmp(&b.0));
    // All names begin alike, so that this takes more than the beginning.
    best.filter(|(rate, _)| *rate > 0.88)
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_suites_names_map_to_commands() {
        for (peer, instead) in PEERS {
            assert!(!known().any(|tool| tool == peer), "{peer}");
            let mut named = known().filter(|tool| instead.contains(tool));
            assert!(instead.is_empty() || named.next().is_some(), "{peer}");
        }
    }

    #[test]
    fn typo_gets_a_suggestion() {
        for (name, meant) in [
            ("tcplief", "did you mean tcplife?"),
            ("tcpretran", "did you mean tcpretrans?"),
            ("tcpstate", "did you mean tcpstates?"),
            ("chekc", "did you mean check?"),
            ("tcplife-bpfcc", "use tcplife"),
            ("tcprtt-bpfcc", "tcpprobe --hist"),
            ("frobnicate", "tcptools list"),
            ("", "tcptools list"),
        ] {
            let said = unknown(name);
            assert!(said.contains(meant), "{name}: {said}");
        }
    }
}
