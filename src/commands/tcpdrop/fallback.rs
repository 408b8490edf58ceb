// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel without type information, or without a ring buffer: the record of skb:kfree_skb has no header of the packet,
//! nor says whether it is TCP's.

use std::path::Path;

use anyhow::{Error, anyhow};

use crate::kernel::{btf, features, limits, mounts};

/// Why it does not run there; before that, what hides the type information, and what is wrong with the file of `--btf`,
/// which would not help.
pub(super) fn refusal(btf: Option<&Path>) -> Error {
    if let Some(problem) = mounts::sys().or_else(mounts::proc).or_else(limits::low) {
        return anyhow!("{problem}");
    }
    if let Some(Err(error)) = btf.map(|file| btf::file::checked(file, None)) {
        return error;
    }
    anyhow!(
        "{}, which tcpdrop needs to read the headers of packets; sockbuf --summary shows the kernel's own counters of drops",
        features::this_kernel()
    )
}
