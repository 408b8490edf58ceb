// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows when the kernel has accepted the programs.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::Result;
use libbpf_rs::Object;

use super::Session;
use super::variant::connect_backups;

impl Session<'_> {
    /// # Errors
    /// See [`connect_backups`].
    pub(super) fn loaded(&self, object: &Object) -> Result<()> {
        if self.run.verbose {
            show_verified(self.tool, object);
        }
        connect_backups(object)
    }
}

/// Prints how many instructions the verifier went through, those of each path anew, of each loaded program; nothing
/// before 5.16 (`kernel/bpf/syscall.c: bpf_prog_show_fdinfo`).
fn show_verified(tool: &str, object: &Object) {
    for program in object.progs() {
        let fd = program.as_fd().as_raw_fd();
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
        if let Some(count) = told.ok().as_deref().and_then(verified) {
            let name = program.name().to_string_lossy();
            crate::message!("{tool}: {name}: verified instructions: {count}");
        }
    }
}

fn verified(fdinfo: &str) -> Option<u64> {
    let count = |line: &str| line.strip_prefix("verified_insns:")?.trim().parse().ok();
    fdinfo.lines().find_map(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_has_the_count() {
        let told = "prog_type:\t26\nprog_id:\t9\nrun_cnt:\t0\nverified_insns:\t15195\n";
        assert_eq!(verified(told), Some(15195));
        assert_eq!(verified("prog_type:\t26\n"), None);
    }
}
