// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel denies to tracing programs, found by trying: versions lie, because distributions backport.
//!
//! The first try is the command itself, as if nothing were denied: where that is so, as since 5.12, no question costs
//! any time. Only when its programs are refused is the kernel asked, and the command begins anew, once. What also new
//! kernels may refuse, to visit the elements of a map, is asked before, by the commands that would do so.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::{LazyLock, OnceLock};

use anyhow::Result;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::record::done_without;
use crate::types::lacks;
use crate::{iter, source};

crate::skeleton!("lacks");

static FOUND: OnceLock<lacks> = OnceLock::new();

/// The programs were refused for what the kernel lacks, which is known now: everything begins anew.
#[derive(Debug)]
pub struct Anew;

impl std::fmt::Display for Anew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this kernel needs other programs")
    }
}

impl std::error::Error for Anew {}

/// What is known so far: nothing is denied, unless `explains_refusal` has found something.
pub fn known() -> lacks {
    FOUND.get().copied().unwrap_or_default()
}

/// Whether the kernel refuses to visit the elements of a map. It is asked once, which takes some milliseconds.
pub fn refuses_map_elements() -> bool {
    static REFUSED: LazyLock<bool> =
        LazyLock::new(|| done_without("map_elements") || visit_elements().is_err());
    *REFUSED
}

/// Attaches the smallest iterator over the smallest map.
fn visit_elements() -> Result<()> {
    let mut storage = MaybeUninit::uninit();
    let mut open = bpf::LacksSkelBuilder::default().open(&mut storage)?;
    for mut program in open.open_object_mut().progs_mut() {
        let wanted = program.name() == OsStr::new("map_elements");
        program.set_autoload(wanted);
    }
    let skel = open.load()?;
    let elements = skel.maps.storage.as_fd();
    iter::attach(&skel.progs.map_elements, Some(elements)).map(drop)
}

/// To be called when programs were refused: whether it may be for something that was not known before.
pub fn explains_refusal() -> bool {
    if FOUND.get().is_some() {
        return false;
    }
    let found = FOUND.get_or_init(find);
    let all = [
        found.sk_storage,
        found.socket_cookie,
        found.task_btf,
        found.ring_buffer,
    ];
    all != [0; 4]
}

/// Asks the kernel. Where everything is there one question is enough.
fn find() -> lacks {
    let ring_buffer = source::lacks_ring_buffer().into();
    if loads(None) {
        return lacks {
            ring_buffer,
            ..lacks::default()
        };
    }
    let lacking = |program| u8::from(!loads(Some(program)));
    lacks {
        // The table that stands in for the storage serves both.
        sk_storage: lacking("sk_storage") | lacking("sock_from_file"),
        socket_cookie: lacking("socket_cookie"),
        task_btf: lacking("task_btf"),
        ring_buffer,
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
        let name = program.name();
        let wanted = only.map_or(name != "map_elements", |only| name == OsStr::new(only));
        program.set_autoload(wanted);
    }
    open.load().is_ok()
}
