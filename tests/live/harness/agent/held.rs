// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket that its reader holds: its lock is taken, so that what arrives waits in its backlog.

use std::{os::fd::RawFd, thread};

use nix::{
    Result,
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{number, sys::borrow};

/// `None`: not a command of this kind.
pub fn execute(verb: &str, args: &[&str]) -> Option<Result<String>> {
    (verb == "hold").then(|| hold(number(args, 0)?))
}

/// include/uapi/linux/userfaultfd.h
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const MODE_MISSING: u64 = 1;

/// `hold FD`: a thread reads from the socket into memory that nobody provides. It holds the socket's lock until the agent
/// ends. There must be something to read.
fn hold(fd: RawFd) -> Result<String> {
    let (faults, page) = missing_page()?;
    thread::spawn(move || {
        // SAFETY: `page` is the start of a mapping that is never removed.
        unsafe { libc::recv(fd, page as *mut libc::c_void, 1, 0) }
    });
    // The thread waits for the page.
    let mut fds = [PollFd::new(borrow(faults), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(10_000u16))? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(String::new()),
    }
}

/// A page in which every access waits, and what tells that one does.
fn missing_page() -> Result<(RawFd, usize)> {
    const BYTES: usize = 1 << 16;
    // SAFETY: takes an integer only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = Errno::result(fd)? as RawFd;
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let mut api = Api {
        api: UFFD_API,
        features: 0,
        ioctls: 0,
    };
    let mut register = Register {
        start: page as u64,
        len: BYTES as u64,
        mode: MODE_MISSING,
        ioctls: 0,
    };
    // SAFETY: both requests take the structure that they are given, which lives for the call.
    unsafe {
        Errno::result(libc::ioctl(fd, UFFDIO_API as _, &raw mut api))?;
        Errno::result(libc::ioctl(fd, UFFDIO_REGISTER as _, &raw mut register))?;
    }
    Ok((fd, page as usize))
}
