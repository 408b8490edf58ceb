// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sampling of events per packet or per read, in the kernel (`src/bpf/common/sample.bpf.h`) or, of records alone, here.

use std::time::Duration;

use crate::cli::{duration, whole};

/// Which events of a socket are shown. The first one always is; all that are given must agree on the others.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Sampling (for each socket by itself)")]
pub struct Sampling {
    /// Show every Nth event of a socket
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true, value_parser = whole(1..=u32::MAX))]
    pub every: u32,
    /// Show a socket at most once every TIME
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,
    /// Show a socket only when its congestion window has changed
    #[arg(long)]
    pub changes: bool,
}

/// The sampling state of a socket if the kernel half only sends records: `struct sample` of sample.bpf.h.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    last_ns: u64,
    window: u64,
    passed: u32,
}

impl Sampling {
    /// `--interval` in nanoseconds, 0 without it.
    pub fn interval_ns(&self) -> u64 {
        self.interval.unwrap_or_default().as_nanos() as u64
    }

    /// sample_due() of sample.bpf.h, in user space. `window`: the value that `--changes` compares.
    pub fn is_due(&self, sample: &mut Sample, at_ns: u64, window: u64) -> bool {
        if sample.last_ns != 0 {
            let early = at_ns.saturating_sub(sample.last_ns) < self.interval_ns();
            let same = self.changes && window == sample.window;
            if early || same {
                return false;
            }
            sample.passed += 1;
            if sample.passed < self.every {
                return false;
            }
        }
        *sample = Sample {
            last_ns: at_ns,
            window,
            passed: 0,
        };
        true
    }

    /// Whether anything was asked for.
    pub fn is_set(&self) -> bool {
        self.every > 1 || self.interval.is_some() || self.changes
    }
}
