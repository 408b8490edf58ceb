// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel without the tracepoint, or without type information: its record has the new state, and neither the old one
//! nor the window.

use std::path::Path;

use anyhow::{Error, Result, bail};

use crate::fallback;
use crate::kernel::diagnose;

/// # Errors
/// A sentence, if the kernel is known to lack the tracepoint.
pub(super) fn refuse_without_tracepoint() -> Result<()> {
    if !diagnose::has_tracepoint("tcp:tcp_cong_state_set") {
        bail!(
            "this kernel has no tracepoint tcp:tcp_cong_state_set (since Linux 5.19): tcpprobe shows the congestion state of each segment"
        );
    }
    Ok(())
}

/// Why it does not run.
pub(super) fn refusal(btf: Option<&Path>) -> Error {
    let why = "which tcpcong needs to know the old state and the window; tcpretrans shows retransmissions";
    fallback::refusal(btf, why)
}
