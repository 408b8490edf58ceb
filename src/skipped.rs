// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel did not show to a program, because it was at work on the same CPU.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::Object;

use crate::cost::{info, is_loaded};

/// What marks the name of a program's twin (`bpf/nested.bpf.h`).
const TWIN: &str = "_nested";

/// The programs of a run, by descriptors of its own; each with its twins, if it has any.
pub struct Skipped(Vec<Vec<OwnedFd>>);

impl Skipped {
    /// Programs that were not loaded have no descriptor, and skip nothing.
    pub fn new(object: &Object) -> Self {
        let mut families = BTreeMap::<String, Vec<OwnedFd>>::new();
        for program in object.progs().filter(is_loaded) {
            let name = program.name().to_string_lossy();
            let family = name.split_once(TWIN).map_or(&*name, |(elder, _)| elder);
            if let Ok(own) = program.as_fd().try_clone_to_owned() {
                families.entry(family.to_owned()).or_default().push(own);
            }
        }
        Self(families.into_values().collect())
    }

    /// How many so far at the most: what a program was skipped for, but one of its twins was not, has been handled.
    /// Counted since kernel 5.12, 0 before.
    pub fn read(&self) -> u64 {
        let misses = |program: &OwnedFd| info(program).recursion_misses;
        let unseen = |family: &Vec<OwnedFd>| family.iter().map(misses).min().unwrap_or(0);
        self.0.iter().map(unseen).sum()
    }
}
