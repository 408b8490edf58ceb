// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel without the tracepoint, or without type information: its record has the new state, and neither the old one
//! nor the window.

use std::path::Path;

use anyhow::{Error, Result, anyhow, bail};

use crate::kernel::{btf, diagnose, features, limits, mounts};

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

/// Why it does not run; before that, what hides the type information, and what is wrong with the file of `--btf`, which
/// would not help.
pub(super) fn refusal(btf: Option<&Path>) -> Error {
    if let Some(problem) = mounts::sys().or_else(mounts::proc).or_else(limits::low) {
        return anyhow!("{problem}");
    }
    if let Some(Err(error)) = btf.map(|file| btf::file::checked(file, None)) {
        return error;
    }
    anyhow!(
        "{}, which tcpcong needs to know the old state and the window; tcpretrans shows retransmissions",
        features::this_kernel()
    )
}
