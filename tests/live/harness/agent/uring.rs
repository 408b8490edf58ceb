// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket's calls by io_uring: the kernel makes them in this thread, or in a thread of its own.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    Result,
    errno::Errno,
    libc,
    sys::socket::{SockaddrLike, SockaddrStorage},
};

use super::number;

/// `None`: not a command of this kind.
pub fn execute(verb: &str, args: &[&str]) -> Option<Result<String>> {
    match verb {
        "uring" => Some(call(0, args)),
        "uring_thread" => Some(call(SETUP_SQPOLL, args)),
        _ => None,
    }
}

// include/uapi/linux/io_uring.h
const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const OFFSET_SQES: i64 = 0x1000_0000;
const ACCEPT: u8 = 13;
const CONNECT: u8 = 16;
const CLOSE: u8 = 19;
const SEND: u8 = 26;
const RECEIVE: u8 = 27;

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`, which lie in the same way as far as they are used.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// `flags`, or `overflow`.
    _fourth: u32,
    /// `dropped`, or where the completions are.
    fifth: u32,
    /// Where the array is, or `flags`.
    sixth: u32,
    _reserved: u32,
    _user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    _thread: [u32; 2],
    _features: u32,
    _wq_fd: u32,
    _reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Entry {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    _rest: [u64; 3],
}

/// `connect FD ADDRESS`, `accept FD`, `send FD BYTES`, `recv FD BYTES`, `close FD`: the result as the call returns it.
fn call(flags: u32, args: &[&str]) -> Result<String> {
    let (&verb, rest) = args.split_first().ok_or(Errno::EINVAL)?;
    let mut entry = Entry {
        fd: number(rest, 0)?,
        ..Entry::default()
    };
    let address = number::<SocketAddr>(rest, 1).map(SockaddrStorage::from);
    let mut data = vec![b'x'; number(rest, 1).unwrap_or(0)];
    match verb {
        "connect" => {
            let address = address.as_ref().map_err(|error| *error)?;
            entry.opcode = CONNECT;
            entry.addr = address.as_ptr() as u64;
            entry.off = address.len().into();
        }
        "accept" => entry.opcode = ACCEPT,
        "close" => entry.opcode = CLOSE,
        "send" | "recv" => {
            entry.opcode = if verb == "send" { SEND } else { RECEIVE };
            entry.addr = data.as_mut_ptr() as u64;
            entry.len = data.len() as u32;
            entry.op_flags = libc::MSG_WAITALL as u32;
        }
        _ => return Err(Errno::ENOSYS),
    }
    let result = Ring::new(flags)?.perform(entry)?;
    match result {
        0.. => Ok(result.to_string()),
        error => Err(Errno::from_raw(-error)),
    }
}

/// Room for one call.
struct Ring {
    fd: OwnedFd,
    params: Params,
    rings: *mut u8,
    entries: *mut Entry,
}

impl Ring {
    fn new(flags: u32) -> Result<Self> {
        let mut params = Params {
            flags,
            ..Params::default()
        };
        // SAFETY: the kernel reads and writes such a struct, which lives.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1u32, &raw mut params) };
        let fd = Errno::result(fd)? as RawFd;
        // SAFETY: a new descriptor, which nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let submissions = params.sq.sixth as usize + params.sq_entries as usize * 4;
        let completions = params.cq.fifth as usize + params.cq_entries as usize * 16;
        let rings = map(&fd, submissions.max(completions), 0)?;
        let bytes = params.sq_entries as usize * size_of::<Entry>();
        let entries = map(&fd, bytes, OFFSET_SQES)?.cast();
        Ok(Self {
            fd,
            params,
            rings,
            entries,
        })
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: within the mapping, which is never removed; both sides read and write whole words.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }

    fn perform(&self, entry: Entry) -> Result<i32> {
        // SAFETY: there is room for one.
        unsafe { ptr::write(self.entries, entry) };
        self.word(self.params.sq.sixth).store(0, Ordering::Relaxed);
        self.word(self.params.sq.tail).store(1, Ordering::Release);
        let flags = ENTER_GETEVENTS | ENTER_SQ_WAKEUP;
        // SAFETY: takes integers, and no set of signals.
        let entered = unsafe {
            let (fd, call) = (self.fd.as_raw_fd(), libc::SYS_io_uring_enter);
            libc::syscall(call, fd, 1u32, 1u32, flags, ptr::null::<u8>(), 0usize)
        };
        Errno::result(entered)?;
        if self.word(self.params.cq.tail).load(Ordering::Acquire) == 0 {
            return Err(Errno::ETIMEDOUT);
        }
        // struct io_uring_cqe: user_data, res, flags.
        Ok(self.word(self.params.cq.fifth + 8).load(Ordering::Acquire) as i32)
    }
}

/// A part of the ring; it stays until the agent ends.
fn map(fd: &OwnedFd, bytes: usize, offset: i64) -> Result<*mut u8> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_POPULATE,
    );
    let fd = fd.as_raw_fd();
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, offset) };
    match at == libc::MAP_FAILED {
        true => Err(Errno::last()),
        false => Ok(at.cast()),
    }
}
