// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application's bytes of a session, out of counters in which SYN and FIN count as bytes (`src/bpf/common/bytes.bpf.h`,
//! which does the same where the kernel half can).

use crate::abi::names::state::{CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK};
use crate::abi::types::byte_counts;

/// What `struct tcp_sock` counts of what was sent (include/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// `bytes_acked`: our SYN and FIN count as one each.
    pub acked: u64,
    /// `bytes_sent - bytes_retrans`: payload; `None` where the kernel does not count it (before 4.19).
    pub payload: Option<u64>,
    /// `write_seq - snd_una`.
    pub wqueue: u32,
    /// `write_seq - snd_nxt`.
    pub notsent: u32,
}

impl From<&byte_counts> for Sent {
    fn from(counts: &byte_counts) -> Self {
        Self {
            acked: counts.acked,
            payload: counts.sent.checked_sub(counts.retrans),
            wqueue: counts.wqueue,
            notsent: counts.notsent,
        }
    }
}

/// Whether our FIN has been queued.
pub fn is_closing(state: u8) -> bool {
    matches!(state, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK)
}

impl Sent {
    /// Bytes of the application's that the other end has. `state`: before CLOSE. `opened_here`: whether this end sent
    /// the first SYN, if that was seen. `None`: it does not tell.
    pub fn bytes(&self, state: u8, opened_here: Option<bool>) -> Option<u64> {
        let syn = opened_here.or_else(|| self.has_syn(state))?;
        let fin = is_closing(state) && self.wqueue == 0;
        Some(
            self.acked
                .saturating_sub(syn.into())
                .saturating_sub(fin.into()),
        )
    }

    /// The SYN is in `acked`, if that is more than the payload, and no FIN is. What is neither tells nothing: where the
    /// own host drops segments they are in `bytes_sent` twice.
    fn has_syn(&self, state: u8) -> Option<bool> {
        let in_flight = self.wqueue.checked_sub(self.notsent)?;
        let fin = u64::from(is_closing(state) && self.notsent == 0);
        match (self.acked + u64::from(in_flight)).checked_sub(self.payload? + fin) {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::abi::names::state::ESTABLISHED;

    use super::*;

    fn sent(acked: u64, wqueue: u32) -> Sent {
        Sent {
            acked,
            payload: Some(1000),
            wqueue,
            notsent: 0,
        }
    }

    #[test]
    fn syn_and_fin_are_not_application_bytes() {
        for (state, opened_here, acked, wqueue) in [
            (ESTABLISHED, Some(false), 1000, 0),
            (ESTABLISHED, Some(true), 1001, 0),
            (FIN_WAIT2, Some(true), 1002, 0),
            (LAST_ACK, Some(false), 1001, 0),
            (LAST_ACK, Some(false), 1000, 1),
            // Open before the trace: the payload tells.
            (ESTABLISHED, None, 1000, 0),
            (ESTABLISHED, None, 1001, 0),
            (CLOSING, None, 1002, 0),
            (LAST_ACK, None, 1001, 0),
            (FIN_WAIT1, None, 1001, 1),
        ] {
            let bytes = sent(acked, wqueue).bytes(state, opened_here);
            assert_eq!(
                bytes,
                Some(1000),
                "{state} {opened_here:?} {acked} {wqueue}"
            );
        }
        // Data in flight.
        assert_eq!(sent(401, 600).bytes(ESTABLISHED, None), Some(400));
        // The own host has dropped a segment.
        assert_eq!(sent(900, 0).bytes(ESTABLISHED, None), None);
    }

    #[test]
    fn uncounted_bytes_are_unknown() {
        let sent = Sent {
            payload: None,
            ..sent(1000, 0)
        };
        assert_eq!(sent.bytes(ESTABLISHED, None), None);
        assert_eq!(sent.bytes(ESTABLISHED, Some(false)), Some(1000));
    }
}
