// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of the suite and the tracepoints they use: one line each, for `tcptools list`, `tplist` and the tests.

/// A command of the suite.
#[derive(Debug)]
pub struct Tool {
    /// Its name, and that of its `src/bpf/<name>.bpf.c`.
    pub name: &'static str,
    /// What one row of it is.
    pub row: &'static str,
    /// What it traces, for the line that a terminal gets.
    pub traced: &'static str,
    /// The tracepoints that its rows are made of, as `category:event`.
    pub rows: &'static [&'static str],
    /// The tracepoints that it attaches to besides, to know owners and endings; some only with certain flags.
    pub also: &'static [&'static str],
}

/// What `src/bpf/common/owner/owner.bpf.h` attaches to.
const OWNER: &[&str] = &["sock:inet_sock_set_state", "tcp:tcp_rcv_space_adjust"];
/// [`OWNER`], and how a session was reset.
const RESET: &[&str] = &[
    "tcp:tcp_rcv_space_adjust",
    "tcp:tcp_receive_reset",
    "tcp:tcp_send_reset",
];
/// [`OWNER`], and what was sent again.
const RETRANS: &[&str] = &[
    "sock:inet_sock_set_state",
    "tcp:tcp_rcv_space_adjust",
    "tcp:tcp_retransmit_skb",
];

const fn tool(
    name: &'static str,
    row: &'static str,
    traced: &'static str,
    rows: &'static [&'static str],
    also: &'static [&'static str],
) -> Tool {
    Tool {
        name,
        row,
        traced,
        rows,
        also,
    }
}

/// Every command that traces. A live test compares the tracepoints with what running commands are attached to.
#[rustfmt::skip] // one line per command
pub const TOOLS: &[Tool] = &[
    tool("tcplife", "a TCP session when it ends, and how it ended", "TCP sessions as they end", &["sock:inet_sock_set_state"], RESET),
    tool("tcpstates", "a change of state, and the time in the old one", "changes of TCP state", &["sock:inet_sock_set_state"], RETRANS),
    tool("tcpconnect", "an active open, its outcome and latency", "active opens", &["sock:inet_sock_set_state"], &[]),
    tool("tcpaccept", "a passive open", "passive opens", &["sock:inet_sock_set_state"], &[]),
    tool("tcpretrans", "a retransmission of a segment or a SYN/ACK", "retransmissions", &["tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"], OWNER),
    tool("tcpcong", "a change of the congestion state", "changes of the congestion state", &["tcp:tcp_cong_state_set"], OWNER),
    tool("tcpreset", "an RST sent or received, and why", "RSTs sent and received", &["tcp:tcp_send_reset", "tcp:tcp_receive_reset"], OWNER),
    tool("tcpdrop", "a segment that this host throws away, and why", "TCP segments that this host throws away", &["skb:kfree_skb"], OWNER),
    tool("tcpprobe", "a sample of the congestion window", "congestion windows", &["tcp:tcp_probe"], RETRANS),
    tool("tcpinfo", "a socket's final TCP statistics", "TCP sockets as they are destroyed", &["tcp:tcp_destroy_sock"], OWNER),
    tool("tcplat", "a turn of a request, and where its time went", "turns of requests", &["sock:sock_send_length", "sock:sock_recv_length", "sock:sk_data_ready"], OWNER),
    tool("tcptop", "a connection, its rates, or why it does not move", "TCP connections", &["sock:inet_sock_set_state"], &["tcp:tcp_rcv_space_adjust"]),
    tool("tcprcvspace", "a step of receive-buffer autotuning", "receive-buffer autotuning", &["tcp:tcp_rcv_space_adjust", "tcp:tcp_rcvbuf_grow"], OWNER),
    tool("sockbuf", "a socket buffer that overflowed or met its limit", "socket buffers that overflow or meet a limit", &["sock:sock_rcvqueue_full", "sock:sock_exceed_buf_limit", "udp:udp_fail_queue_rcv_skb"], OWNER),
];

/// Tracepoints that nothing needs to be attached to, by the command whose rows tell of the same: the kernel throws the
/// segment away right after them, at `skb:kfree_skb`, and its reason says what they say.
const SAME: &[(&str, &[&str])] = &[(
    "tcpdrop",
    &[
        "tcp:tcp_bad_csum",
        "tcp:tcp_hash_bad_header",
        "tcp:tcp_hash_md5_required",
        "tcp:tcp_hash_md5_unexpected",
        "tcp:tcp_hash_md5_mismatch",
        "tcp:tcp_hash_ao_required",
        "tcp:tcp_ao_handshake_failure",
        "tcp:tcp_ao_wrong_maclen",
        "tcp:tcp_ao_mismatch",
        "tcp:tcp_ao_key_not_found",
    ],
)];

/// The commands that do not trace: name, and what they do.
pub const OTHERS: &[(&str, &str)] = &[
    ("tplist", "list tracepoints, their fields and their users"),
    ("tcptools", "list these, check the host, run them"),
];

/// The tracepoints of `tcp:` and `sock:` that no command is attached to, and why: at most 46 characters, for tplist.
pub const UNUSED: &[(&str, &str)] = &[
    (
        "tcp_sendmsg_locked",
        "a step of a write; tcptop counts its bytes",
    ),
    (
        "inet_sk_error_report",
        "at CLOSE the socket itself has its error",
    ),
    ("tcp_ao_rcv_sne_update", KEYS),
    ("tcp_ao_rnext_request", KEYS),
    ("tcp_ao_snd_sne_update", KEYS),
    ("tcp_ao_synack_no_key", KEYS),
];
const KEYS: &str = "keys of TCP-AO; nothing is dropped or sent";

/// Why no command is attached to it; `None` for one that some command uses, or that is of another category.
pub fn why_unused(event: &str) -> Option<&'static str> {
    let found = UNUSED.iter().find(|(name, _)| *name == event);
    found.map(|(_, why)| *why)
}

/// What a command that traces is looking for, as the line on a terminal says it.
pub fn traced(name: &str) -> &'static str {
    let tool = TOOLS.iter().find(|tool| tool.name == name);
    tool.map_or("TCP", |tool| tool.traced)
}

/// Whether the suite has this command, the front command itself not counted.
pub fn has(name: &str) -> bool {
    name == "tplist" || TOOLS.iter().any(|tool| tool.name == name)
}

/// The commands whose rows are made of this tracepoint, or tell of the same.
pub fn shown_by(event: &str) -> Vec<&'static str> {
    let mut shown = using(event, |tool| tool.rows);
    let same = SAME.iter().filter(|(_, all)| names(all, event));
    shown.extend(same.map(|(name, _)| *name));
    shown
}

/// The commands that attach to this tracepoint only to know more about a row.
pub fn read_by(event: &str) -> Vec<&'static str> {
    let shown = shown_by(event);
    let mut read = using(event, |tool| tool.also);
    read.retain(|name| !shown.contains(name));
    read
}

/// Event names are unique in a kernel, so the category need not be known.
fn names(list: &[&str], event: &str) -> bool {
    let named = |full: &&str| full.rsplit(':').next() == Some(event);
    list.iter().any(named)
}

fn using(event: &str, list: fn(&Tool) -> &'static [&'static str]) -> Vec<&'static str> {
    let uses = |tool: &&Tool| names(list(tool), event);
    TOOLS.iter().filter(uses).map(|tool| tool.name).collect()
}

/// Every tracepoint that some command uses, once, in the order of the table.
pub fn tracepoints() -> Vec<&'static str> {
    let mut all: Vec<&str> = vec![];
    for name in TOOLS
        .iter()
        .flat_map(|tool| tool.rows.iter().chain(tool.also))
    {
        if !all.contains(name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_helpers_are_kept_apart() {
        assert_eq!(shown_by("tcp_rcv_space_adjust"), ["tcprcvspace"]);
        let read = read_by("tcp_rcv_space_adjust");
        assert!(read.contains(&"tcplife") && !read.contains(&"tcprcvspace"));
        assert_eq!(shown_by("tcp_hash_md5_mismatch"), ["tcpdrop"]);
        assert!(shown_by("sched_switch").is_empty() && read_by("sched_switch").is_empty());
    }

    #[test]
    fn what_is_unused_is_not_used() {
        for (event, why) in UNUSED {
            let used = [shown_by(event), read_by(event)].concat();
            assert!(used.is_empty(), "{event} is used by {used:?}");
            assert!(why.len() <= 46, "{event}");
        }
    }

    #[test]
    fn the_list_fits_a_terminal() {
        for tool in TOOLS {
            assert!(tool.row.len() <= 50, "{}", tool.name);
            assert_ne!(traced(tool.name), "TCP", "{}", tool.name);
        }
    }
}
