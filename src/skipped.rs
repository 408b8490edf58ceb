// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel did not show to a program, because they interrupted that same program on the same CPU.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::libbpf_sys::{bpf_obj_get_info_by_fd, bpf_prog_info};
use libbpf_rs::{Object, Program};

/// The programs of a run, by descriptors of its own.
pub struct Skipped(Vec<OwnedFd>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing. A twin skips what its elder handles
    /// (`bpf/nested.bpf.h`), so its own skips are no loss.
    pub fn new(object: &Object) -> Self {
        let is_twin = |p: &Program<'_>| p.name().to_string_lossy().ends_with("_nested");
        let loaded = object
            .progs()
            .filter(|p| p.as_fd().as_raw_fd() >= 0 && !is_twin(p));
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
            .map(misses)
            .sum::<u64>()
            .saturating_sub(nested)
    }
}

fn misses(program: &OwnedFd) -> u64 {
    let mut info = bpf_prog_info::default();
    let mut len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes into a live struct of that size, and nothing where it says to read.
    let ret = unsafe {
        bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut len)
    };
    if ret == 0 { info.recursion_misses } else { 0 }
}
