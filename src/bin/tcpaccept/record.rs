// SPDX-License-Identifier: MIT OR Apache-2.0
//! Passive opens from records alone, on a kernel without type information.

use anyhow::Result;
use tcptools::names::state::{LISTEN, SYN_RECV};
use tcptools::record::{Event, Translate, Wanted, head, refuse};
use tcptools::types::{Record, bytes_of, seen_kind};

use super::bpf::types::accept;
use super::{Args, UNKNOWN};

/// Makes the rows.
pub struct Opens;

impl Opens {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--summary", args.summary.is_some())])?;
        Ok(Self)
    }
}

impl Translate for Opens {
    /// A child, whose handshake is under way.
    type Tool = bool;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![]
    }

    fn blank(&self) -> &'static str {
        "QLEN, QMAX and the cookie stay blank, and the owner where several processes listen on a port"
    }

    fn event(&mut self, event: Event<'_, bool>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, Some(socket)) = (event.seen, event.socket) else {
            return;
        };
        if seen.kind != seen_kind::STATE {
            return;
        }
        if seen.state == SYN_RECV {
            socket.tool = seen.old_state == LISTEN;
        } else if seen.old_state == SYN_RECV && std::mem::take(&mut socket.tool) {
            if !wanted.passes(&seen.flow, &socket.owner) {
                return;
            }
            let row = accept {
                accept_queue: UNKNOWN,
                accept_queue_max: UNKNOWN,
                state: seen.state,
                ..accept::default()
            };
            out(bytes_of(&row.with_head(&head(seen, &socket.owner, 0))));
        }
    }
}
