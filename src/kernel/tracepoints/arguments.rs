// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel's tracepoints hand over: their arguments have become more over the years.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use crate::kernel::btf::{self, types::Kind};

/// How many arguments a tracepoint has, from the prototype `btf_trace_<name>` in the kernel's BTF.
///
/// 0 when the kernel has no such tracepoint, or no BTF.
pub fn arguments(name: &str) -> usize {
    count(name).unwrap_or(0)
}

fn count(name: &str) -> Option<usize> {
    let types = btf::kernel()?;
    let (_, typedef) = types.find(Kind::Typedef, &format!("btf_trace_{name}"))?;
    let pointer = types.get(typedef.of)?;
    let prototype = types.get(pointer.of)?;
    // The first parameter is the program's own context.
    prototype.tail::<2>().count().checked_sub(1)
}

/// A task can be preempted while a tracepoint's programs run, so that these can be skipped for others.
///
/// Tracepoints are then called under SRCU, for which the kernel's types have this guard, and no longer with preemption
/// disabled (include/linux/tracepoint.h: __DECLARE_TRACE).
pub fn can_be_preempted() -> bool {
    btf::has(Kind::Typedef, "class_srcu_fast_notrace_t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::problem::KERNEL_BTF;

    #[test]
    fn arguments_are_counted() {
        if std::path::Path::new(KERNEL_BTF).exists() {
            assert_eq!(arguments("tcp_receive_reset"), 1);
            assert_eq!(arguments("inet_sock_set_state"), 3);
        }
        assert_eq!(arguments("no_such_tracepoint"), 0);
    }
}
