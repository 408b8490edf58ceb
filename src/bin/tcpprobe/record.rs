// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments from records alone, on a kernel without type information: the record of tcp:tcp_probe has most columns.

use std::collections::HashMap;

use anyhow::Result;
use tcptools::record::{Event, Translate, Wanted, head, refuse};
use tcptools::sample::{Sample, Sampling};
use tcptools::types::{Record, bytes_of, seen, seen_kind};

use super::Args;
use super::bpf::types::probe;

/// Connections that sampling remembers.
const MOST: usize = 128 * 1024;

/// Makes the rows.
pub struct Samples {
    sampling: Sampling,
    /// By cookie, which the record has on every kernel.
    connections: HashMap<u64, Sample>,
}

impl Samples {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        refuse(&[("--plot", args.plot.is_some()), ("--live", args.live)])?;
        Ok(Self {
            sampling: args.sampling,
            connections: HashMap::new(),
        })
    }

    /// A connection that there is no room for is shown.
    fn due(&mut self, seen: &seen) -> bool {
        if !self.sampling.is_set() {
            return true;
        }
        let room = self.connections.len() < MOST;
        if !room && !self.connections.contains_key(&seen.cookie) {
            return true;
        }
        let sample = self.connections.entry(seen.cookie).or_default();
        let window = seen.snd_cwnd.into();
        self.sampling.is_due(sample, seen.at_ns, window)
    }
}

/// The slow start threshold. The record has tcp_current_ssthresh() (include/net/tcp.h), which is three quarters of the
/// window where the threshold is below that: then it is not known, and 0.
fn ssthresh(seen: &seen) -> u32 {
    let share = (seen.snd_cwnd >> 1) + (seen.snd_cwnd >> 2);
    match seen.ssthresh > share {
        true => seen.ssthresh,
        false => 0,
    }
}

impl Translate for Samples {
    type Tool = ();

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_probe"]
    }

    fn blank(&self) -> &'static str {
        "INFL, RTX, CA, the state of congestion control, MBIT/S and PACE_MBIT/S and SSTHR below three quarters of CWND stay blank"
    }

    fn event(&mut self, event: Event<'_, ()>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let seen = event.seen;
        if seen.kind == seen_kind::DESTROY {
            self.connections.remove(&seen.cookie);
        }
        if seen.kind != seen_kind::PROBE
            || !wanted.passes(&seen.flow, &event.owner)
            || !self.due(seen)
        {
            return;
        }
        let row = probe {
            pacing_rate: u64::MAX,
            snd_cwnd: seen.snd_cwnd,
            ssthresh: ssthresh(seen),
            snd_wnd: seen.snd_wnd,
            rcv_wnd: seen.rcv_wnd,
            snd_nxt: seen.snd_nxt,
            snd_una: seen.snd_una,
            srtt_us: seen.srtt_us,
            data_len: seen.data_len,
            bare: 1,
            ..probe::default()
        };
        out(bytes_of(&row.with_head(&head(seen, &event.owner, 0))));
    }
}
