// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a command cannot run on this host, in one sentence with a remedy.
//!
//! Nothing is refused beforehand: the kernel is asked to load the programs, and only its refusal is looked into.

use std::fs;
use std::path::Path;

use anyhow::{Error, anyhow};
use caps::{CapSet, Capability};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Typedef;
use nix::errno::Errno;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};

use crate::{limits, tracepoints};

/// Where the kernel keeps its own type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What keeps commands from running on this host, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Trouble {
    /// From two halves of a sentence.
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (why, remedy) = (why.into(), remedy.into());
        Self { why, remedy }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.why, self.remedy)
    }
}

/// Puts the most likely reason for a failed load or attach before `error`.
pub fn explain(error: Error, tracepoints: &[&str]) -> Error {
    match reason(&error, tracepoints) {
        Some(sentence) => anyhow!("{sentence}"),
        None => error,
    }
}

/// As [`explain`], where a command reads tracepoints' records and needs no type information.
pub fn explain_record(error: Error) -> Error {
    let trouble = unprivileged(&error)
        .or_else(|| limits::exhausted(&error))
        .or_else(|| locked_down(&error))
        .or_else(|| forbidden(&error))
        .or_else(limits::low);
    match trouble {
        Some(trouble) => anyhow!("{trouble}"),
        None => error,
    }
}

fn unprivileged(error: &Error) -> Option<Trouble> {
    let refused = has_errno(error, &[libc_errno::EPERM, libc_errno::EACCES]);
    let trouble = || capabilities().or_else(user_namespace);
    refused.then(trouble).flatten()
}

/// The most likely reason for a failed load or attach, in a sentence with a remedy.
pub fn reason(error: &Error, tracepoints: &[&str]) -> Option<String> {
    let verifier = || {
        Trouble::new(
            format!("the BPF verifier rejected the program ({error:#})"),
            "please report this with what -v prints",
        )
    };
    let trouble = unprivileged(error)
        .or_else(|| limits::exhausted(error))
        .or_else(btf)
        .or_else(|| missing(tracepoints).map(tracepoint))
        .or_else(|| locked_down(error))
        .or_else(|| forbidden(error))
        .or_else(|| has_errno(error, &[libc_errno::EACCES]).then(verifier))
        .or_else(limits::low);
    trouble.map(|trouble| trouble.to_string())
}

/// bpf(2) or perf_event_open(2) is refused although the capabilities are there.
fn forbidden(error: &Error) -> Option<Trouble> {
    use libc_errno::{ENOSYS, EPERM};
    const ALLOW: &str = "allow bpf and perf_event_open in it (docker run --security-opt seccomp=unconfined, SystemCallFilter= in a systemd unit)";
    if !has_errno(error, &[EPERM, ENOSYS]) {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line == "Seccomp:\t2") {
        return Some(Trouble::new(
            "a seccomp filter forbids bpf(2) or perf_event_open(2)",
            ALLOW,
        ));
    }
    Some(match has_errno(error, &[ENOSYS]) {
        true => Trouble::new("this kernel has no bpf(2)", "it needs CONFIG_BPF_SYSCALL=y"),
        false => Trouble::new(
            format!("the kernel refuses, although this process has the capabilities ({error:#})"),
            "look for a security module's denial in the kernel log; before Linux 5.11, raise ulimit -l",
        ),
    })
}

/// Lockdown takes helpers away: a program that calls them is not refused but wrong (EINVAL, kernel/bpf/verifier.c).
fn locked_down(error: &Error) -> Option<Trouble> {
    use libc_errno::{EACCES, EINVAL, EPERM};
    let refused = has_errno(error, &[EPERM, EACCES, EINVAL]);
    refused.then(lockdown).flatten()
}

/// The numbers of `include/uapi/asm-generic/errno-base.h`.
mod libc_errno {
    pub const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    pub const EACCES: i32 = nix::errno::Errno::EACCES as i32;
    pub const ENOSYS: i32 = nix::errno::Errno::ENOSYS as i32;
    pub const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
}

/// Whether the error, or what it comes from, has one of these numbers. libbpf-rs keeps them in its text only.
pub(crate) fn has_errno(error: &Error, numbers: &[i32]) -> bool {
    let text = format!("{error:#}");
    let named = |n: &i32| text.contains(&format!("(os error {n})"));
    let is = |cause: &(dyn std::error::Error + 'static)| {
        let errno = cause.downcast_ref::<Errno>();
        errno.is_some_and(|&errno| numbers.contains(&(errno as i32)))
    };
    numbers.iter().any(named) || error.chain().any(is)
}

/// What a user does who may not trace.
const PRIVILEGES: &str = "run it with sudo, or grant CAP_BPF and CAP_PERFMON";

/// Whether this process lacks the capabilities.
pub fn capabilities() -> Option<Trouble> {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    let may =
        has(Capability::CAP_SYS_ADMIN) || has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON);
    (!may).then(|| Trouble::new("permission denied", PRIVILEGES))
}

/// Whether this process is in a user namespace, whose root is not the kernel's.
pub fn user_namespace() -> Option<Trouble> {
    // The initial one maps every id to itself: "0 0 4294967295".
    let own = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let ids: Vec<_> = map.split_whitespace().collect();
        ids != ["0", "0", "4294967295"]
    });
    own.then(|| {
        Trouble::new(
            "a user namespace cannot trace the kernel",
            "run it outside (a container needs --privileged or --cap-add BPF,PERFMON without a user namespace of its own)",
        )
    })
}

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

/// That /sys is not there, as in a plain chroot: nothing can be said of the kernel then.
pub fn sys() -> Option<Trouble> {
    (!is_sys()).then(|| {
        Trouble::new(
            "/sys is not mounted, where the kernel describes itself",
            "mount -t sysfs sysfs /sys",
        )
    })
}

/// That a process does not find itself in /proc.
pub fn proc() -> Option<Trouble> {
    (!Path::new("/proc/self/fd").exists()).then(|| {
        let why = match is_proc() {
            true => "/proc is of another pid namespace",
            false => "/proc is not mounted",
        };
        Trouble::new(why, "mount -t proc proc /proc")
    })
}

/// Whether the kernel lacks its type information.
pub fn btf() -> Option<Trouble> {
    if Path::new(KERNEL_BTF).exists() {
        return None;
    }
    let none = || {
        Trouble::new(
            format!("this kernel has no {KERNEL_BTF}"),
            "it needs CONFIG_DEBUG_INFO_BTF=y, as distribution kernels have since about 5.10",
        )
    };
    Some(sys().unwrap_or_else(none))
}

/// That a tracepoint is missing.
pub fn tracepoint(name: &str) -> Trouble {
    Trouble::new(
        format!("this kernel has no tracepoint {name}"),
        "it is too old, or built without it",
    )
}

/// Whether the kernel is locked down too far.
pub fn lockdown() -> Option<Trouble> {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
        .then(|| {
            Trouble::new(
                "kernel lockdown is in confidentiality mode, which forbids BPF to read kernel memory",
                "boot with lockdown=integrity or less",
            )
        })
}

/// The first of these tracepoints that this kernel lacks, as far as anything tells.
fn missing<'a>(tracepoints: &[&'a str]) -> Option<&'a str> {
    all_missing(tracepoints)?.into_iter().next()
}

/// Those of these tracepoints that this kernel lacks: by its BTF, which has them since 5.5, or else by tracefs; `None`
/// where neither tells.
pub fn all_missing<'a>(tracepoints: &[&'a str]) -> Option<Vec<&'a str>> {
    let in_btf = |btf: &Btf<'_>, name: &str| {
        let event = name.rsplit(':').next().unwrap_or(name);
        let typedef = btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{event}"));
        typedef.is_some()
    };
    // Every kernel has this one.
    let btf = Btf::from_vmlinux().ok();
    if let Some(btf) = btf.filter(|btf| in_btf(btf, "sched:sched_switch")) {
        let lacks = |name: &&str| !in_btf(&btf, name);
        return Some(tracepoints.iter().copied().filter(lacks).collect());
    }
    let events = tracepoints::tracefs_events().ok()?;
    let lacks = |name: &&str| !events.join(name.replace(':', "/")).exists();
    Some(tracepoints.iter().copied().filter(lacks).collect())
}

/// Whether the running kernel has a tracepoint; also when nothing tells, so that loading explains.
pub fn has_tracepoint(name: &str) -> bool {
    missing(&[name]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tracepoint_is_named() {
        if Path::new(KERNEL_BTF).exists() {
            let list = ["sock:inet_sock_set_state", "tcp:no_such_event"];
            assert_eq!(missing(&list), Some("tcp:no_such_event"));
        }
    }

    #[test]
    fn another_error_stays_as_it_is() {
        let error = explain(anyhow!("disk full"), &["sock:inet_sock_set_state"]);
        if Path::new(KERNEL_BTF).exists() {
            assert_eq!(error.to_string(), "disk full");
        }
    }
}
