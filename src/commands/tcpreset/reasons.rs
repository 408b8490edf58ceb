// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's reasons for sending a reset, each with a cause and advice.

use std::sync::LazyLock;

use crate::cli::explain::Explained;
use crate::kernel::{enums::Names, features};

static NAMES: LazyLock<Names> = LazyLock::new(|| match features::lacking().is_some() {
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

/// `include/net/rstreason.h`, with where each is set: `net/ipv4/tcp*.c`, `net/ipv6/tcp_ipv6.c`, `net/mptcp/subflow.c`.
const EXPLAINED: &[Explained<'static>] = &[
    Explained(
        "NOT_SPECIFIED",
        "The kernel gives no reason here.",
        "The state and the flags of the packet that was answered.",
    ),
    Explained(
        "NO_SOCKET",
        "No socket has this address and port. The packet was a SYN: nobody listens there (hint no_listener). Any other packet: this host does not know the connection, or no longer.",
        "SYN: is the service up, on this address and in this network namespace? `ss -ltn`. Others: the hint; a restart, a timeout here that the other end did not see, a load balancer or NAT that sends a flow to the wrong host.",
    ),
    Explained(
        "TCP_INVALID_ACK_SEQUENCE",
        "The answer to a connect() from here acknowledges something else than its SYN: as a rule the other end still has an old connection with the same ports, which this reset removes. The SYN is sent again.",
        "Does the connect() succeed a moment later (tcpconnect)? Then a client that crashed, or a port that is used again too soon. Otherwise a firewall that changes sequence numbers, forged packets.",
    ),
    Explained(
        "TCP_RFC7323_PAWS",
        "The answer to a connect() from here echoes a timestamp that was not sent. (In an established connection the kernel drops such segments, and resets nothing.)",
        "A proxy or a load balancer that answers for another host, or changes timestamps; `nstat TcpExtPAWSActive`.",
    ),
    Explained(
        "TCP_TOO_OLD_ACK",
        "The ACK that should end a handshake here is older than anything it can be for. (In an established connection no reset is sent for it.)",
        "An old connection with the same ports, forged packets.",
    ),
    Explained(
        "TCP_ACK_UNSENT_DATA",
        "The ACK that should end a handshake here is for data that was not sent. (In an established connection no reset is sent for it.)",
        "A middlebox that changes sequence numbers, forged packets.",
    ),
    Explained(
        "TCP_FLAGS",
        "For a listener: a packet that is no SYN and belongs to no connection in its queues. Mostly a late segment of a connection that is over, often one that was reset just before (hint late_segment): a consequence, not a cause. It can also be the last ACK of a handshake that the listener has given up, or of a SYN cookie that is not valid (any more).",
        "The connection's other reset, if there is one: that tells why. Otherwise a listener or host that was restarted, a load balancer that moves flows, `nstat TcpExtSyncookiesFailed`.",
    ),
    Explained(
        "TCP_OLD_ACK",
        "The ACK that should end a handshake here acknowledges nothing new. (In an established connection no reset is sent for it.)",
        "An old connection with the same ports, a network that repeats packets.",
    ),
    Explained(
        "TCP_ABORT_ON_DATA",
        "Data came for a socket whose process had already shut down or closed it. Also where TCP_LINGER2 below 0 lets a closed socket not wait for the other end's FIN.",
        "Who closes first? The process gave up (its timeout for idle connections, an error) while the other end still sent: the end that reuses connections must drop them sooner than the end that closes them.",
    ),
    Explained(
        "TCP_TIMEWAIT_SOCKET",
        "This end has closed and sent its FIN, and waits for the other end's: data came instead, or a SYN.",
        "As TCP_ABORT_ON_DATA: this end closed before the other had finished.",
    ),
    Explained(
        "INVALID_SYN",
        "Two things, which the packet's flags tell apart. With SYN: a SYN that does not fit, in the middle of a handshake. Without: the ACK of a handshake, and no room for the connection: the accept queue is full and net.ipv4.tcp_abort_on_overflow says to reset (hint accept_queue_full).",
        "With SYN: the other end restarted and uses the same port again, a load balancer that reuses ports, forged packets. Without: the process that does not accept(), see the hint.",
    ),
    Explained(
        "TCP_ABORT_ON_CLOSE",
        "The process closed the socket with data in it that it had not read; it may also have exited or been killed. The reset can destroy an answer that was sent just before.",
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
        "This end cut the connection: SO_LINGER with time 0, connections that nobody had accepted when their listener was closed, `ss -K`, connect() with AF_UNSPEC. In FIN_WAIT2: a closed socket has waited for the other end's FIN for longer than net.ipv4.tcp_fin_timeout.",
        "The process's use of SO_LINGER; a service that was stopped with connections waiting; an administrator's `ss -K`.",
    ),
    Explained(
        "TCP_KEEPALIVE_TIMEOUT",
        "The other end answered no keepalive probe, or not within TCP_USER_TIMEOUT. The reset hardly arrives anywhere either.",
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

/// What is known of a reset besides its reason: numbers of `HINTS`, from 1 on.
pub mod hint {
    /// `accept_queue_full`
    pub const ACCEPT_QUEUE_FULL: u8 = 1;
    /// `late_segment`
    pub const LATE_SEGMENT: u8 = 2;
    /// `no_listener`
    pub const NO_LISTENER: u8 = 3;
    /// `address_translation`
    pub const ADDRESS_TRANSLATION: u8 = 4;
}

/// With what each rests on.
const HINTS: &[Explained<'static>] = &[
    Explained(
        "accept_queue_full",
        "The client's connection was ready, but the listener's accept queue was full, and net.ipv4.tcp_abort_on_overflow says to reset. Rests on the queue and the setting at that moment, and on a packet without SYN.",
        "The process that does not accept(): is it blocked, short of threads or CPU? tcpaccept --summary; then the backlog of listen() and net.core.somaxconn; `nstat TcpExtListenOverflows`.",
    ),
    Explained(
        "late_segment",
        "A segment of a connection that was reset within the last minute: this reset only answers what was under way. Rests on the earlier reset of the same two ends.",
        "The earlier reset.",
    ),
    Explained(
        "no_listener",
        "A SYN, and nobody listens there. Rests on the packet.",
        "Is the service up, on this address and in this network namespace? `ss -ltn`.",
    ),
    Explained(
        "address_translation",
        "A packet of nobody's was answered with a reset, and within 3 seconds a reset came for a connection that was opened from the same local port to another address: as a rule a packet of that connection whose address was not translated back (conntrack took it for invalid), and its sender took the answer for the connection's. Rests on the two resets.",
        "`conntrack -S` (invalid) where addresses are translated; net.netfilter.nf_conntrack_tcp_be_liberal=1 there, or a rule that drops packets of state invalid.",
    ),
];

/// The name of a hint, by its number.
pub fn hint_name(number: u8) -> Option<&'static str> {
    HINTS.get(usize::from(number).checked_sub(1)?).map(|e| e.0)
}

/// The names of all hints.
pub fn hints() -> Vec<&'static str> {
    HINTS.iter().map(|e| e.0).collect()
}

/// What is known of a reason or a hint, for its name in any case, a reason's with or without the prefix `TCP_`; `None` when
/// there is no such one.
pub fn explain(wanted: &str) -> Option<&'static Explained<'static>> {
    EXPLAINED.iter().chain(HINTS).find(|e| e.is_named(wanted))
}

/// The reasons of this kernel, or all known ones if it has no list.
pub fn reasons() -> Vec<&'static str> {
    let mut all = NAMES.all();
    all.retain(|name| *name != "MAX");
    if all.is_empty() {
        all = EXPLAINED.iter().map(|e| e.0).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_reason_is_explained() {
        for reason in reasons() {
            assert!(explain(reason).is_some(), "{reason}");
        }
    }

    #[test]
    fn reason_is_found_by_shown_name() {
        assert_eq!(
            explain("TCP_STATE").map(|e| e.0),
            explain("state").map(|e| e.0)
        );
        assert!(explain("no_such_reason").is_none());
        assert_eq!(explain("late_segment").map(|e| e.0), Some("late_segment"));
    }

    #[test]
    fn hints_match_their_names() {
        assert_eq!(hint_name(0), None);
        assert_eq!(hint_name(hint::NO_LISTENER), Some("no_listener"));
        assert_eq!(
            hint_name(hint::ADDRESS_TRANSLATION),
            Some("address_translation")
        );
        assert_eq!(hint_name(HINTS.len() as u8 + 1), None);
    }
}
