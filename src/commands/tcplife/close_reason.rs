// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a session ended, decided from what its socket was like at the change to CLOSE (docs/principles.md 10).

use crate::abi::app_bytes::is_closing;
use crate::abi::names::state::{CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT};
use nix::errno::Errno;

use super::bpf::types::session;

/// Indices of the names of reasons in columns.rs.
pub(super) const NONE: u8 = 0;
pub(super) const FIN_LOCAL: u8 = 1;
pub(super) const FIN_REMOTE: u8 = 2;
pub(super) const FIN_BOTH: u8 = 3;
pub(super) const RST_SENT: u8 = 4;
pub(super) const RST_RECEIVED: u8 = 5;
pub(super) const REFUSED: u8 = 6;
pub(super) const TIMEOUT: u8 = 7;
pub(super) const UNREACHABLE: u8 = 8;
pub(super) const ABORTED: u8 = 9;

/// Bits of `enum ended` of tcplife.bpf.c.
pub(super) mod ended {
    /// It is an MPTCP connection's own socket: no `struct tcp_sock`.
    pub const MPTCP: u16 = 1;
    pub const RST_SENT: u16 = 1 << 1;
    pub const RST_RECEIVED: u16 = 1 << 2;
    /// `sk_err_soft` is the error.
    pub const SOFT_ERROR: u16 = 1 << 3;
    /// The other end's FIN has come.
    pub const FIN_RECEIVED: u16 = 1 << 4;
    /// Data came after our FIN was queued.
    pub const UNREAD: u16 = 1 << 5;
    /// Not all that was written is acknowledged, our FIN included.
    pub const UNACKED: u16 = 1 << 6;
    /// A process holds the socket's lock.
    pub const OWNED: u16 = 1 << 7;
    /// TCP_LINGER2 is below 0: no FIN_WAIT2.
    pub const NO_LINGER2: u16 = 1 << 8;
    /// SHUT_RD
    pub const RCV_SHUTDOWN: u16 = 1 << 9;
    /// TCP_REPAIR
    pub const REPAIR: u16 = 1 << 10;
}

/// What decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// The state before CLOSE.
    pub old: u8,
    /// `sk_err`, or what stands for it (`connect_error()` of ending.bpf.h); 0: none.
    pub error: u8,
    /// Bits of [`ended`].
    pub facts: u16,
}

impl From<&session> for Ending {
    fn from(body: &session) -> Self {
        Self {
            old: body.state,
            error: body.errno_,
            facts: body.ended,
        }
    }
}

impl Ending {
    fn has(&self, fact: u16) -> bool {
        self.facts & fact != 0
    }

    /// The reason, and whether a reset that follows within microseconds may still change it.
    ///
    /// The reset that a local close() with unread data, SO_LINGER 0 or a closed listener sends leaves only after the change
    /// to CLOSE, so it is told from the states: a session that leaves ESTABLISHED or CLOSE_WAIT straight for CLOSE with no
    /// error is one that we reset (net/ipv4/tcp.c: tcp_close, tcp_disconnect). Where that need not be so, the reset decides.
    pub fn reason(&self) -> (u8, bool) {
        match Errno::from_raw(self.error.into()) {
            Errno::ETIMEDOUT | Errno::ECONNABORTED => (self.reason_of_error(), false),
            _ if self.has(ended::RST_RECEIVED) && self.old == SYN_SENT => (REFUSED, false),
            // Data after shutdown also ends in tcp_reset(), with no RST received: then ours follows.
            _ if self.has(ended::RST_RECEIVED) => {
                let late = self.has(ended::UNREAD) && self.has(ended::RCV_SHUTDOWN);
                (RST_RECEIVED, is_closing(self.old) && late)
            }
            _ if self.is_by_error() => (self.reason_of_error(), false),
            _ if self.old == SYN_SENT => (ABORTED, false),
            _ if is_closing(self.old) => self.finished(),
            _ => self.cut_here(),
        }
    }

    /// What `sk_err` says: set before the change to CLOSE by everything but a FIN, a reset of ours and a local close().
    fn reason_of_error(&self) -> u8 {
        match Errno::from_raw(self.error.into()) {
            Errno::ETIMEDOUT => TIMEOUT,
            // tcp_abort(): ss -K, bpf_sock_destroy()
            Errno::ECONNABORTED => ABORTED,
            // ICMP port unreachable; an RST has been seen before.
            Errno::ECONNREFUSED => REFUSED,
            // An RST that came before there was state to note it in.
            Errno::ECONNRESET | Errno::EPIPE => RST_RECEIVED,
            _ => UNREACHABLE,
        }
    }

    /// Whether `sk_err` is what ended it. An ICMP error that IP_RECVERR lets the process see ends nothing and may wait
    /// there, so neither a close() by the process, nor a FIN that was acknowledged, is due to it. A timeout ends it by the
    /// error that is in `sk_err_soft`, if there is one (net/ipv4/tcp_timer.c: tcp_write_err); IP_RECVERR's is not
    /// (tcp_ipv4.c: tcp_v4_err).
    fn is_by_error(&self) -> bool {
        match (self.old, Errno::from_raw(self.error.into())) {
            _ if self.error == 0 => false,
            _ if self.has(ended::MPTCP) => true,
            (SYN_SENT | SYN_RECV, _) | (_, Errno::ECONNRESET | Errno::EPIPE) => true,
            _ if !self.has(ended::SOFT_ERROR) => false,
            // Keepalive, which resets first.
            (FIN_WAIT2, _) => self.has(ended::RST_SENT),
            (LAST_ACK | CLOSING, _) => self.has(ended::UNACKED),
            _ => true,
        }
    }

    /// No error and no reset came before: the first FIN tells, unless it was not even acknowledged.
    fn finished(&self) -> (u8, bool) {
        let first = match self.old {
            CLOSING => FIN_BOTH,
            LAST_ACK => FIN_REMOTE,
            _ => FIN_LOCAL,
        };
        match self.old {
            _ if self.has(ended::RST_SENT) => (RST_SENT, false),
            FIN_WAIT1 | LAST_ACK | CLOSING if self.has(ended::UNACKED) => self.cut_here(),
            // The other end has not finished: a close() with unread data, or data that comes too late, resets.
            FIN_WAIT1 | FIN_WAIT2 => {
                let resets = ended::UNREAD | ended::OWNED | ended::NO_LINGER2;
                (first, !self.has(ended::FIN_RECEIVED) && self.has(resets))
            }
            _ => (first, false),
        }
    }

    /// Nothing that was received ended it: a reset of ours is about to leave, or nothing is sent at all.
    fn cut_here(&self) -> (u8, bool) {
        match self.old {
            _ if self.has(ended::RST_SENT) => (RST_SENT, false),
            // Its subflows send the resets.
            _ if self.has(ended::MPTCP) => (RST_SENT, false),
            // The connection goes on elsewhere.
            _ if self.has(ended::REPAIR) => (ABORTED, false),
            old if is_closing(old) || old == SYN_RECV => (ABORTED, true),
            _ => (RST_SENT, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::names::state::{CLOSE_WAIT, ESTABLISHED};

    fn reason(old: u8, error: Errno, facts: u16) -> (u8, bool) {
        let error = error as u8;
        Ending { old, error, facts }.reason()
    }

    const OK: Errno = Errno::UnknownErrno;

    #[test]
    fn close_reason_by_fin_reset_or_error() {
        use ended::*;
        for (old, error, facts, outcome) in [
            (FIN_WAIT2, OK, FIN_RECEIVED, (FIN_LOCAL, false)),
            (FIN_WAIT2, OK, UNREAD, (FIN_LOCAL, true)),
            (FIN_WAIT2, OK, OWNED, (FIN_LOCAL, true)),
            (LAST_ACK, OK, FIN_RECEIVED, (FIN_REMOTE, false)),
            (CLOSING, OK, FIN_RECEIVED, (FIN_BOTH, false)),
            (LAST_ACK, OK, UNACKED, (ABORTED, true)),
            (
                LAST_ACK,
                OK,
                super::ended::RST_SENT,
                (super::RST_SENT, false),
            ),
            (ESTABLISHED, OK, 0, (super::RST_SENT, false)),
            (CLOSE_WAIT, OK, UNACKED, (super::RST_SENT, false)),
            (ESTABLISHED, OK, REPAIR, (ABORTED, false)),
            (SYN_RECV, OK, 0, (ABORTED, true)),
            (SYN_SENT, OK, 0, (ABORTED, false)),
            (FIN_WAIT1, OK, MPTCP, (FIN_LOCAL, false)),
            (ESTABLISHED, OK, MPTCP, (super::RST_SENT, false)),
            (
                SYN_SENT,
                Errno::ECONNREFUSED,
                super::ended::RST_RECEIVED,
                (REFUSED, false),
            ),
            (SYN_SENT, Errno::EHOSTUNREACH, 0, (UNREACHABLE, false)),
            (
                ESTABLISHED,
                Errno::ECONNRESET,
                super::ended::RST_RECEIVED,
                (super::RST_RECEIVED, false),
            ),
            (
                FIN_WAIT2,
                Errno::EPIPE,
                super::ended::RST_RECEIVED | UNREAD | RCV_SHUTDOWN,
                (super::RST_RECEIVED, true),
            ),
            (ESTABLISHED, Errno::ETIMEDOUT, 0, (TIMEOUT, false)),
            (
                ESTABLISHED,
                Errno::ECONNABORTED,
                super::ended::RST_SENT,
                (ABORTED, false),
            ),
            // The process did not read what IP_RECVERR told it.
            (
                LAST_ACK,
                Errno::EHOSTUNREACH,
                SOFT_ERROR,
                (FIN_REMOTE, false),
            ),
            (
                ESTABLISHED,
                Errno::EHOSTUNREACH,
                0,
                (super::RST_SENT, false),
            ),
            (
                ESTABLISHED,
                Errno::EHOSTUNREACH,
                SOFT_ERROR,
                (UNREACHABLE, false),
            ),
            (
                LAST_ACK,
                Errno::EHOSTUNREACH,
                SOFT_ERROR | UNACKED,
                (UNREACHABLE, false),
            ),
        ] {
            assert_eq!(
                reason(old, error, facts),
                outcome,
                "{old} {error} {facts:#x}"
            );
        }
    }

    /// Over all states, errors that matter and facts: what must hold whatever else is true.
    #[test]
    fn every_close_has_a_reason() {
        use Errno::*;
        for (old, facts) in (1..=11).flat_map(|old| (0..1 << 11).map(move |facts| (old, facts))) {
            for error in [
                OK,
                ETIMEDOUT,
                ECONNABORTED,
                ECONNREFUSED,
                ECONNRESET,
                EPIPE,
                EHOSTUNREACH,
            ] {
                let (outcome, may_change) = reason(old, error, facts);
                let what = format!("{old} {error} {facts:#x}: {outcome}");
                assert!(outcome != NONE && outcome <= ABORTED, "{what}");
                assert_eq!(outcome == TIMEOUT, error == ETIMEDOUT, "{what}");
                let by_reset = matches!(outcome, FIN_LOCAL | RST_RECEIVED | ABORTED);
                assert!(
                    !may_change || by_reset && (is_closing(old) || old == SYN_RECV),
                    "{what}"
                );
                if matches!(outcome, FIN_LOCAL | FIN_REMOTE | FIN_BOTH) {
                    let resets = ended::RST_SENT | ended::RST_RECEIVED;
                    assert!(is_closing(old) && facts & resets == 0, "{what}");
                }
            }
        }
    }
}
