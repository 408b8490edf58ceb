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

use crate::tracepoints;

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
    let refused = has_errno(&error, &[libc_errno::EPERM, libc_errno::EACCES]);
    let trouble = || capabilities().or_else(user_namespace);
    let trouble = refused.then(trouble).flatten();
    match trouble.or_else(|| locked_down(&error)) {
        Some(trouble) => anyhow!("{trouble}"),
        None => error,
    }
}

/// The most likely reason for a failed load or attach, in a sentence with a remedy.
pub fn reason(error: &Error, tracepoints: &[&str]) -> Option<String> {
    let refused = has_errno(error, &[libc_errno::EPERM, libc_errno::EACCES]);
    let when = |refused: bool, check: fn() -> Option<Trouble>| refused.then(check).flatten();
    let trouble = when(refused, capabilities)
        .or_else(|| when(refused, user_namespace))
        .or_else(btf)
        .or_else(|| missing(tracepoints).map(tracepoint))
        .or_else(|| locked_down(error));
    if let Some(trouble) = trouble {
        return Some(trouble.to_string());
    }
    has_errno(error, &[libc_errno::EACCES]).then(|| {
        format!("the kernel's verifier refused the program ({error:#}): run again with -v and report what it says, please")
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
    pub const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
}

/// libbpf-rs keeps the error number in the text of its error only.
fn has_errno(error: &Error, numbers: &[i32]) -> bool {
    let text = format!("{error:#}");
    numbers
        .iter()
        .any(|n| text.contains(&format!("(os error {n})")))
}

/// Whether this process lacks the capabilities.
pub fn capabilities() -> Option<Trouble> {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    let may =
        has(Capability::CAP_SYS_ADMIN) || has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON);
    (!may).then(|| Trouble::new("needs CAP_BPF and CAP_PERFMON, which root has", "try sudo"))
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

/// Whether the kernel lacks its type information.
pub fn btf() -> Option<Trouble> {
    (!Path::new(KERNEL_BTF).exists()).then(|| {
        Trouble::new(
            format!("this kernel has no {KERNEL_BTF}"),
            "it needs CONFIG_DEBUG_INFO_BTF=y, as distribution kernels have since about 5.10",
        )
    })
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
