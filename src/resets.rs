// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why the kernel sends a reset: its own names, each with a cause and what to look at.

use std::io::Write;
use std::sync::LazyLock;

use crate::names::Names;
use crate::record;

static NAMES: LazyLock<Names> = LazyLock::new(|| match record::is_needed() {
    true => Names::from_record("tcp", "tcp_send_reset", "reason"),
    false => Names::from_kernel("sk_rst_reason", "SK_RST_REASON_"),
});

/// Reads the names, which without BTF takes privileges: before these are dropped.
pub fn load() {
    LazyLock::force(&NAMES);
}

/// The kernel's own name of a reason; `None` before 6.10, which has no reasons.
pub fn name(reason: i32) -> Option<&'static str> {
    NAMES.get(reason.into())
}

/// A reason, its cause, and what to look at.
struct Explained(&'static str, &'static str, &'static str);

/// `include/net/rstreason.h`, with where each is set: `net/ipv4/tcp*.c`, `net/ipv6/tcp_ipv6.c`, `net/mptcp/subflow.c`.
const EXPLAINED: &[Explained] = &[
    Explained(
        "NOT_SPECIFIED",
        "The kernel gives no reason here.",
        "The state and the flags of the packet that was answered.",
    ),
    Explained(
        "NO_SOCKET",
        "No socket has this address and port: nobody listens there (the packet was a SYN), or the connection is no longer known (any other packet).",
        "SYN: is the service up, and on this address? `ss -ltn`. Others: a restart, a timeout here that the other end did not see, a load balancer or NAT that sends a flow to the wrong host.",
    ),
    Explained(
        "TCP_INVALID_ACK_SEQUENCE",
        "During the handshake came an ACK for something that was never sent.",
        "An old connection with the same ports, a firewall that changes sequence numbers, forged packets.",
    ),
    Explained(
        "TCP_RFC7323_PAWS",
        "A segment's timestamp is older than one that was accepted before.",
        "Several clients behind one NAT address, a load balancer that shares ports; `nstat TcpExtPAWSEstab`.",
    ),
    Explained(
        "TCP_TOO_OLD_ACK",
        "An ACK is older than anything that can be in flight.",
        "A network that delays or repeats packets, forged packets.",
    ),
    Explained(
        "TCP_ACK_UNSENT_DATA",
        "An ACK is for data that was not sent yet.",
        "A middlebox that changes sequence numbers, forged packets.",
    ),
    Explained(
        "TCP_FLAGS",
        "The packet's flags do not fit the state: for a listener, an ACK that completes no handshake.",
        "SYN cookies that expired, a listener that was restarted, a load balancer that moves flows.",
    ),
    Explained(
        "TCP_OLD_ACK",
        "An ACK is old, but within the limit.",
        "A network that repeats packets.",
    ),
    Explained(
        "TCP_ABORT_ON_DATA",
        "Data came for a socket whose process had already shut down or closed it.",
        "Who closes first? The process gave up (its timeout, an error) while the other end still sent.",
    ),
    Explained(
        "TCP_TIMEWAIT_SOCKET",
        "A packet came for a connection that is over and sits out TIME_WAIT: mostly data after close().",
        "As TCP_ABORT_ON_DATA: this end closed before the other had finished.",
    ),
    Explained(
        "INVALID_SYN",
        "A SYN came in the middle of a connection.",
        "The other end restarted and uses the same port again, a load balancer that reuses ports, forged packets.",
    ),
    Explained(
        "TCP_ABORT_ON_CLOSE",
        "The process closed the socket with data in it that it had not read; it may also have exited or been killed.",
        "Does the process read all of a request before it answers and closes? An early error answer is the usual case.",
    ),
    Explained(
        "TCP_ABORT_ON_LINGER",
        "A socket that was closed waited for the other end's FIN, and TCP_LINGER2 says not to.",
        "The process's socket options.",
    ),
    Explained(
        "TCP_ABORT_ON_MEMORY",
        "Too many sockets without a process, or no memory for TCP.",
        "`ss -s`; net.ipv4.tcp_max_orphans, net.ipv4.tcp_mem; `nstat TcpExtTCPAbortOnMemory`.",
    ),
    Explained(
        "TCP_STATE",
        "The connection was cut in a state that demands a reset: SO_LINGER with time 0, connections that nobody had accepted when their listener was closed, `ss -K`.",
        "The process's use of SO_LINGER; a service that was stopped with connections waiting; an administrator's `ss -K`.",
    ),
    Explained(
        "TCP_KEEPALIVE_TIMEOUT",
        "The other end answered no keepalive probe, or not within TCP_USER_TIMEOUT.",
        "The network, or a firewall that forgot an idle connection; net.ipv4.tcp_keepalive_*.",
    ),
    Explained(
        "TCP_DISCONNECT_WITH_DATA",
        "The process disconnected a closing socket that still had data to send.",
        "The process: connect() with AF_UNSPEC.",
    ),
    Explained(
        "MPTCP_RST_EUNSPEC",
        "MPTCP: a subflow was reset, without a reason (RFC 8684).",
        "The other subflows: `ss -M`.",
    ),
    Explained(
        "MPTCP_RST_EMPTCP",
        "MPTCP: an error of the protocol.",
        "A middlebox that takes options away; `nstat -a | grep MPTcp`.",
    ),
    Explained(
        "MPTCP_RST_ERESOURCE",
        "MPTCP: no resources for one more subflow.",
        "`ip mptcp limits`.",
    ),
    Explained(
        "MPTCP_RST_EPROHIBIT",
        "MPTCP: one more subflow is not allowed.",
        "`ip mptcp limits`, `ip mptcp endpoint`.",
    ),
    Explained(
        "MPTCP_RST_EWQ2BIG",
        "MPTCP: too much data waits on the subflow.",
        "The subflow's path.",
    ),
    Explained(
        "MPTCP_RST_EBADPERF",
        "MPTCP: the subflow was too slow.",
        "The subflow's path.",
    ),
    Explained(
        "MPTCP_RST_EMIDDLEBOX",
        "MPTCP: a middlebox changed the data.",
        "The boxes on the subflow's path.",
    ),
    Explained(
        "ERROR",
        "An error that the kernel names no further.",
        "The state, and the packet that was answered.",
    ),
];

/// The reason's name, cause and advice, for its name with or without the prefix `TCP_` in any case; `None` when there is
/// no such reason.
pub fn explain(reason: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let wanted = reason.to_ascii_uppercase();
    let is_it = |e: &&Explained| e.0 == wanted || e.0.strip_prefix("TCP_") == Some(&wanted);
    let Explained(name, cause, look) = EXPLAINED.iter().find(is_it)?;
    Some((name, cause, look))
}

/// The reasons that this kernel has, or all that are known if it does not tell.
pub fn reasons() -> Vec<&'static str> {
    let mut all = NAMES.all();
    all.retain(|name| *name != "MAX");
    if all.is_empty() {
        all = EXPLAINED.iter().map(|e| e.0).collect();
    }
    all
}

/// Writes the explanation of each of these reasons.
///
/// # Errors
/// When it cannot be written.
pub fn print(reasons: &[&str], out: &mut impl Write) -> std::io::Result<()> {
    for reason in reasons {
        let newer = (
            *reason,
            "A reason that is newer than this command.",
            "include/net/rstreason.h of the kernel.",
        );
        let (name, cause, look) = explain(reason).unwrap_or(newer);
        writeln!(out, "{name}\n    {cause}\n    Look at: {look}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_this_kernel_is_explained() {
        for reason in reasons() {
            assert!(explain(reason).is_some(), "{reason}");
        }
    }

    #[test]
    fn a_reason_is_found_as_it_is_shown() {
        assert_eq!(explain("TCP_STATE"), explain("state"));
        assert!(explain("no_such_reason").is_none());
    }
}
