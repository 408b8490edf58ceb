// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own account of TCP sockets (NETLINK_SOCK_DIAG, as `ss` asks it): what tracepoints' records do not have.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod destroyed;
mod finals;
mod message;
mod watch;

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, socket,
};

pub use self::destroyed::{Accounts, PATIENCE};
pub use self::finals::Finals;
use self::message::{BY_FAMILY, DONE, DUMP, ERROR, Header, Request, errno, messages};
pub use self::message::{Described, TcpInfo};
use crate::namespaces::{self, Visited};

/// IPPROTO_TCP
const TCP: u8 = 6;
/// AF_INET and AF_INET6.
const IPV4: u8 = 2;
const FAMILIES: [u8; 2] = [IPV4, 10];
/// As a bit in a request: its sockets are none any more.
const TIME_WAIT: u32 = 1 << 6;
const ALL_STATES: u32 = 0xfff;

/// TCP sockets, and in how many network namespaces there may be more.
#[derive(Debug, Default)]
pub struct Told {
    /// In no order.
    pub sockets: Vec<Described>,
    /// Namespaces that could not be entered, or did not tell.
    pub unvisited: u64,
}

/// All TCP sockets in every network namespace that this process can enter, without their statistics.
///
/// # Errors
/// When this kernel does not tell.
pub fn sockets() -> Result<Told> {
    let Visited { all, unvisited } = namespaces::in_each(|| dump(ALL_STATES & !TIME_WAIT));
    let mut told = Told {
        sockets: Vec::new(),
        unvisited,
    };
    for (index, sockets) in all.into_iter().enumerate() {
        match sockets {
            Ok(sockets) => told.sockets.extend(sockets),
            // This process's own: it would be the same everywhere.
            Err(error) if index == 0 => return Err(error),
            Err(_) => told.unvisited = told.unvisited.saturating_add(1),
        }
    }
    Ok(told)
}

/// A socket of this thread's network namespace; `groups`: what it is told unasked.
fn open(groups: u32) -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// The sockets of this thread's network namespace in these states.
fn dump(states: u32) -> Result<Vec<Described>> {
    let mut all = Vec::new();
    let fd = open(0).context(UNTOLD)?;
    let mut buffer = vec![0; 64 * 1024];
    for family in FAMILIES {
        let request = Request {
            header: Header {
                len: size_of::<Request>() as u32,
                kind: BY_FAMILY,
                flags: DUMP,
                ..Header::default()
            },
            family,
            protocol: TCP,
            states,
            ..Request::default()
        };
        // SAFETY: integers only, without padding: all its bytes have values.
        let bytes = unsafe { plain::as_bytes(&request) };
        send(fd.as_raw_fd(), bytes, MsgFlags::empty()).context(UNTOLD)?;
        while answer(&fd, &mut buffer, family, &mut all)? {}
    }
    Ok(all)
}

const UNTOLD: &str = "the kernel does not tell about its TCP sockets (CONFIG_INET_TCP_DIAG)";

/// A datagram of the kernel's own: whoever has CAP_NET_ADMIN in a namespace, a container's root for one, may send others.
fn receive<'b>(fd: &OwnedFd, buffer: &'b mut [u8], flags: libc::c_int) -> nix::Result<&'b [u8]> {
    loop {
        // SAFETY: of integers only: zero is a value of each.
        let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&sender) as libc::socklen_t;
        // SAFETY: the kernel writes at most as much as the buffer and the address have room for, which outlive the call.
        let size = unsafe {
            libc::recvfrom(
                fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
                (&raw mut sender).cast(),
                &raw mut length,
            )
        };
        let size = Errno::result(size)?;
        // The kernel's port is 0; a process may not have that.
        if length as usize == size_of_val(&sender) && sender.nl_pid == 0 {
            return Ok(buffer.get(..size as usize).unwrap_or_default());
        }
    }
}

/// One datagram of an answer. Whether there are more.
fn answer(fd: &OwnedFd, buffer: &mut [u8], family: u8, all: &mut Vec<Described>) -> Result<bool> {
    /// A kernel without IPv6 has no such sockets.
    const ENOENT: i32 = 2;
    let told = match receive(fd, buffer, 0) {
        Err(Errno::EINTR) => return Ok(true),
        told => told.context(UNTOLD)?,
    };
    for (kind, payload) in messages(told) {
        match kind {
            BY_FAMILY => all.extend(message::socket(payload)),
            ERROR | DONE => match errno(payload) {
                0 => return Ok(false),
                ENOENT if family != IPV4 => return Ok(false),
                number => {
                    let error = std::io::Error::from_raw_os_error(number);
                    bail!("{UNTOLD}: {error}")
                }
            },
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Root of a container could, in its own namespace.
    #[test]
    fn what_another_process_sends_is_not_taken_for_the_kernels() {
        let watching = open(0).unwrap();
        // SAFETY: of integers only: zero is a value of each.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is as large as `length` says.
        unsafe {
            libc::getsockname(
                watching.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
            )
        };
        let to = NetlinkAddr::new(address.nl_pid, 0);
        let forger = open(0).unwrap();
        let sent = nix::sys::socket::sendto(forger.as_raw_fd(), &[0; 72], &to, MsgFlags::empty());
        if matches!(sent, Err(Errno::EPERM | Errno::ECONNREFUSED)) {
            return; // not here: it takes CAP_NET_ADMIN
        }
        sent.unwrap();
        let mut buffer = [0; 100];
        let plain = nix::sys::socket::recv(
            watching.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        );
        assert_eq!(plain, Ok(72), "it has come");
        let told = receive(&watching, &mut buffer, libc::MSG_DONTWAIT);
        assert_eq!(told, Err(Errno::EAGAIN));
    }

    #[test]
    fn a_session_is_among_all_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let session = TcpStream::connect(at).unwrap();
        let own = session.local_addr().unwrap();
        let all = dump(ALL_STATES & !TIME_WAIT).unwrap();
        let client = |s: &&Described| s.flow.lport == own.port() && s.flow.rport == at.port();
        let found: Vec<_> = all.iter().filter(client).collect();
        assert!(found.len() == 1 && found[0].state == 1 && found[0].cookie != 0);
        let listening = |s: &&Described| s.flow.lport == at.port() && s.state == 10;
        assert_eq!(all.iter().filter(listening).count(), 1);
    }
}
