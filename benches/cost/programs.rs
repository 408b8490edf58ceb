// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says that BPF programs cost: its run-time statistics (BPF_ENABLE_STATS).

use std::collections::HashSet;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Result, ensure};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

/// Run time and number of runs.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    pub ns: u64,
    pub events: u64,
}

impl Totals {
    pub fn minus(self, earlier: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(earlier.ns),
            events: self.events.saturating_sub(earlier.events),
        }
    }
}

/// Statistics are kept as long as the descriptor lives. Reading the clock twice is about 30 ns of every event.
pub fn enable_stats() -> Result<OwnedFd> {
    // SAFETY: takes a number and returns a descriptor or an error.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    ensure!(
        fd >= 0,
        "the kernel keeps no run-time statistics of BPF programs"
    );
    // SAFETY: the call has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Every program that is loaded now.
pub fn ids() -> HashSet<u32> {
    ProgInfoIter::default().map(|p| p.id).collect()
}

/// The programs that were not there before.
pub fn since(before: &HashSet<u32>) -> HashSet<u32> {
    &ids() - before
}

/// The sum over these programs.
pub fn totals(own: &HashSet<u32>) -> Totals {
    ProgInfoIter::default()
        .filter(|p| own.contains(&p.id))
        .fold(Totals::default(), |sum, p| Totals {
            ns: sum.ns + p.run_time_ns,
            events: sum.events + p.run_cnt,
        })
}
