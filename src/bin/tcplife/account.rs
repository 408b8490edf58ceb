// SPDX-License-Identifier: MIT OR Apache-2.0
//! What inet_diag tells of a session's socket once it is destroyed. Between the change to CLOSE and then nothing of it
//! changes, unless tcp_disconnect() clears it.

use tcptools::bytes::Sent;
use tcptools::diag::Described;
use tcptools::names::state::{CLOSE_WAIT, CLOSING, FIN_WAIT2, LAST_ACK, SYN_SENT};
use tcptools::types::{known, seen_end};

use super::super::bpf::types::session;
use super::{FIN_BOTH, FIN_REMOTE, NONE};

/// `CALLS` of record.bpf.h.
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

/// Whether two events came about within one call. Of the functions that close and destroy a socket at once, some that
/// called them are in both lists; a process that closes it later has come another way. `None`: no calls are known.
pub fn within_one(calls: &Calls, later: &Calls) -> Option<bool> {
    let known = |calls: &Calls| calls[0] != 0;
    let shared = |call: &u32| *call != 0 && later.contains(call);
    (known(calls) && known(later)).then(|| calls.iter().any(shared))
}

/// What its socket counted of what was sent.
fn counted(told: &Described) -> Sent {
    /// `tcpi_bytes_sent` and `tcpi_bytes_retrans`, since 4.19, end here.
    const LEAST: usize = 216;
    let info = &told.info;
    let payload = info.bytes_sent.checked_sub(info.bytes_retrans);
    Sent {
        acked: info.bytes_acked,
        payload: payload.filter(|_| told.info_bytes >= LEAST),
        wqueue: told.wqueue,
        notsent: info.notsent_bytes,
    }
}

impl Ended {
    fn sent(&self, told: &Described) -> Option<u64> {
        counted(told).bytes(self.old, self.opened_here)
    }

    /// `bytes_received` has the other end's FIN as one.
    fn received(&self, told: &Described) -> Option<u64> {
        let fin = self.fin_came(told.rqueue)?;
        Some(told.info.bytes_received.saturating_sub(fin.into()))
    }

    /// Whether the other end's FIN has come. `unread`: of what has come, the FIN included.
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

    /// Whether our FIN was the last thing to be acknowledged tells these endings better than the records do.
    fn reason(&self, told: &Described) -> Option<u8> {
        match (self.old, told.wqueue) {
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
pub fn complete(row: &mut session, ended: &Ended, told: &Described) {
    if told.netns != 0 {
        row.head.netns = told.netns;
    }
    if told.flow.rport != row.head.flow.rport || told.info_bytes == 0 {
        return;
    }
    let info = &told.info;
    *row = session {
        tx_bytes: ended.sent(told).unwrap_or(u64::MAX),
        rx_bytes: ended.received(told).unwrap_or(u64::MAX),
        srtt_us: info.rtt,
        min_rtt_us: info.min_rtt,
        total_retrans: info.total_retrans,
        snd_cwnd: info.snd_cwnd,
        mss: info.snd_mss,
        told_rate: info.delivery_rate,
        reason: ended.reason(told).unwrap_or(row.reason),
        bare: BARE_TOLD,
        ..*row
    };
}

/// Completes a row with what the socket itself has at CLOSE, with `--btf`.
pub fn complete_at_close(row: &mut session, ended: &Ended, end: &seen_end) {
    row.bare = BARE_ERROR;
    if end.known & known::TCP == 0 {
        return;
    }
    let sent = Sent::from(&end.bytes).bytes(ended.old, ended.opened_here);
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
        bare: 0,
        ..*row
    };
}

/// [`session::bare`]: all from records, and the same with the account.
pub const BARE: u8 = 1;
pub const BARE_TOLD: u8 = 2;
/// The error alone is known.
pub const BARE_ERROR: u8 = 3;

#[cfg(test)]
mod tests {
    use tcptools::diag::TcpInfo;
    use tcptools::names::state::{ESTABLISHED, FIN_WAIT1};

    use super::*;

    fn told(bytes_acked: u64, bytes_received: u64, rqueue: u32, wqueue: u32) -> Described {
        Described {
            rqueue,
            wqueue,
            info: TcpInfo {
                bytes_acked,
                bytes_received,
                bytes_sent: 1000,
                ..TcpInfo::default()
            },
            info_bytes: 248,
            ..Described::default()
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
    fn what_an_old_kernel_does_not_count_tells_nothing() {
        let told = |info_bytes| Described {
            info_bytes,
            ..told(1000, 0, 0, 0)
        };
        assert_eq!(ended(ESTABLISHED, None).sent(&told(160)), None);
        assert_eq!(ended(ESTABLISHED, None).sent(&told(248)), Some(1000));
    }

    #[test]
    fn the_other_ends_fin_is_told_by_state_queue_and_calls() {
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
        // Orphaned: the FIN lies unread, or there is none yet.
        assert_eq!(came(FIN_WAIT2, 1, Some(true)), Some(true));
        assert_eq!(came(FIN_WAIT2, 0, Some(true)), Some(false));
        // The process has read to the end, or not all of it.
        assert_eq!(came(FIN_WAIT2, 0, Some(false)), Some(true));
        assert_eq!(came(FIN_WAIT2, 8, Some(false)), Some(true));
        // Nothing tells.
        assert_eq!(came(FIN_WAIT2, 0, None), None);
        let reset = Ended {
            reset: true,
            ..ended(FIN_WAIT2, None)
        };
        assert_eq!(reset.fin_came(5), Some(false));
    }

    #[test]
    fn calls_that_have_a_caller_in_common_are_one() {
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
    fn a_session_that_was_killed_in_its_last_state_has_no_fin_to_end_it() {
        assert_eq!(
            ended(LAST_ACK, None).reason(&told(1, 0, 0, 0)),
            Some(FIN_REMOTE)
        );
        assert_eq!(ended(CLOSING, None).reason(&told(1, 0, 0, 1)), Some(NONE));
        assert_eq!(ended(FIN_WAIT2, None).reason(&told(1, 0, 0, 0)), None);
    }
}
