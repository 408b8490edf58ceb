// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this process may not have more of: descriptors, threads, memory. Said in one sentence, with what raises it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

use anyhow::Error;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

use crate::preflight::{Trouble, has_errno};

/// A command has up to some 50 files open, and more where it visits network namespaces.
const FEW_FILES: u64 = 64;

/// What this error says there was not enough of.
pub fn exhausted(error: &Error) -> Option<Trouble> {
    let is = |errno: Errno| has_errno(error, &[errno as i32]);
    if is(Errno::EMFILE) {
        return Some(files());
    }
    if is(Errno::ENFILE) {
        let why = "this host has as many files open as it may";
        return Some(Trouble::new(why, "raise sysctl fs.file-max"));
    }
    is(Errno::ENOMEM).then(memory)
}

/// The error in words for a user: what there was not enough of, or itself.
pub(crate) fn said(error: &Error) -> String {
    match exhausted(error) {
        Some(trouble) => trouble.to_string(),
        None => format!("{error:#}"),
    }
}

/// For an error that says something else: that there are too few descriptors for any command. libbpf goes on without
/// what it could not open, and is then refused for that.
pub(crate) fn low() -> Option<Trouble> {
    let limit = of(Resource::RLIMIT_NOFILE)?;
    (limit < FEW_FILES).then(files)
}

/// A limit that there is.
fn of(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

fn files() -> Trouble {
    let limit = of(Resource::RLIMIT_NOFILE).unwrap_or(0);
    Trouble::new(
        format!("the limit of {limit} open files is too low"),
        "raise it with ulimit -n 1024 (LimitNOFILE= in a systemd unit)",
    )
}

fn memory() -> Trouble {
    match of(Resource::RLIMIT_AS) {
        Some(bytes) => Trouble::new(
            format!("the limit of {} KiB of memory is too low", bytes / 1024),
            "raise it with ulimit -v unlimited (LimitAS= in a systemd unit)",
        ),
        None => Trouble::new(
            "there is not enough memory",
            "free some, raise memory.max of its cgroup, or give a smaller --buffer",
        ),
    }
}

/// That no thread could be made: for want of memory, if that is what is limited.
pub(crate) fn thread() -> Trouble {
    const SCARCE: u64 = 1 << 30;
    if of(Resource::RLIMIT_AS).is_some_and(|bytes| bytes < SCARCE) {
        return memory();
    }
    Trouble::new(
        "no thread can be made",
        "raise pids.max of its cgroup, or ulimit -u (TasksMax= or LimitNPROC= in a systemd unit)",
    )
}

/// The name of the running command, for a message that takes no memory.
static NAME: OnceLock<&str> = OnceLock::new();

/// To be called first: see [`NAME`].
pub(crate) fn name(tool: &'static str) {
    let _ = NAME.set(tool);
}

/// The system's memory; where there is none left the process ends with a sentence and exit code 1, not with SIGABRT.
struct Memory;

#[global_allocator]
static MEMORY: Memory = Memory;

// SAFETY: hands everything on to the system's allocator, whose contract is the same; only null is never returned.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same as the system's.
        some(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        some(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        some(unsafe { System.realloc(at, layout, size) })
    }
}

fn some(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        out_of_memory();
    }
    at
}

#[cold]
fn out_of_memory() -> ! {
    const WHY: &str =
        ": there is not enough memory: raise ulimit -v or memory.max of its cgroup, or free some\n";
    let mut text = [0u8; 160];
    let words = NAME
        .get()
        .copied()
        .unwrap_or("tcptools")
        .bytes()
        .chain(WHY.bytes());
    let mut size = 0;
    for (to, byte) in text.iter_mut().zip(words) {
        *to = byte;
        size += 1;
    }
    // Nobody may read it; there is nothing else to do then.
    let _ = nix::unistd::write(std::io::stderr(), text.get(..size).unwrap_or_default());
    // SAFETY: ends the process, and runs nothing that might need memory.
    unsafe { libc::_exit(1) }
}
