// SPDX-License-Identifier: MIT OR Apache-2.0
//! Passive opens from records alone, on a kernel without type information.

use crate::abi::names::state::{LISTEN, SYN_RECV};
use crate::abi::types::{Record, trace_kind};
use crate::fallback::{Event, Out, Translate, head, refuse};
use anyhow::Result;

use super::Args;
use super::bpf::types::accept;

/// Makes the rows.
pub struct Opens;

impl Opens {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
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
        "QLEN, QMAX and the cookie stay blank, as does the owner if several processes listen on a port"
    }

    fn event(&mut self, event: Event<'_, bool>, out: &mut Out<'_>) {
        let (trace, Some(socket)) = (event.trace, event.socket) else {
            return;
        };
        if trace.kind != trace_kind::STATE {
            return;
        }
        if trace.state == SYN_RECV {
            socket.tool = trace.old_state == LISTEN;
        } else if trace.old_state == SYN_RECV && std::mem::take(&mut socket.tool) {
            if !out.filter.passes(&trace.flow, &socket.owner) {
                return;
            }
            let row = accept {
                state: trace.state,
                ..accept::default()
            };
            out.record(&row.with_head(&head(trace, &socket.owner, 0, 0)));
        }
    }
}
