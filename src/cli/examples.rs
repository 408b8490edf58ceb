// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of `--help`: three examples, and the name of the man page. `tests/cli.rs` tries the examples' flags.

use std::fmt::Write;

/// An example: the arguments, and what they show.
type Example = (&'static str, &'static str);

/// Three for each command.
#[rustfmt::skip] // a line per example
const EXAMPLES: &[(&str, [Example; 3])] = &[
    ("sockbuf", [
        ("", "overflows, and which limit was met"),
        ("--summary -d 10s", "sums, and the kernel's own counters"),
        ("-L 53", "one service's sockets"),
    ]),
    ("tcpaccept", [
        ("", "clients, and the accept queue"),
        ("--listeners", "listeners, and what is wrong with them"),
        ("--summary=1s -L 443", "opens per second of one port"),
    ]),
    ("tcpcong", [
        ("-D 5001", "connections to port 5001"),
        ("--new loss", "only those into loss"),
        ("--summary=10s --by raddr", "time in each state, by peer"),
    ]),
    ("tcpconnect", [
        ("--failed", "opens that failed, or have no answer"),
        ("--min-ms 500", "slow ones"),
        ("-c --by comm,rport", "who connects where, and how often"),
    ]),
    ("tcpdrop", [
        ("", "segments dropped here, and why"),
        ("--summary=10s", "counts by reason, every ten seconds"),
        ("--explain NETFILTER_DROP", "what a reason means"),
    ]),
    ("tcpinfo", [
        ("-w -D 443", "final statistics of clients"),
        ("--json --comm nginx", "all of them, for a script"),
        ("--columns comm,raddr,cwnd", "only these columns"),
    ]),
    ("tcplat", [
        ("--min-ms 100", "turns that took 100 ms, and where"),
        ("--summary -d 10s", "percentiles by process"),
        ("-L 8080 --hist", "a histogram of one server's turns"),
    ]),
    ("tcplife", [
        ("-L 443", "a local server's sessions, as they end"),
        ("-w --comm curl", "one program's, in more columns"),
        ("--active -d 1s --sort idle", "what is open, too, idle longest first"),
    ]),
    ("tcpprobe", [
        ("-D 5001 --changes", "the congestion window, when it changes"),
        ("--live --interval 100ms", "as sparklines, per connection"),
        ("-d 10s --plot cwnd.svg", "as a picture, of ten seconds"),
    ]),
    ("tcprcvspace", [
        ("-L 5001 --changes", "receive buffers as they grow"),
        ("--summary -d 10s", "sockets that their window limits"),
        ("--grow", "what became of each step"),
    ]),
    ("tcpreset", [
        ("", "resets sent and received, and why"),
        ("--summary --by comm,reason", "counts, on exit"),
        ("--explain NO_SOCKET", "what a reason means"),
    ]),
    ("tcpretrans", [
        ("", "retransmissions, and their cause"),
        ("--summary=10s --by raddr", "the share that is sent again, by peer"),
        ("--why -D 443", "also whether this host dropped it"),
    ]),
    ("tcpstates", [
        ("--active --state last_ack", "sockets in a state, and since when"),
        ("--summary -d 1s", "how many in each state, and whose"),
        ("--new close_wait -L 443", "changes to CLOSE_WAIT"),
    ]),
    ("tcptools", [
        ("triage", "what is wrong on this host"),
        ("follow --port 443", "the story of each connection of a port"),
        ("tcplife -L 443", "a command, with its flags"),
    ]),
    ("tcptop", [
        ("", "who moves the most, on a screen"),
        ("--stalled -b", "what does not move, and why, as rows"),
        ("--by comm -b -d 3s", "sums by process, three times"),
    ]),
    ("tplist", [
        ("'tcp:*'", "TCP's tracepoints, and their commands"),
        ("-v tcp:tcp_probe", "one, with its fields and arguments"),
        ("--json", "all, for a script"),
    ]),
];

/// Widest of the examples' commands; what they show begins two columns behind it.
const WIDTH: usize = 36;

/// The end of a command's `--help`, after what the command itself says there.
pub(super) fn text(tool: &str, before: &str) -> String {
    let mut text = String::from(before);
    text.push_str("Examples:\n");
    let of = EXAMPLES.iter().find(|(name, _)| *name == tool);
    for (arguments, shows) in of.map(|(_, examples)| examples).into_iter().flatten() {
        let line = format!("{tool} {arguments}");
        let _ = writeln!(text, "  {:<WIDTH$}  {shows}", line.trim_end());
    }
    let page = match tool {
        "tcptools" => String::new(),
        _ => format!("-{tool}"),
    };
    let _ = write!(text, "\nManual page: tcptools{page}(8)");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{OTHERS, TOOLS};

    #[test]
    fn every_command_has_examples_that_fit() {
        let others = OTHERS.iter().map(|(name, _)| *name);
        for tool in TOOLS.iter().map(|tool| tool.name).chain(others) {
            assert!(EXAMPLES.iter().any(|(name, _)| *name == tool), "{tool}");
            for line in text(tool, "").lines() {
                assert!(line.len() <= 80, "{tool}: {} in {line}", line.len());
            }
        }
    }
}
