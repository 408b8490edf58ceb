// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel without type information, or without a ring buffer: the record of skb:kfree_skb has no header of the packet,
//! nor says whether it is TCP's.

use std::path::Path;

use anyhow::Error;

use crate::fallback;

/// Why it does not run there; before that, what hides the type information, and what is wrong with the file of `--btf`,
/// which would not help.
pub(super) fn refusal(btf: Option<&Path>) -> Error {
    let why = "which tcpdrop needs to read the headers of packets; sockbuf --summary shows the kernel's own counters of drops";
    fallback::refusal(btf, why)
}
