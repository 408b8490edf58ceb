// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the programs of a command differ between kernels: what is set in an object before it is loaded.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, Object, OpenObject, Program};

use crate::abi::types::type_ids;
use crate::kernel::btf::{self, types::Kind};
use crate::kernel::tracepoints::arguments;
use crate::session::stats::is_loaded;

/// The end of the name of a first program that stays on the kernel's stack (`bpf/common/owner/nested.bpf.h`).
pub(super) const KERNEL_STACK: &str = "_kstack";

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
        tcphdr: id("tcphdr"),
        dst_entry: id("dst_entry"),
        rtable: id("rtable"),
        rt6_info: id("rt6_info"),
        skb_shared_info: id("skb_shared_info"),
        sk_buff: id("sk_buff"),
        pad: 0,
    }
}

/// Loads the programs of this name, too.
pub(super) fn enable(object: &mut OpenObject, name: &str) {
    for mut program in object.progs_mut().filter(|p| p.name() == OsStr::new(name)) {
        program.set_autoload(true);
    }
}

/// Which of the programs that `bpf/common/owner/nested.bpf.h` makes of one are loaded: where several tasks can be preempted
/// in a program, more backups; and where programs have private stacks, a first one that has none.
pub(super) fn choose_backups(object: &mut OpenObject) {
    let names: Vec<_> = object.progs_mut().map(|p| p.name().to_owned()).collect();
    let instead = |name: &OsStr| {
        let other = [name.as_encoded_bytes(), KERNEL_STACK.as_bytes()].concat();
        names.iter().any(|name| name.as_encoded_bytes() == other)
    };
    for mut program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if name.ends_with("_backup1") {
            program.set_autoload(true);
        } else if name.ends_with("_backup2") || name.ends_with("_backup3") {
            program.set_autoload(arguments::can_be_preempted());
        } else if name.ends_with(KERNEL_STACK) {
            program.set_autoload(has_private_stacks());
        } else if instead(OsStr::new(&name)) {
            program.set_autoload(!has_private_stacks());
        }
    }
}

/// Since 6.13.
fn has_private_stacks() -> bool {
    btf::has_field("bpf_prog_aux", "priv_stack_ptr")
}

/// The end of the name of a map with the first program of a family, that its backups call.
const FIRST: &str = "_first";

/// Tells backup programs which program they call.
///
/// # Errors
/// When the kernel does not take it.
pub(super) fn connect_backups(object: &Object) -> Result<()> {
    for map in object.maps() {
        let name = map.name().to_string_lossy();
        let Some(family) = name.strip_suffix(FIRST) else {
            continue;
        };
        let is_first = |p: &Program<'_>| {
            let name = p.name().to_string_lossy();
            name.strip_suffix(KERNEL_STACK).unwrap_or(&name) == family
        };
        let mut loaded = object.progs().filter(is_loaded);
        let first = loaded.find(is_first).context("no first program")?;
        let fd = first.as_fd().as_raw_fd().to_ne_bytes();
        map.update(&0u32.to_ne_bytes(), &fd, MapFlags::ANY)
            .context("cannot connect the backup programs")?;
    }
    Ok(())
}
