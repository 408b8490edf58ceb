// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the programs of a command differ between kernels: what is set in an object before it is loaded.

use std::ffi::OsStr;

use libbpf_rs::OpenObject;

use crate::abi::types::type_ids;
use crate::kernel::btf::{self, types::Kind};
use crate::kernel::tracepoints::arguments;

/// The kernel's numbers of the types that programs cast to.
pub(super) fn type_numbers() -> type_ids {
    let Some(types) = btf::kernel() else {
        return type_ids::default();
    };
    let id = |name| types.find(Kind::Struct, name).map_or(0, |(id, _)| id);
    type_ids {
        sock: id("sock"),
        tcp_sock: id("tcp_sock"),
        task_struct: id("task_struct"),
        iphdr: id("iphdr"),
        ipv6hdr: id("ipv6hdr"),
    }
}

/// Loads the programs of this name, too.
pub(super) fn enable(object: &mut OpenObject, name: &str) {
    for mut program in object.progs_mut().filter(|p| p.name() == OsStr::new(name)) {
        program.set_autoload(true);
    }
}

/// More backup programs, for kernels where several tasks can be preempted in a program
/// (`bpf/common/owner/nested.bpf.h`).
pub(super) fn enable_more_backups(object: &mut OpenObject) {
    let mut deep: Vec<_> = object
        .progs_mut()
        .filter(|p| {
            let name = p.name().to_string_lossy();
            name.ends_with("_backup2") || name.ends_with("_backup3")
        })
        .collect();
    if !deep.is_empty() && arguments::can_be_preempted() {
        for program in &mut deep {
            program.set_autoload(true);
        }
    }
}
