// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a command cannot run on this host, in one sentence with a remedy.
//!
//! Nothing is checked in advance: the kernel is asked to load the programs, and only its refusal is diagnosed
//! (docs/principles.md 12).

use std::fs;
use std::path::Path;

use anyhow::{Error, anyhow};
use caps::{CapSet, Capability};

use crate::kernel::btf::{self, types::Kind};
use crate::kernel::mounts;
use crate::kernel::problem::{KERNEL_BTF, Problem, has_errno};
use crate::kernel::{limits, tracepoints};

/// Puts the most likely reason for a failed load or attach before `error`.
pub fn explain(error: Error, tracepoints: &[&str]) -> Error {
    match reason(&error, tracepoints) {
        Some(sentence) => anyhow!("{sentence}"),
        None => error,
    }
}

/// Like [`explain`], for a command that reads tracepoint records and needs no type information.
pub fn explain_record(error: Error) -> Error {
    let problem = unprivileged(&error)
        .or_else(|| limits::exhausted(&error))
        .or_else(|| locked_down(&error))
        .or_else(|| forbidden(&error))
        .or_else(limits::low);
    match problem {
        Some(problem) => anyhow!("{problem}"),
        None => error,
    }
}

fn unprivileged(error: &Error) -> Option<Problem> {
    let refused = has_errno(error, &[libc_errno::EPERM, libc_errno::EACCES]);
    let problem = || capabilities().or_else(user_namespace);
    refused.then(problem).flatten()
}

/// The most likely reason for a failed load or attach, in a sentence with a remedy.
pub fn reason(error: &Error, tracepoints: &[&str]) -> Option<String> {
    let verifier = || {
        Problem::new(
            format!("the BPF verifier rejected the program ({error:#})"),
            "please report this with the output of -v",
        )
    };
    let problem = unprivileged(error)
        .or_else(|| limits::exhausted(error))
        .or_else(btf)
        .or_else(|| missing(tracepoints).map(tracepoint))
        .or_else(|| locked_down(error))
        .or_else(|| forbidden(error))
        .or_else(|| has_errno(error, &[libc_errno::EACCES]).then(verifier))
        .or_else(limits::low);
    problem.map(|problem| problem.to_string())
}

/// bpf(2) or perf_event_open(2) is refused although the capabilities are there.
fn forbidden(error: &Error) -> Option<Problem> {
    use libc_errno::{ENOSYS, EPERM};
    const ALLOW: &str = "allow both (docker run --security-opt seccomp=unconfined, SystemCallFilter= in a systemd unit)";
    if !has_errno(error, &[EPERM, ENOSYS]) {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line == "Seccomp:\t2") {
        return Some(Problem::new(
            "a seccomp filter blocks bpf(2) or perf_event_open(2)",
            ALLOW,
        ));
    }
    Some(match has_errno(error, &[ENOSYS]) {
        true => Problem::new("this kernel has no bpf(2)", "it needs CONFIG_BPF_SYSCALL=y"),
        false => Problem::new(
            format!("the kernel denied it, although this process has the capabilities ({error:#})"),
            "check the kernel log for a denial by a security module; before Linux 5.11, raise ulimit -l",
        ),
    })
}

/// Lockdown takes helpers away: a program that calls them is not refused but wrong (EINVAL, kernel/bpf/verifier.c).
fn locked_down(error: &Error) -> Option<Problem> {
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

/// Remedy for a user without the right to trace.
const PRIVILEGES: &str = "run it with sudo, or grant CAP_BPF and CAP_PERFMON";

/// Whether this process lacks the capabilities.
pub fn capabilities() -> Option<Problem> {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    let may =
        has(Capability::CAP_SYS_ADMIN) || has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON);
    (!may).then(|| Problem::new("permission denied", PRIVILEGES))
}

/// Whether this process is in a user namespace, whose root is not the kernel's.
pub fn user_namespace() -> Option<Problem> {
    // The initial one maps every id to itself: "0 0 4294967295".
    let own = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let ids: Vec<_> = map.split_whitespace().collect();
        ids != ["0", "0", "4294967295"]
    });
    own.then(|| {
        Problem::new(
            "a user namespace cannot trace the kernel",
            "run it outside (a container needs --privileged or --cap-add BPF,PERFMON without a user namespace of its own)",
        )
    })
}

/// Whether the kernel lacks its type information.
pub fn btf() -> Option<Problem> {
    if Path::new(KERNEL_BTF).exists() {
        return None;
    }
    let none = || {
        Problem::new(
            format!("this kernel has no {KERNEL_BTF}"),
            "it needs CONFIG_DEBUG_INFO_BTF=y, as distribution kernels have since about 5.10",
        )
    };
    Some(mounts::sys().unwrap_or_else(none))
}

/// The problem of a missing tracepoint.
pub fn tracepoint(name: &str) -> Problem {
    Problem::new(
        format!("this kernel has no tracepoint {name}"),
        "it is too old, or built without it",
    )
}

/// Whether the kernel is locked down too far.
pub fn lockdown() -> Option<Problem> {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
        .then(|| {
            Problem::new(
                "kernel lockdown is in confidentiality mode, which prevents BPF from reading kernel memory",
                "boot with lockdown=integrity or less",
            )
        })
}

/// The first of these tracepoints that this kernel is known to lack.
fn missing<'a>(tracepoints: &[&'a str]) -> Option<&'a str> {
    all_missing(tracepoints)?.into_iter().next()
}

/// Those of these tracepoints that this kernel lacks: by its BTF, which has them since 5.5, or else by tracefs; `None`
/// if neither is readable.
pub fn all_missing<'a>(tracepoints: &[&'a str]) -> Option<Vec<&'a str>> {
    let in_btf = |name: &str| {
        let event = name.rsplit(':').next().unwrap_or(name);
        btf::has(Kind::Typedef, &format!("btf_trace_{event}"))
    };
    // Every kernel has this one.
    if in_btf("sched:sched_switch") {
        let is_missing = |name: &&str| !in_btf(name);
        return Some(tracepoints.iter().copied().filter(is_missing).collect());
    }
    let events = tracepoints::tracefs_events().ok()?;
    let is_missing = |name: &&str| !events.join(name.replace(':', "/")).exists();
    Some(tracepoints.iter().copied().filter(is_missing).collect())
}

/// Whether the running kernel has a tracepoint; true if unknown, so that loading reports the error.
pub fn has_tracepoint(name: &str) -> bool {
    missing(&[name]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tracepoint_is_named() {
        if Path::new(KERNEL_BTF).exists() {
            let list = ["sock:inet_sock_set_state", "tcp:no_such_event"];
            assert_eq!(missing(&list), Some("tcp:no_such_event"));
        }
    }

    #[test]
    fn other_errors_are_unchanged() {
        let error = explain(anyhow!("disk full"), &["sock:inet_sock_set_state"]);
        if Path::new(KERNEL_BTF).exists() {
            assert_eq!(error.to_string(), "disk full");
        }
    }
}
