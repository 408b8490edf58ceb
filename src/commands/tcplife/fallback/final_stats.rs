// SPDX-License-Identifier: MIT OR Apache-2.0
//! What inet_diag tells of a session's socket once it is destroyed. Between the change to CLOSE and then nothing of it
//! changes, unless tcp_disconnect() clears it.

use crate::abi::app_bytes::Sent;
use crate::abi::known::{KNOWN_ERROR, KNOWN_NETNS};
use crate::abi::names::state::{CLOSE_WAIT, CLOSING, FIN_WAIT2, LAST_ACK, SYN_SENT};
use crate::abi::types::{close_event, known};
use crate::kernel::sock_diag::DiagSocket;

use super::super::bpf::types::session;
use super::super::close_reason::{FIN_BOTH, FIN_REMOTE, NONE};
use super::super::columns::{CLOSED, DESTROYED};

/// `CALLS` of fallback.bpf.h.
pub type Calls = [u32; 8];

/// How a session ended, as far as its account is to be read by it.
#[derive(Clone, Copy, Default)]
pub struct Ended {
    /// The state before CLOSE.
    pub old: u8,
    /// Whether this end sent the first SYN, which `bytes_acked` counts; `None`: not seen.
    pub opened_here: Option<bool>,
    /// An RST ended it, sent or received.
    pub reset: bool,
    /// What was under way at CLOSE.
    pub calls: Calls,
    /// Whether the call that closed the socket also destroyed it: no process had it any more.
    pub at_once: Option<bool>,
}

/// Whether two events happened within one call. If the socket is closed and destroyed at once, both stacks have
/// callers in common; a later close by a process has other callers. `None`: no stacks are known.
pub fn within_one(calls: &Calls, later: &Calls) -> Option<bool> {
    let known = |calls: &Calls| calls[0] != 0;
    let shared = |call: &u32| *call != 0 && later.contains(call);
    (known(calls) && known(later)).then(|| calls.iter().any(shared))
}

/// The socket's counters of sent bytes.
fn counted(diag: &DiagSocket) -> Sent {
    /// `tcpi_bytes_sent` and `tcpi_bytes_retrans`, since 4.19, end here.
    const MIN_INFO_BYTES: usize = 216;
    let info = &diag.info;
    let payload = info.bytes_sent.checked_sub(info.bytes_retrans);
    Sent {
        acked: info.bytes_acked,
        payload: payload.filter(|_| diag.info_bytes >= MIN_INFO_BYTES),
        wqueue: diag.wqueue,
        notsent: info.notsent_bytes,
    }
}

impl Ended {
    fn sent(&self, diag: &DiagSocket) -> Option<u64> {
        counted(diag).bytes(self.old, self.opened_here)
    }

    /// `bytes_received` has the other end's FIN as one.
    fn received(&self, diag: &DiagSocket) -> Option<u64> {
        let fin = self.fin_came(diag.rqueue)?;
        Some(diag.info.bytes_received.saturating_sub(fin.into()))
    }

    /// Whether the peer's FIN has arrived. `unread`: received bytes that were not read, including the FIN.
    ///
    /// Only FIN_WAIT2 does not tell: a FIN closes it, but so does the kernel when no process has the socket any more,
    /// and keeps a small one to wait for the FIN. Then nothing is unread, or close() would have reset the session.
    fn fin_came(&self, unread: u32) -> Option<bool> {
        match self.old {
            CLOSE_WAIT | LAST_ACK | CLOSING => Some(true),
            FIN_WAIT2 if self.reset => Some(false),
            FIN_WAIT2 => match (unread, self.at_once) {
                (1, _) | (_, Some(false)) => Some(true),
                (0, Some(true)) => Some(false),
                _ => None,
            },
            _ => Some(false),
        }
    }

    /// Whether the local FIN was acknowledged decides these cases better than the records do.
    fn reason(&self, diag: &DiagSocket) -> Option<u8> {
        match (self.old, diag.wqueue) {
            _ if self.reset => None,
            (LAST_ACK, 0) => Some(FIN_REMOTE),
            (CLOSING, 0) => Some(FIN_BOTH),
            (LAST_ACK | CLOSING, _) => Some(NONE),
            _ => None,
        }
    }
}

/// Of an attempt no byte was acknowledged, and none has come: SYN_SENT ends with the first segment that is acceptable.
pub fn is_attempt(old: u8) -> bool {
    old == SYN_SENT
}

/// Completes a row, unless tcp_disconnect() has cleared the account, with the remote end.
pub fn complete(row: &mut session, ended: &Ended, diag: &DiagSocket) {
    if diag.netns != 0 {
        row.head.netns = diag.netns;
        row.head.known |= KNOWN_NETNS;
    }
    if diag.flow.rport != row.head.flow.rport || diag.info_bytes == 0 {
        return;
    }
    row.head.known |= DESTROYED;
    let info = &diag.info;
    *row = session {
        tx_bytes: ended.sent(diag).unwrap_or(u64::MAX),
        rx_bytes: ended.received(diag).unwrap_or(u64::MAX),
        srtt_us: info.rtt,
        min_rtt_us: info.min_rtt,
        total_retrans: info.total_retrans,
        snd_cwnd: info.snd_cwnd,
        mss: info.snd_mss,
        delivery_rate: info.delivery_rate,
        reason: ended.reason(diag).unwrap_or(row.reason),
        ..*row
    };
}

/// Completes a row with what the socket itself has at CLOSE, with `--btf`.
pub fn complete_at_close(row: &mut session, ended: &Ended, end: &close_event) {
    row.head.known |= KNOWN_ERROR;
    if end.known & known::TCP == 0 {
        return;
    }
    let sent = Sent::from(&end.bytes).bytes(ended.old, ended.opened_here);
    row.head.known |= CLOSED;
    // The other end's FIN counts as one.
    let received = end.bytes.received.saturating_sub(end.fin_received.into());
    *row = session {
        tx_bytes: sent.unwrap_or(u64::MAX),
        rx_bytes: received,
        srtt_us: end.srtt_us,
        min_rtt_us: end.min_rtt_us,
        total_retrans: end.total_retrans,
        snd_cwnd: end.snd_cwnd,
        mss: end.mss,
        rate_delivered: end.rate_delivered,
        rate_interval_us: end.rate_interval_us,
        ca_name: end.ca_name,
        mptcp: end.mptcp,
        ..*row
    };
}

#[cfg(test)]
mod tests {
    use crate::abi::names::state::{ESTABLISHED, FIN_WAIT1};
    use crate::kernel::sock_diag::TcpInfo;

    use super::*;

    fn diag(bytes_acked: u64, bytes_received: u64, rqueue: u32, wqueue: u32) -> DiagSocket {
        DiagSocket {
            rqueue,
            wqueue,
            info: TcpInfo {
                bytes_acked,
                bytes_received,
                bytes_sent: 1000,
                ..TcpInfo::default()
            },
            info_bytes: 248,
            ..DiagSocket::default()
        }
    }

    fn ended(old: u8, opened_here: Option<bool>) -> Ended {
        Ended {
            old,
            opened_here,
            ..Ended::default()
        }
    }

    #[test]
    fn uncounted_bytes_are_unknown() {
        let diag = |info_bytes| DiagSocket {
            info_bytes,
            ..diag(1000, 0, 0, 0)
        };
        assert_eq!(ended(ESTABLISHED, None).sent(&diag(160)), None);
        assert_eq!(ended(ESTABLISHED, None).sent(&diag(248)), Some(1000));
    }

    #[test]
    fn peer_fin_follows_from_state_queue_and_calls() {
        let came = |old, unread, at_once| {
            let ended = Ended {
                at_once,
                ..ended(old, None)
            };
            ended.fin_came(unread)
        };
        assert_eq!(came(LAST_ACK, 0, None), Some(true));
        assert_eq!(came(FIN_WAIT1, 0, None), Some(false));
        assert_eq!(came(ESTABLISHED, 7, None), Some(false));
        // Orphaned: the FIN is unread, or has not arrived.
        assert_eq!(came(FIN_WAIT2, 1, Some(true)), Some(true));
        assert_eq!(came(FIN_WAIT2, 0, Some(true)), Some(false));
        // The process has read to the end, or not all of it.
        assert_eq!(came(FIN_WAIT2, 0, Some(false)), Some(true));
        assert_eq!(came(FIN_WAIT2, 8, Some(false)), Some(true));
        // Unknown.
        assert_eq!(came(FIN_WAIT2, 0, None), None);
        let reset = Ended {
            reset: true,
            ..ended(FIN_WAIT2, None)
        };
        assert_eq!(reset.fin_came(5), Some(false));
    }

    #[test]
    fn calls_with_common_caller_are_one() {
        let calls = |list: &[u32]| {
            let mut calls = Calls::default();
            calls[..list.len()].copy_from_slice(list);
            calls
        };
        let (none, closed) = (calls(&[]), calls(&[1, 2, 3, 4]));
        assert_eq!(within_one(&closed, &calls(&[8, 9, 3, 4])), Some(true));
        assert_eq!(within_one(&closed, &calls(&[8, 9])), Some(false));
        assert_eq!(within_one(&closed, &none), None);
        assert_eq!(within_one(&none, &closed), None);
    }

    #[test]
    fn killed_session_has_no_final_fin() {
        assert_eq!(
            ended(LAST_ACK, None).reason(&diag(1, 0, 0, 0)),
            Some(FIN_REMOTE)
        );
        assert_eq!(ended(CLOSING, None).reason(&diag(1, 0, 0, 1)), Some(NONE));
        assert_eq!(ended(FIN_WAIT2, None).reason(&diag(1, 0, 0, 0)), None);
    }
}
