// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which PIDs are shown: a process has one in each PID namespace that it belongs to.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::libc;

use crate::kernel::{mounts, problem::Problem};

/// The PID namespace of this process, whose PIDs rows and filters use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The host's.
    Initial,
    /// Another one, by its inode number.
    Own(u32),
    /// Unknown to /proc and the kernel.
    Unknown,
}

impl Namespace {
    /// For the kernel half: 0 is the initial one. No namespace has the last number, so that nobody has an id there.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Initial => 0,
            Self::Own(inode) => inode,
            Self::Unknown => u32::MAX,
        }
    }
}

/// See [`Namespace`].
pub fn namespace() -> Namespace {
    /// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
    const INITIAL: u64 = 0xEFFF_FFFC;
    static FOUND: OnceLock<Namespace> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // CONFIG_PID_NS=n: there is only one.
        if fs::exists("/proc/self/ns").unwrap_or(false) && !link().exists() {
            return Namespace::Initial;
        }
        let inode = fs::metadata(link()).ok().map(|meta| meta.ino());
        match inode
            .or_else(asked)
            .map(|inode| (inode, u32::try_from(inode)))
        {
            Some((INITIAL, _)) => Namespace::Initial,
            Some((_, Ok(inode))) => Namespace::Own(inode),
            _ => Namespace::Unknown,
        }
    })
}

fn link() -> &'static Path {
    Path::new("/proc/self/ns/pid")
}

/// The kernel's answer without /proc (since 6.11).
fn asked() -> Option<u64> {
    /// `PIDFD_GET_PID_NAMESPACE` of include/uapi/linux/pidfd.h.
    const GET_PID_NAMESPACE: libc::Ioctl = 0xFF05;
    let own = std::process::id();
    // SAFETY: takes integers only.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0) };
    let pidfd = owned(pidfd)?;
    // SAFETY: this request takes no argument that it would read or write.
    let namespace = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_PID_NAMESPACE, 0) };
    let namespace = owned(namespace.into())?;
    Some(fs::File::from(namespace).metadata().ok()?.ino())
}

fn owned(fd: libc::c_long) -> Option<OwnedFd> {
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: a system call has just returned it, so nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Why PIDs are unknown here, and the remedy. `records`: owners are looked up in /proc.
pub fn blank(records: bool) -> Option<Problem> {
    let foreign = records && !proc_is_ours();
    if records && !foreign && matches!(namespace(), Namespace::Own(_)) {
        return Some(Problem::new(
            "tracepoint records have the host's PIDs, so most owners stay blank in this PID namespace",
            "run it on the host (docker run --pid=host)",
        ));
    }
    if namespace() != Namespace::Unknown && !foreign {
        return None;
    }
    let why = match mounts::is_proc() {
        true => "/proc belongs to another PID namespace",
        false => "/proc is not mounted",
    };
    Some(Problem::new(
        format!("{why}, so PIDs stay blank and -p matches nothing"),
        "mount -t proc proc /proc",
    ))
}

/// Whether /proc shows the ids of this process's own pid namespace: it is mounted, and not another namespace's. There a
/// process has one id only.
pub fn proc_is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status");
        status.is_ok_and(|status| shows_own_ids(&status))
    })
}

/// `NSpid` has the ids from the namespace that /proc shows down to the process's own; none without CONFIG_PID_NS.
fn shows_own_ids(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_none_or(|ids| ids.split_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_proc_shows_several_ids() {
        assert!(shows_own_ids("Pid:\t7\nNSpid:\t7\n"));
        assert!(!shows_own_ids("Pid:\t4711\nNSpid:\t4711\t7\n"));
        assert!(shows_own_ids("Pid:\t7\n"));
    }

    /// Since 6.11 the kernel tells the same as /proc.
    #[test]
    fn kernel_and_proc_agree() {
        let shown = fs::metadata(link()).unwrap().ino();
        assert!(asked().is_none_or(|asked| asked == shown));
    }
}
