// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel's tracepoints hand over: their arguments have become more over the years.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use libbpf_rs::btf::types::{FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, ReferencesType};

use crate::preflight::KERNEL_BTF;

/// How many arguments a tracepoint has, from the prototype `btf_trace_<name>` in the kernel's BTF.
///
/// 0 when the kernel has no such tracepoint, or no BTF.
pub fn arguments(name: &str) -> usize {
    count(name).unwrap_or(0)
}

fn count(name: &str) -> Option<usize> {
    let btf = Btf::from_vmlinux().ok()?;
    let typedef = btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}"))?;
    let pointer = Ptr::try_from(typedef.referenced_type()).ok()?;
    let prototype = FuncProto::try_from(pointer.referenced_type()).ok()?;
    // The first parameter is the program's own context.
    prototype.len().checked_sub(1)
}

/// A task can be preempted while a tracepoint's programs run, so that these can be skipped for others.
///
/// Tracepoints are then called under SRCU, for which the kernel's types have this guard, and no longer with preemption
/// disabled (include/linux/tracepoint.h: __DECLARE_TRACE). Only the names are read, not the types.
pub fn can_be_preempted() -> bool {
    let guard = b"class_srcu_fast_notrace_t";
    let names = btf_names().unwrap_or_default();
    names.split(|byte| *byte == 0).any(|name| name == guard)
}

/// The section of names in the kernel's BTF; `struct btf_header` (include/uapi/linux/btf.h) says where it is.
fn btf_names() -> io::Result<Vec<u8>> {
    let file = File::open(KERNEL_BTF)?;
    let mut words = [[0; 4]; 6];
    for (index, word) in (0u64..).zip(&mut words) {
        file.read_exact_at(word, index.saturating_mul(4))?;
    }
    let [_, header_len, _, _, at, len] = words.map(u32::from_ne_bytes);
    let start = u64::from(header_len).saturating_add(u64::from(at));
    (&file).seek(SeekFrom::Start(start))?;
    let mut names = Vec::new();
    (&file).take(len.into()).read_to_end(&mut names)?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_counted() {
        if std::path::Path::new(KERNEL_BTF).exists() {
            assert_eq!(arguments("tcp_receive_reset"), 1);
            assert_eq!(arguments("inet_sock_set_state"), 3);
            let names = btf_names().unwrap();
            assert!(names.starts_with(b"\0") && names.ends_with(b"\0"));
            assert!(
                names
                    .split(|byte| *byte == 0)
                    .any(|name| name == b"tcp_sock")
            );
        }
        assert_eq!(arguments("no_such_tracepoint"), 0);
    }
}
