// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel did not show to a program, because they interrupted that same program on the same CPU.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::libbpf_sys::{bpf_obj_get_info_by_fd, bpf_prog_info};
use libbpf_rs::{Object, Program};

/// The programs of a run, by descriptors of its own.
pub struct Skipped(Vec<OwnedFd>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing; what one with a twin skips, the other one
    /// sees (`bpf/nested.bpf.h`).
    pub fn new(object: &Object) -> Self {
        let names: Vec<_> = object.progs().map(|p| name(&p)).collect();
        let has_twin =
            |name: &str| name.ends_with(NESTED) || names.contains(&format!("{name}{NESTED}"));
        let loaded = object
            .progs()
            .filter(|p| p.as_fd().as_raw_fd() >= 0 && !has_twin(&name(p)));
        Self(
            loaded
                .filter_map(|p| p.as_fd().try_clone_to_owned().ok())
                .collect(),
        )
    }

    /// How many so far; counted since kernel 5.12, and not told to everybody: 0 then.
    pub fn read(&self) -> u64 {
        self.0.iter().map(misses).sum()
    }
}

/// How a twin's name ends.
const NESTED: &str = "_nested";

fn name(program: &Program<'_>) -> String {
    program.name().to_string_lossy().into_owned()
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
