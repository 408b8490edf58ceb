// SPDX-License-Identifier: MIT OR Apache-2.0
//! Retransmissions from records alone, on a kernel without type information.

use anyhow::Result;
use tcptools::names::state::{SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Translate, Wanted, head, refuse};
use tcptools::types::{Record, bytes_of, owner, pid_source, seen_kind};

use super::bpf::types::retrans;
use super::{Args, SYN, SYNACK, UNTOLD};

/// Makes the rows.
pub struct Retransmits {
    failed: bool,
}

impl Retransmits {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[
            ("--sequence", args.sequence),
            ("--lossprobe", args.lossprobe),
            ("--count", args.count),
            ("--summary", args.summary.is_some()),
            ("--stack", args.stack),
        ])?;
        Ok(Self {
            failed: args.failed,
        })
    }
}

/// The listener is not locked, and whoever acts on it meanwhile may be in accept(): only what is remembered counts.
fn of_listener(owner: &owner) -> owner {
    match owner.source {
        pid_source::UNKNOWN => *owner,
        _ => owner {
            source: pid_source::LISTENER,
            ..*owner
        },
    }
}

impl Translate for Retransmits {
    type Tool = ();

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"]
    }

    fn blank(&self) -> &'static str {
        "only SYN and SYNACK are known of KIND, and what describes the segment and its connection and the cookie stay blank"
    }

    fn event(&mut self, event: Event<'_, ()>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let seen = event.seen;
        let (kind, state, owner) = match seen.kind {
            seen_kind::RETRANSMIT if seen.state == SYN_SENT => (SYN, seen.state, event.owner),
            seen_kind::RETRANSMIT => (UNTOLD, seen.state, event.owner),
            seen_kind::SYNACK => (SYNACK, SYN_RECV, of_listener(&event.owner)),
            _ => return,
        };
        if (seen.err != 0 && !self.failed) || !wanted.passes(&seen.flow, &owner) {
            return;
        }
        let row = retrans {
            err: seen.err,
            kind,
            state,
            bare: 1,
            ..retrans::default()
        };
        out(bytes_of(&row.with_head(&head(seen, &owner, 0))));
    }
}
