// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel denies to tracing programs, found by trying: versions lie, because distributions backport.

use std::ffi::OsStr;
use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::types::lacks;

crate::skeleton!("lacks");

/// Asks the kernel. Where everything is there, as since 5.12, one question is enough.
pub fn find() -> lacks {
    if loads(None) {
        return lacks::default();
    }
    let lacking = |program| u8::from(!loads(Some(program)));
    lacks {
        // The table that stands in for the storage serves both.
        sk_storage: lacking("sk_storage") | lacking("sock_from_file"),
        socket_cookie: lacking("socket_cookie"),
        task_btf: lacking("task_btf"),
        ..lacks::default()
    }
}

/// Whether the kernel takes this program of `lacks.bpf.c`, or all of them.
fn loads(only: Option<&str>) -> bool {
    let mut storage = MaybeUninit::uninit();
    let Ok(mut open) = bpf::LacksSkelBuilder::default().open(&mut storage) else {
        return false;
    };
    for mut program in open.open_object_mut().progs_mut() {
        let wanted = only.is_none_or(|name| program.name() == OsStr::new(name));
        program.set_autoload(wanted);
    }
    open.load().is_ok()
}
