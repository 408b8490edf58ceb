// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network namespace of a process's own, with its loopback interface up.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Moves the calling process, of one thread, into a network namespace of its own. Without CAP_SYS_ADMIN a user namespace
/// gives the right to it. Allocates nothing, as it must after fork().
///
/// # Errors
/// The kernel's: EPERM where user namespaces are not for everybody.
pub(super) fn enter() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?,
        other => other?,
    }
    loopback_up()?;
    Ok(())
}

/// `ip link set lo up` (netdevice(7)): here, as exec() takes the rights of a user namespace away.
fn loopback_up() -> Result<(), Errno> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq is plain data, for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives until the call returns, and the kernel only reads it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    Errno::result(done).map(drop)
}
