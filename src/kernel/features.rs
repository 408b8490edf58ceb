// SPDX-License-Identifier: MIT OR Apache-2.0
//! Features that the running kernel denies to tracing programs, found by trying: versions are unreliable, because
//! distributions backport (docs/principles.md 4).
//!
//! The first try is the command itself, as if nothing were denied: where nothing is, as since 5.12, probing costs no
//! time. Features are probed only when its programs are rejected, and they are then loaded again, once. Iterators
//! over map elements, which new kernels may reject too, are probed in advance by the commands that use them.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use anyhow::Result;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, MapHandle, MapType, OpenObject, libbpf_sys};

use crate::abi::types::missing_features;
use crate::kernel::{iter, problem::KERNEL_BTF};

crate::skeleton!("features");

static FOUND: OnceLock<missing_features> = OnceLock::new();

/// Whether `TCPTOOLS_WITHOUT` names something that the kernel has: `btf`, `ringbuf`, `mmap`, `map_elements`,
/// `table`. For tests,
/// and to compare. Not there with rights that the user does not have: see [`crate::kernel::trust::clean_environment`].
pub fn done_without(feature: &str) -> bool {
    let list = std::env::var("TCPTOOLS_WITHOUT").unwrap_or_default();
    list.split(',').any(|word| word == feature)
}

/// Whether the kernel has type information of its own.
pub fn has_types() -> bool {
    !done_without("btf") && Path::new(KERNEL_BTF).exists()
}

/// What commands read.
#[derive(Debug)]
pub enum Source {
    /// What their own programs send.
    Programs,
    /// The records of tracepoints.
    Records {
        /// The type information by which sockets are read, too: the kernel's own, if it only lacks what came with the
        /// ring buffer, or the user's file.
        sockets: Option<PathBuf>,
    },
}

impl Source {
    /// What can be read on this kernel, as far as is known: see [`explains_refusal`]. `file`: the user's type information.
    pub fn new(file: Option<&Path>) -> Self {
        let own = has_types().then_some(Path::new(KERNEL_BTF));
        match lacking() {
            None => Self::Programs,
            Some(_) => Self::Records {
                sockets: own.or(file).map(Path::to_owned),
            },
        }
    }
}

/// What the kernel lacks, without which nothing but tracepoints' records can be read.
pub fn lacking() -> Option<&'static str> {
    if !has_types() {
        return Some("no type information (BTF)");
    }
    // Such a kernel (before 5.8) lacks more of what the commands' own programs need.
    let no_ring_buffer = done_without("ringbuf") || known().ring_buffer != 0;
    no_ring_buffer.then_some("no ring buffer")
}

/// The beginning of a sentence that says so.
pub fn this_kernel() -> String {
    format!("this kernel has {}", lacking().unwrap_or("little to read"))
}

/// What is known so far: no feature is missing, unless `explains_refusal` found one.
pub fn known() -> missing_features {
    let mut known = FOUND.get().copied().unwrap_or_default();
    known.socket_table |= u8::from(done_without("table"));
    known
}

/// Whether the kernel refuses to visit the elements of a map. It is asked once, which takes some milliseconds.
pub fn refuses_map_elements() -> bool {
    static REFUSED: LazyLock<bool> =
        LazyLock::new(|| done_without("map_elements") || visit_elements().is_err());
    *REFUSED
}

/// Loads those of the programs of `features.bpf.c` whose names are `wanted`.
fn load(
    storage: &mut MaybeUninit<OpenObject>,
    wanted: impl Fn(&OsStr) -> bool,
) -> Result<bpf::FeaturesSkel<'_>> {
    let mut open = bpf::FeaturesSkelBuilder::default().open(storage)?;
    for mut program in open.open_object_mut().progs_mut() {
        let wanted = wanted(program.name());
        program.set_autoload(wanted);
    }
    Ok(open.load()?)
}

/// Attaches the smallest iterator over the smallest map.
fn visit_elements() -> Result<()> {
    let mut storage = MaybeUninit::uninit();
    let skel = load(&mut storage, |name| name == "map_elements")?;
    let elements = skel.maps.storage.as_fd();
    iter::attach(&skel.progs.map_elements, Some(elements)).map(drop)
}

/// Call it when programs were rejected: whether a feature that was not known to be missing may explain it.
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
        found.socket_table,
    ];
    all != [0; 5]
}

/// Probes the kernel. If nothing is missing, one probe is enough.
fn find() -> missing_features {
    let ring_buffer = lacks_ring_buffer().into();
    if loads(None) {
        return missing_features {
            ring_buffer,
            ..missing_features::default()
        };
    }
    let lacking = |program| u8::from(!loads(Some(program)));
    // The table that stands in for the storage serves both.
    let sk_storage = lacking("sk_storage") | lacking("sock_from_file");
    let socket_cookie = lacking("socket_cookie");
    missing_features {
        sk_storage,
        socket_cookie,
        socket_table: sk_storage | socket_cookie | lacking("map_lock"),
        task_btf: lacking("task_btf"),
        ring_buffer,
        ..missing_features::default()
    }
}

/// Whether the kernel takes this program of `features.bpf.c`, or all of them.
fn loads(only: Option<&str>) -> bool {
    let wanted = |name: &OsStr| only.map_or(name != "map_elements", |only| name == only);
    load(&mut MaybeUninit::uninit(), wanted).is_ok()
}

/// Whether this kernel has no ring buffers (before 5.8), or they are to be done without. One that cannot be created
/// for lack of privileges is not missing.
pub fn lacks_ring_buffer() -> bool {
    if done_without("ringbuf") {
        return true;
    }
    let opts = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let made = MapHandle::create(MapType::RingBuf, None::<&str>, 0, 0, 64 * 1024, &opts);
    made.is_err_and(|e| e.kind() == ErrorKind::InvalidInput)
}
