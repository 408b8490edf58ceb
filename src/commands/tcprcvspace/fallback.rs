// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads from records alone, on a kernel without type information: who reads from which connection, and how often; and
//! with `--btf` what tcprcvspace.bpf.c tells of each.
//!
//! What the receive buffer is like could be asked of the kernel by inet_diag, but only later, when it is another: without
//! a file these columns stay blank.

use crate::abi::known::KNOWN_SOCKET;
use crate::abi::names::state::{SYN_RECV, SYN_SENT};
use crate::abi::types::{Record, decode, read_event, trace_kind};
use crate::cli::sampling::{Sample, Sampling};
use crate::fallback::{Event, Out, Translate, head, refuse};
use anyhow::Result;

use super::Args;
use super::bpf::types::adjust;

/// What is remembered of a socket: `struct rcv_state` of tcprcvspace.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Reads {
    calls: u32,
    sample: Sample,
}

/// Makes the rows.
pub struct Samples {
    /// The sockets themselves are read (`--btf`).
    sockets: bool,
    sampling: Sampling,
}

impl Samples {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args, sockets: bool) -> Result<Self> {
        refuse(&[
            ("--summary", args.summary.is_some()),
            ("--grow", args.grow),
            ("--changes", args.sampling.changes && !sockets),
        ])?;
        Ok(Self {
            sockets,
            sampling: args.sampling,
        })
    }
}

/// growth_of() of tcprcvspace.bpf.c: an index into `GROWTH`.
fn growth(read: &read_event) -> u8 {
    /// `SOCK_RCVBUF_LOCK` (include/net/sock.h).
    const RCVBUF_LOCK: u8 = 2;
    match read.moderated {
        _ if read.userlocks & RCVBUF_LOCK != 0 => 1,
        0 => 2,
        _ if read.rcvbuf >= read.rmem_max => 3,
        _ => 0,
    }
}

/// adjust_fill() of tcprcvspace.bpf.c.
fn filled(read: &read_event) -> adjust {
    let rcv_rtt_us = read.rcv_rtt_us >> 3;
    let measured = read.rcv_rtt_us != 0 && read.measure_us >= rcv_rtt_us.into();
    adjust {
        measure_us: read.measure_us,
        copied: read.copied,
        queued: read.queued,
        space: read.space,
        rcv_rtt_us,
        rcvbuf: read.rcvbuf,
        rmem_alloc: read.rmem_alloc,
        window_clamp: read.window_clamp,
        rcv_ssthresh: read.rcv_ssthresh,
        rcv_wnd: read.rcv_wnd,
        rmem_max: read.rmem_max,
        growth: growth(read),
        measured: measured.into(),
        ..adjust::default()
    }
}

impl Translate for Samples {
    type Tool = Reads;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_rcv_space_adjust"]
    }

    fn blank(&self) -> &'static str {
        match self.sockets {
            true => "the owners of some accepted connections stay blank until they read",
            false => "every column of the receive buffer stays blank",
        }
    }

    fn event(&mut self, event: Event<'_, Reads>, out: &mut Out<'_>) {
        let (trace, Some(socket)) = (event.trace, event.socket) else {
            return;
        };
        if trace.kind == trace_kind::STATE && matches!(trace.state, SYN_SENT | SYN_RECV) {
            socket.tool = Reads::default();
        }
        if trace.kind != trace_kind::READ {
            return;
        }
        socket.tool.calls += 1;
        let read = decode::<read_event>(event.record).filter(|read| read.known != 0);
        // The buffer, or what was measured to size it.
        let window = |r: &read_event| u64::from(r.rcvbuf) << 32 | u64::from(r.space as u32);
        let window = read.map_or(0, window);
        if !out.filter.passes(&trace.flow, &event.owner)
            || !self
                .sampling
                .is_due(&mut socket.tool.sample, trace.at_ns, window)
        {
            return;
        }
        let row = adjust {
            calls: socket.tool.calls,
            ..read.map_or_else(adjust::default, filled)
        };
        let known = read.map_or(0, |_| KNOWN_SOCKET);
        out.record(&row.with_head(&head(trace, &event.owner, 0, known)));
    }
}
