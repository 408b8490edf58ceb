// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured under which load, and the targets.

use std::path::Path;

use crate::load::Load;
use crate::subject::{Kind, Subject};

/// One line of a load's table. A multiple is one of the last empty program above it.
enum Line {
    /// Name, and the tracepoints that it is on.
    Empty(&'static str, &'static [&'static str]),
    /// A command of ours; its kernel time is to be at most so many empty programs', its rate at least so much of the
    /// untraced one.
    Ours(&'static str, Option<f64>, Option<f64>),
    /// Another project's, in a Debian package.
    Peer(&'static str),
}
use Line::{Empty, Ours, Peer};

/// The rate of the empty program, and of a command that has nothing to show.
const NEAR: Option<f64> = Some(0.97);

const STORM: &[Line] = &[
    Empty("empty program, set_state", &["inet_sock_set_state"]),
    Ours("tcplife", Some(3.0), Some(0.96)),
    Ours("tcpstates", Some(5.0), Some(0.92)),
    Ours("tcpconnect", Some(2.0), NEAR),
    Ours("tcpaccept", Some(2.0), NEAR),
    Ours("tcpinfo", Some(4.0), Some(0.95)),
    Ours("tcptools metrics", None, NEAR),
    Ours("tcptools metrics --labels comm,lport", None, None),
    // Nothing to show.
    Ours("tcplife -L 1", None, NEAR),
    Ours("tcpstates -L 1", None, NEAR),
    Ours("tcpprobe -L 1", None, NEAR),
    Ours("tcpretrans", None, NEAR),
    Ours("tcpreset", None, NEAR),
    Ours("sockbuf", None, NEAR),
    Peer("/usr/sbin/tcplife"),
    Peer("/usr/sbin/tcpstates"),
    Peer("/usr/sbin/tcpconnect"),
    Peer("/usr/sbin/tcptracer"),
    Peer("tcplife-bpfcc"),
    Peer(
        "bpftrace -e 'tracepoint:sock:inet_sock_set_state { printf(\"%d %s %d %d\\n\", pid, comm, args->oldstate, args->newstate); }'",
    ),
];

const FLOOD: &[Line] = &[
    Empty("empty program, set_state", &["inet_sock_set_state"]),
    Ours("tcplife", None, None),
    Ours("tcpstates", None, None),
    Ours("tcpinfo", None, None),
    Peer("/usr/sbin/tcplife"),
    Peer("/usr/sbin/tcpstates"),
];

const RESET: &[Line] = &[
    // tcpreset follows the changes of state of the same connections: a reset alone does not say whose it is.
    Empty(
        "empty programs, set_state and resets",
        &["inet_sock_set_state", "tcp_send_reset", "tcp_receive_reset"],
    ),
    Ours("tcpreset", Some(4.0), NEAR),
    Ours("tcplife", None, None),
    Peer(
        "bpftrace -e 'tracepoint:tcp:tcp_receive_reset { printf(\"%d %s %d %d\\n\", pid, comm, args->sport, args->dport); }'",
    ),
];

const BULK: &[Line] = &[
    Empty("empty program, tcp_probe", &["tcp_probe"]),
    Peer(
        "bpftrace -e 'tracepoint:tcp:tcp_probe { printf(\"%d %d %d\\n\", args->sport, args->snd_cwnd, args->srtt); }'",
    ),
    // Commands also look at each read, which says whose the socket is.
    Empty(
        "empty programs, tcp_probe and rcv_space_adjust",
        &["tcp_probe", "tcp_rcv_space_adjust"],
    ),
    Ours("tcpprobe -L 1", Some(1.3), NEAR),
    Ours("tcpprobe --interval 100ms", None, None),
    Ours("tcpprobe", None, None),
    Empty(
        "empty programs, retransmit_skb and rcv_space_adjust",
        &["tcp_retransmit_skb", "tcp_rcv_space_adjust"],
    ),
    Ours("tcpretrans", None, None),
    Ours("tcpretrans -L 1", None, NEAR),
    Peer("tcpretrans-bpfcc"),
    Empty(
        "empty programs, cong_state_set and rcv_space_adjust",
        &["tcp_cong_state_set", "tcp_rcv_space_adjust"],
    ),
    Ours("tcpcong", None, None),
    Ours("tcpcong -L 1", None, NEAR),
    Empty("empty program, rcv_space_adjust", &["tcp_rcv_space_adjust"]),
    Ours("tcprcvspace", None, None),
    Ours("tcprcvspace -L 1", None, NEAR),
];

const DROP: &[Line] = &[
    Empty(
        "empty program, udp_fail_queue_rcv_skb",
        &["udp_fail_queue_rcv_skb"],
    ),
    Ours("sockbuf", None, None),
    // None of these drops is TCP's.
    Empty("empty program, kfree_skb", &["kfree_skb"]),
    Ours("tcpdrop", None, NEAR),
];

/// On calls, and what wakes a reader: a command looks at reads twice, as to whose the socket is.
const CALLS: &[Line] = &[
    Empty(
        "empty programs, send, recv, data_ready and rcv_space_adjust",
        &[
            "sock_send_length",
            "sock_recv_length",
            "sk_data_ready",
            "tcp_rcv_space_adjust",
        ],
    ),
    Ours("tcplat --min-ms 1000", None, None),
    Ours("tcplat --summary", None, None),
    Ours("tcplat", None, None),
    Ours("tcplat -L 1", None, NEAR),
];

/// The subjects of a load, those whose name has `only` in it and what they are compared with. Every command of ours is
/// measured a second time, right after, out of the directory `against`.
pub fn subjects(load: Load, only: Option<&str>, against: Option<&Path>) -> Vec<Subject> {
    let lines = match load {
        Load::Storm => STORM,
        Load::Flood => FLOOD,
        Load::Reset => RESET,
        Load::Bulk => BULK,
        Load::Drop => DROP,
        Load::Turns | Load::Bytes => CALLS,
    };
    let mut subjects = vec![];
    for line in lines {
        match *line {
            Empty(name, events) => subjects.push(Subject::empty(name, events)),
            Ours(line, kernel, rate) => {
                let own = Subject::own(line);
                subjects.push(Subject {
                    kernel_target: kernel,
                    rate_target: rate,
                    ..own
                });
                subjects.extend(against.map(|folder| Subject::earlier(line, folder)));
            }
            Peer(line) => subjects.push(Subject::peer(line)),
        }
    }
    let wanted = |s: &Subject| only.is_none_or(|only| s.name.contains(only));
    subjects.retain(|s| matches!(s.kind, Kind::Empty(_)) || wanted(s));
    subjects
}
