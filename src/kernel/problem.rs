// SPDX-License-Identifier: MIT OR Apache-2.0
//! What prevents commands from running on a host, and the remedy.

use anyhow::Error;
use nix::errno::Errno;

/// Where the kernel keeps its own type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What prevents commands from running on this host, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// From the two halves of a message.
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (why, remedy) = (why.into(), remedy.into());
        Self { why, remedy }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.why, self.remedy)
    }
}

/// Whether the error, or one of its causes, has one of these numbers. libbpf-rs keeps them only in its text.
pub(crate) fn has_errno(error: &Error, numbers: &[i32]) -> bool {
    let text = format!("{error:#}");
    let named = |n: &i32| text.contains(&format!("(os error {n})"));
    let is = |cause: &(dyn std::error::Error + 'static)| {
        let errno = cause.downcast_ref::<Errno>();
        errno.is_some_and(|&errno| numbers.contains(&(errno as i32)))
    };
    numbers.iter().any(named) || error.chain().any(is)
}
