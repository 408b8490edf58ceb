// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether /sys and /proc are mounted, and are those of this process.

use std::path::Path;

use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};

use crate::kernel::problem::Problem;

/// Whether /sys is mounted.
pub fn is_sys() -> bool {
    is_mounted("/sys", SYSFS_MAGIC)
}

/// Whether /proc is mounted, this pid namespace's or another's.
pub fn is_proc() -> bool {
    is_mounted("/proc", PROC_SUPER_MAGIC)
}

fn is_mounted(path: &str, kind: FsType) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == kind)
}

/// A problem if /sys is not mounted, as in a plain chroot: then nothing is known about the kernel.
pub fn sys() -> Option<Problem> {
    (!is_sys()).then(|| Problem::new("/sys is not mounted", "mount -t sysfs sysfs /sys"))
}

/// A problem if this process does not find itself in /proc.
pub fn proc() -> Option<Problem> {
    (!Path::new("/proc/self/fd").exists()).then(|| {
        let why = match is_proc() {
            true => "/proc belongs to another PID namespace",
            false => "/proc is not mounted",
        };
        Problem::new(why, "mount -t proc proc /proc")
    })
}
