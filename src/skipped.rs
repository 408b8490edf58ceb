// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel did not show to a program, because it was at work on the same CPU.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::{Object, Program};

use crate::cost::{info, is_loaded};

/// The programs of a run, by descriptors of its own; each with its twin (`bpf/nested.bpf.h`), if it has one.
pub struct Skipped(Vec<(OwnedFd, Option<OwnedFd>)>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing.
    pub fn new(object: &Object) -> Self {
        let loaded: Vec<_> = object.progs().filter(is_loaded).collect();
        let own = |p: &Program<'_>| p.as_fd().try_clone_to_owned().ok();
        let twin_of = |p: &Program<'_>| {
            let mut name = OsString::from(p.name());
            name.push("_nested");
            loaded.iter().find(|twin| twin.name() == name)
        };
        let is_twin = |p: &Program<'_>| p.name().to_string_lossy().ends_with("_nested");
        let elders = loaded.iter().filter(|p| !is_twin(p));
        Self(
            elders
                .filter_map(|p| Some((own(p)?, twin_of(p).and_then(own))))
                .collect(),
        )
    }

    /// How many so far at the most: what a program was skipped for, but its twin was not, has been handled. Counted since
    /// kernel 5.12, 0 before.
    pub fn read(&self) -> u64 {
        let misses = |program: &OwnedFd| info(program).recursion_misses;
        let unseen = |(program, twin): &(OwnedFd, Option<OwnedFd>)| {
            twin.iter().map(misses).fold(misses(program), u64::min)
        };
        self.0.iter().map(unseen).sum()
    }
}
