// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments from records alone, on a kernel without type information: the record of tcp:tcp_probe has most columns.

use std::collections::HashMap;

use crate::abi::types::{MAX_SOCKETS, Record, trace_event, trace_kind};
use crate::cli::sampling::{Sample, Sampling};
use crate::fallback::{Event, Out, Translate, head, refuse};
use anyhow::Result;

use super::Args;
use super::bpf::types::probe;

/// Connections that sampling remembers.
const MAX_CONNECTIONS: usize = MAX_SOCKETS as usize;

/// Makes the rows.
pub struct Samples {
    sampling: Sampling,
    /// By cookie, which the record has on every kernel.
    connections: HashMap<u64, Sample>,
}

impl Samples {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--plot", args.plot.is_some()), ("--live", args.live)])?;
        Ok(Self {
            sampling: args.sampling,
            connections: HashMap::new(),
        })
    }

    /// A connection that there is no room for is shown.
    fn due(&mut self, trace: &trace_event) -> bool {
        if !self.sampling.is_set() {
            return true;
        }
        let room = self.connections.len() < MAX_CONNECTIONS;
        if !room && !self.connections.contains_key(&trace.cookie) {
            return true;
        }
        let sample = self.connections.entry(trace.cookie).or_default();
        let window = trace.snd_cwnd.into();
        self.sampling.is_due(sample, trace.at_ns, window)
    }
}

/// The slow start threshold. The record has tcp_current_ssthresh() (include/net/tcp.h), which is three quarters of the
/// window where the threshold is below that: then it is not known, and 0.
fn ssthresh(trace: &trace_event) -> u32 {
    let share = (trace.snd_cwnd >> 1) + (trace.snd_cwnd >> 2);
    match trace.ssthresh > share {
        true => trace.ssthresh,
        false => 0,
    }
}

impl Translate for Samples {
    type Tool = ();

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_probe"]
    }

    fn blank(&self) -> &'static str {
        "INFL, RTX, CA, the congestion control state, MBIT/S and PACE_MBIT/S stay blank, as does SSTHR below three quarters of CWND"
    }

    fn event(&mut self, event: Event<'_, ()>, out: &mut Out<'_>) {
        let trace = event.trace;
        if trace.kind == trace_kind::DESTROY {
            self.connections.remove(&trace.cookie);
        }
        if trace.kind != trace_kind::PROBE
            || !out.filter.passes(&trace.flow, &event.owner)
            || !self.due(trace)
        {
            return;
        }
        let row = probe {
            pacing_rate: u64::MAX,
            snd_cwnd: trace.snd_cwnd,
            ssthresh: ssthresh(trace),
            snd_wnd: trace.snd_wnd,
            rcv_wnd: trace.rcv_wnd,
            snd_nxt: trace.snd_nxt,
            snd_una: trace.snd_una,
            srtt_us: trace.srtt_us,
            data_len: trace.data_len,
            ..probe::default()
        };
        out.record(&row.with_head(&head(trace, &event.owner, 0, 0)));
    }
}
