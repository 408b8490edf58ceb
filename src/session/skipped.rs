// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events for which the kernel skipped a program that was already running on the same CPU.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::Object;

use crate::session::stats::{info, is_loaded};
use crate::session::variant::KERNEL_STACK;

/// The part of a name that marks a backup program (`bpf/common/owner/nested.bpf.h`).
const BACKUP: &str = "_backup";

/// Descriptors of the programs of a run, each grouped with its backups.
pub struct Skipped(Vec<Vec<OwnedFd>>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing.
    pub fn new(object: &Object) -> Self {
        Self::of(object, |_| true)
    }

    /// The same, of the program of this name only.
    pub fn of_program(object: &Object, name: &str) -> Self {
        Self::of(object, |first| first == name)
    }

    fn of(object: &Object, wanted: impl Fn(&str) -> bool) -> Self {
        let mut families = BTreeMap::<String, Vec<OwnedFd>>::new();
        for program in object.progs().filter(is_loaded) {
            let name = program.name().to_string_lossy();
            let first = name.strip_suffix(KERNEL_STACK).unwrap_or(&name);
            let family = first.split_once(BACKUP).map_or(first, |(first, _)| first);
            if !wanted(family) {
                continue;
            }
            if let Ok(own) = program.as_fd().try_clone_to_owned() {
                families.entry(family.to_owned()).or_default().push(own);
            }
        }
        Self(families.into_values().collect())
    }

    /// The upper bound so far: an event that skipped a program, but not all of its backups, was handled. Counted since
    /// kernel 5.12, 0 before.
    pub fn read(&self) -> u64 {
        let misses = |program: &OwnedFd| info(program).recursion_misses;
        let unseen = |family: &Vec<OwnedFd>| family.iter().map(misses).min().unwrap_or(0);
        self.0.iter().map(unseen).sum()
    }
}
