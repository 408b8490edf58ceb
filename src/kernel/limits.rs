// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exhausted resources (descriptors, threads, memory), reported in one message with the limit to raise.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

use anyhow::Error;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

use crate::kernel::btf;
use crate::kernel::problem::{Problem, has_errno};

/// A command has up to about 50 files open, and more if it visits network namespaces.
const FEW_FILES: u64 = 64;

/// The resource that this error says is exhausted.
pub fn exhausted(error: &Error) -> Option<Problem> {
    let is = |errno: Errno| has_errno(error, &[errno as i32]);
    if is(Errno::EMFILE) {
        return Some(files());
    }
    if is(Errno::ENFILE) {
        let why = "this host has reached its limit of open files";
        return Some(Problem::new(why, "raise sysctl fs.file-max"));
    }
    is(Errno::ENOMEM).then(memory)
}

/// The error for a user: the exhausted resource, or the error itself.
pub(crate) fn said(error: &Error) -> String {
    match exhausted(error) {
        Some(problem) => problem.to_string(),
        None => format!("{error:#}"),
    }
}

/// For any other error: a problem if the limit of descriptors is too low for any command. libbpf continues without
/// what it could not open, and fails later for another reason.
pub(crate) fn low() -> Option<Problem> {
    let limit = of(Resource::RLIMIT_NOFILE)?;
    (limit < FEW_FILES).then(files)
}

/// A limit, if it is finite.
fn of(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

fn files() -> Problem {
    let limit = of(Resource::RLIMIT_NOFILE).unwrap_or(0);
    Problem::new(
        format!("the limit of {limit} open files is too low"),
        "raise it with ulimit -n 1024 (LimitNOFILE= in a systemd unit)",
    )
}

fn memory() -> Problem {
    match of(Resource::RLIMIT_AS) {
        Some(bytes) => Problem::new(
            format!("the limit of {} KiB of memory is too low", bytes / 1024),
            "raise it with ulimit -v unlimited (LimitAS= in a systemd unit)",
        ),
        None => Problem::new(
            "not enough memory",
            "free memory, raise memory.max of the cgroup, or reduce --buffer",
        ),
    }
}

/// The problem of a thread that could not be created: lack of memory, if that is limited.
pub(crate) fn thread() -> Problem {
    const SCARCE: u64 = 1 << 30;
    if of(Resource::RLIMIT_AS).is_some_and(|bytes| bytes < SCARCE) {
        return memory();
    }
    Problem::new(
        "cannot create a thread",
        "raise pids.max of the cgroup, or ulimit -u (TasksMax= or LimitNPROC= in a systemd unit)",
    )
}

/// The name of the running command, for a message that takes no memory.
static NAME: OnceLock<&str> = OnceLock::new();

/// Call it first; see [`NAME`].
pub(crate) fn name(tool: &'static str) {
    let _ = NAME.set(tool);
}

/// The system's allocator; when it is out of memory, the process exits with a message and status 1, not with SIGABRT.
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
        ": not enough memory: raise ulimit -v or memory.max of the cgroup, or free memory\n";
    let mut text = [0u8; 160];
    // Before main(): the name of the process is that of the file.
    let mut comm = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) };
    let comm = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = NAME.get().map_or(comm, |name| name.as_bytes());
    let mut size = 0;
    for (to, &byte) in text.iter_mut().zip(name.iter().chain(WHY.as_bytes())) {
        *to = byte;
        size += 1;
    }
    // If the write fails, there is nothing else to do.
    let _ = nix::unistd::write(std::io::stderr(), text.get(..size).unwrap_or_default());
    // SAFETY: ends the process, and runs nothing that might need memory.
    unsafe { libc::_exit(1) }
}

/// Loading programs takes some memory for a moment: types, instructions. Return it to the host.
pub(crate) fn give_back_memory() {
    btf::forget();
    // SAFETY: releases what the allocator does not use; no pointer becomes invalid.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
