// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few system calls that nix does not wrap, each behind a safe function. An agent names its sockets by their
//! descriptor numbers, as a shell does: a wrong number is an `EBADF` for the test to see, nothing worse.

use std::{
    io,
    mem::size_of,
    os::fd::{BorrowedFd, RawFd},
};

use nix::{
    Result,
    errno::Errno,
    libc,
    sys::{prctl, signal::Signal},
    unistd,
};

/// `socket(2)`, close-on-exec; `protocol` may be MPTCP, which nix has no name for.
pub fn socket(family: i32, protocol: i32) -> Result<RawFd> {
    any_socket(family, libc::SOCK_STREAM, protocol)
}

/// `socket(2)` of any type, close-on-exec.
pub fn any_socket(family: i32, kind: i32, protocol: i32) -> Result<RawFd> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(fd)
}

/// `setsockopt(2)` with a plain C struct or an integer.
pub fn set_option<T: Copy>(fd: RawFd, level: i32, name: i32, value: &T) -> Result<()> {
    // SAFETY: the kernel reads size_of::<T>() bytes from a live reference; the options used take plain data.
    let ret = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(ret).map(drop)
}

/// `setsockopt(2)` with these bytes.
pub fn set_option_bytes(fd: RawFd, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as it is told of a live slice.
    let ret = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    Errno::result(ret).map(drop)
}

/// `getsockopt(2)`; what the kernel does not fill stays zero.
pub fn get_option<const N: usize>(fd: RawFd, level: i32, name: i32) -> Result<[u8; N]> {
    get_option_len(fd, level, name).map(|(value, _)| value)
}

/// And how many bytes the kernel filled: structures grow.
pub fn get_option_len<const N: usize>(
    fd: RawFd,
    level: i32,
    name: i32,
) -> Result<([u8; N], usize)> {
    let mut value = [0u8; N];
    let mut len = N as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the array, which is that long.
    let ret = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut len) };
    Errno::result(ret).map(|_| (value, len as usize))
}

/// Makes every incoming segment be dropped before TCP sees it: a socket filter that says "keep 0 bytes".
pub fn drop_incoming(fd: RawFd) -> Result<()> {
    let mut ret_zero = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &mut ret_zero,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// `connect(2)` to AF_UNSPEC: ends the session, keeps the socket.
pub fn disconnect(fd: RawFd) -> Result<()> {
    let unspec = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as u16,
        sa_data: [0; 14],
    };
    // SAFETY: the address is a live sockaddr of the length given.
    let ret = unsafe { libc::connect(fd, &unspec, size_of::<libc::sockaddr>() as libc::socklen_t) };
    Errno::result(ret).map(drop)
}

/// The bytes in the send queue that the peer has not acknowledged.
pub fn unacknowledged(fd: RawFd) -> Result<i32> {
    let mut bytes = 0i32;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int through the pointer, which is a live one.
    let ret = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut bytes) };
    Errno::result(ret).map(|_| bytes)
}

/// Starts to keep a descriptor across exec.
pub fn keep_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: takes integers only.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    Errno::result(ret).map(drop)
}

/// The other half of a fork: `Some(pid)` in the parent.
pub fn fork() -> Result<Option<i32>> {
    // SAFETY: an agent has one thread whenever it forks (threads are joined within their command).
    let pid = unsafe { libc::fork() };
    Errno::result(pid).map(|pid| (pid != 0).then_some(pid))
}

/// A child with all descriptors and the highest free PID below this process's, which waits until this process ends.
/// Kernels before 5.5 let nobody choose a PID: `E2BIG`.
pub fn child_below() -> Result<libc::pid_t> {
    for pid in (2..std::process::id() as libc::pid_t).rev() {
        // SAFETY: all of it may be 0.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.exit_signal = libc::SIGCHLD as u64;
        args.set_tid = (&raw const pid) as u64;
        args.set_tid_size = 1;
        // SAFETY: a fork, see above; the kernel reads the structs, which live.
        let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
        match Errno::result(ret as libc::pid_t) {
            Err(Errno::EEXIST) => {}
            Ok(0) => wait_for_the_end(),
            other => return other,
        }
    }
    Err(Errno::EEXIST)
}

/// Of the parent.
fn wait_for_the_end() -> ! {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    loop {
        unistd::pause();
    }
}

/// Becomes another user for good.
pub fn become_user(uid: u32) -> Result<()> {
    // SAFETY: takes integers only; an agent has one thread, so there is no other to keep in step.
    let ret = unsafe { libc::setresuid(uid, uid, uid) };
    Errno::result(ret).map(drop)
}

/// Runs before whatever is not of that kind, and of lower priorities of it (sched(7)).
pub fn become_realtime(priority: i32) -> Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: reads one live struct of the kind that it expects.
    let ret = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
    Errno::result(ret).map(drop)
}

/// The `errno` of a std I/O error.
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Ends this thread alone, whose stack stays: `_exit(2)` would end all.
pub fn end_thread() -> ! {
    // SAFETY: nothing of this thread is used or freed from here on; it takes an integer only.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("exit does not return")
}

/// nix asks for a borrowed descriptor here and there.
pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for the one call that it is made for; a wrong number makes that call fail with EBADF.
    unsafe { BorrowedFd::borrow_raw(fd.max(0)) }
}
