// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket's calls as a 32-bit program makes them: `int 0x80` is such a call, whoever makes it
//! (arch/x86/entry/syscall_32.c).

use std::net::SocketAddr;

use nix::{
    Result,
    errno::Errno,
    libc,
    sys::socket::{SockaddrLike, SockaddrStorage},
};

use super::number;

/// `None`: not a command of this kind.
pub fn execute(verb: &str, args: &[&str]) -> Option<Result<String>> {
    (verb == "compat").then(|| call(args))
}

// arch/x86/entry/syscalls/syscall_32.tbl
const GETPID: u32 = 20;
const CLOSE: u32 = 6;
const SOCKET: u32 = 359;
const CONNECT: u32 = 362;
const ACCEPT4: u32 = 364;
const SENDTO: u32 = 369;
const RECVFROM: u32 = 371;

/// `getpid`, `socket FAMILY`, `connect FD ADDRESS`, `accept FD`, `send FD BYTES`, `recv FD BYTES`, `close FD`.
fn call(args: &[&str]) -> Result<String> {
    let (&verb, rest) = args.split_first().ok_or(Errno::EINVAL)?;
    let first = || number::<u32>(rest, 0);
    let result = match verb {
        "getpid" => enter(GETPID, [0; 6]),
        "socket" => {
            let family = if rest == ["6"] {
                libc::AF_INET6
            } else {
                libc::AF_INET
            };
            enter(
                SOCKET,
                [family as u32, libc::SOCK_STREAM as u32, 0, 0, 0, 0],
            )
        }
        "connect" => {
            let to = SockaddrStorage::from(number::<SocketAddr>(rest, 1)?);
            let low = low_memory()?;
            // SAFETY: the page has room for any address.
            unsafe {
                let from = to.as_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(from, low as usize as *mut u8, to.len() as usize);
            }
            enter(CONNECT, [first()?, low, to.len(), 0, 0, 0])
        }
        "accept" => enter(ACCEPT4, [first()?, 0, 0, 0, 0, 0]),
        "send" | "recv" => {
            let bytes: u32 = number(rest, 1)?;
            let (number, flags) = match verb {
                "send" => (SENDTO, libc::MSG_NOSIGNAL),
                _ => (RECVFROM, libc::MSG_WAITALL),
            };
            if bytes > PAGE {
                return Err(Errno::EMSGSIZE);
            }
            enter(number, [first()?, low_memory()?, bytes, flags as u32, 0, 0])
        }
        "close" => enter(CLOSE, [first()?, 0, 0, 0, 0, 0]),
        _ => return Err(Errno::ENOSYS),
    };
    match result {
        0.. => Ok(result.to_string()),
        error => Err(Errno::from_raw(-error)),
    }
}

const PAGE: u32 = 4096;

/// A page where a pointer of 32 bits can point.
fn low_memory() -> Result<u32> {
    #[cfg(target_arch = "x86_64")]
    let low = libc::MAP_32BIT;
    #[cfg(not(target_arch = "x86_64"))]
    let low = 0;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | low;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (none, size) = (std::ptr::null_mut(), PAGE as usize);
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let page = unsafe { libc::mmap(none, size, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    u32::try_from(page as usize).map_err(|_| Errno::ENOMEM)
}

#[cfg(target_arch = "x86_64")]
fn enter(number: u32, [b, c, d, s, i, _]: [u32; 6]) -> i32 {
    let result: u64;
    // SAFETY: the kernel keeps all registers but the result's and these four; rbx, which the compiler keeps for itself,
    // is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {b}",
            "int 0x80",
            "xchg rbx, {b}",
            b = inout(reg) u64::from(b) => _,
            inlateout("rax") u64::from(number) => result,
            in("rcx") u64::from(c),
            in("rdx") u64::from(d),
            in("rsi") u64::from(s),
            in("rdi") u64::from(i),
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    result as i32
}

#[cfg(not(target_arch = "x86_64"))]
fn enter(_: u32, _: [u32; 6]) -> i32 {
    -libc::ENOSYS
}
