// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel did not show to a program, because they interrupted that same program on the same CPU.

use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::{Object, Program};

use crate::cost::{info, is_loaded};

/// The programs of a run, by descriptors of its own.
pub struct Skipped(Vec<OwnedFd>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing. A twin skips what its elder handles
    /// (`bpf/nested.bpf.h`), so its own skips are no loss.
    pub fn new(object: &Object) -> Self {
        let is_twin = |p: &Program<'_>| p.name().to_string_lossy().ends_with("_nested");
        let loaded = object.progs().filter(|p| is_loaded(p) && !is_twin(p));
        Self(
            loaded
                .filter_map(|p| p.as_fd().try_clone_to_owned().ok())
                .collect(),
        )
    }

    /// How many so far, less the `nested` ones that twins have handled; counted since kernel 5.12, 0 before.
    pub fn read(&self, nested: u64) -> u64 {
        self.0
            .iter()
            .map(|program| info(program).recursion_misses)
            .sum::<u64>()
            .saturating_sub(nested)
    }
}
