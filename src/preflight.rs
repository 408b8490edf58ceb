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

/// Where the kernel keeps its own type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Puts the most likely reason for a failed load or attach before `error`.
pub fn explain(error: Error, tracepoints: &[&str]) -> Error {
    match reason(&error, tracepoints) {
        Some(sentence) => anyhow!("{sentence}"),
        None => error,
    }
}

fn reason(error: &Error, tracepoints: &[&str]) -> Option<String> {
    let refused = has_errno(error, &[libc_errno::EPERM, libc_errno::EACCES]);
    if refused && !may_trace() {
        return Some("needs CAP_BPF and CAP_PERFMON, which root has: try sudo".into());
    }
    if refused && in_user_namespace() {
        return Some("a user namespace cannot trace the kernel: run it outside (a container needs --privileged or --cap-add BPF,PERFMON without a user namespace of its own)".into());
    }
    if !Path::new(KERNEL_BTF).exists() {
        return Some(format!(
            "this kernel has no {KERNEL_BTF}: it needs CONFIG_DEBUG_INFO_BTF=y, as distribution kernels have since about 5.10"
        ));
    }
    if let Some(name) = missing(tracepoints) {
        return Some(format!(
            "this kernel has no tracepoint {name}: it is too old, or built without it"
        ));
    }
    if refused && lockdown() {
        return Some("kernel lockdown is in confidentiality mode, which forbids BPF to read kernel memory: boot with lockdown=integrity or less".into());
    }
    has_errno(error, &[libc_errno::EACCES]).then(|| {
        format!("the kernel's verifier refused the program ({error:#}): run again with -v and report what it says, please")
    })
}

/// The numbers of `include/uapi/asm-generic/errno-base.h`.
mod libc_errno {
    pub const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    pub const EACCES: i32 = nix::errno::Errno::EACCES as i32;
}

/// libbpf-rs keeps the error number in the text of its error only.
fn has_errno(error: &Error, numbers: &[i32]) -> bool {
    let text = format!("{error:#}");
    numbers
        .iter()
        .any(|n| text.contains(&format!("(os error {n})")))
}

fn may_trace() -> bool {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    has(Capability::CAP_SYS_ADMIN) || has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON)
}

fn in_user_namespace() -> bool {
    // The initial one maps every id to itself: "0 0 4294967295".
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let ids: Vec<_> = map.split_whitespace().collect();
        ids != ["0", "0", "4294967295"]
    })
}

fn lockdown() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

fn missing<'a>(tracepoints: &[&'a str]) -> Option<&'a str> {
    let btf = Btf::from_vmlinux().ok()?;
    tracepoints.iter().copied().find(|name| {
        let event = name.rsplit(':').next().unwrap_or(name);
        btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{event}"))
            .is_none()
    })
}

/// Whether the running kernel has a tracepoint; also when nothing tells (no BTF), so that loading explains.
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
