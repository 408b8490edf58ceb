// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel's tracepoints hand over: their arguments have become more over the years.

use libbpf_rs::btf::types::{FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, ReferencesType};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::KERNEL_BTF;

    #[test]
    fn arguments_are_counted() {
        if std::path::Path::new(KERNEL_BTF).exists() {
            assert_eq!(arguments("tcp_receive_reset"), 1);
            assert_eq!(arguments("inet_sock_set_state"), 3);
        }
        assert_eq!(arguments("no_such_tracepoint"), 0);
    }
}
