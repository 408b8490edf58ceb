// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads from records alone, on a kernel without type information: who reads from which connection, and how often.
//!
//! What the receive buffer is like could be asked of the kernel by inet_diag, but only later, when it is another: these
//! columns stay blank.

use anyhow::Result;
use tcptools::names::state::{SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Translate, Wanted, head, refuse};
use tcptools::sample::Sampling;
use tcptools::types::{Record, bytes_of, seen_kind};

use super::Args;
use super::bpf::types::adjust;

/// What is remembered of a socket: `struct rcv_state` of tcprcvspace.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Reads {
    calls: u32,
    last_ns: u64,
    passed: u32,
}

/// Makes the rows.
pub struct Samples(Sampling);

impl Samples {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[
            ("--summary", args.summary),
            ("--changes", args.sampling.changes),
        ])?;
        Ok(Self(args.sampling))
    }

    /// sample_due() of sample.bpf.h.
    fn is_due(&self, reads: &mut Reads, at_ns: u64) -> bool {
        if reads.last_ns != 0 {
            if at_ns.saturating_sub(reads.last_ns) < self.0.interval_ns() {
                return false;
            }
            reads.passed += 1;
            if reads.passed < self.0.every {
                return false;
            }
        }
        reads.last_ns = at_ns;
        reads.passed = 0;
        true
    }
}

impl Translate for Samples {
    type Tool = Reads;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_rcv_space_adjust"]
    }

    fn blank(&self) -> &'static str {
        "only who reads, from which connection and how often (calls) is known, and every column of the receive buffer stays blank"
    }

    fn event(&mut self, event: Event<'_, Reads>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, Some(socket)) = (event.seen, event.socket) else {
            return;
        };
        if seen.kind == seen_kind::STATE && matches!(seen.state, SYN_SENT | SYN_RECV) {
            socket.tool = Reads::default();
        }
        if seen.kind != seen_kind::READ {
            return;
        }
        socket.tool.calls += 1;
        if !wanted.passes(&seen.flow, &event.owner) || !self.is_due(&mut socket.tool, seen.at_ns) {
            return;
        }
        let row = adjust {
            calls: socket.tool.calls,
            growth: u8::MAX,
            bare: 1,
            ..adjust::default()
        };
        out(bytes_of(&row.with_head(&head(seen, &event.owner, 0))));
    }
}
