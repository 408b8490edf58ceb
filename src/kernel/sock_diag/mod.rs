// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP sockets through NETLINK_SOCK_DIAG, as in `ss`: what tracepoint records do not have.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod destroyed;
pub(crate) mod message;
mod watch;

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, socket,
};

pub use self::destroyed::{DestroyMonitor, LOOK, STATISTICS_TIMEOUT};
use self::message::{
    BY_FAMILY, DONE, DUMP, ERROR, Header, INFO, Request, SKMEMINFO, errno, messages,
};
pub use self::message::{DiagSocket, TcpInfo};
use crate::kernel::namespaces::{self, Visited};

/// IPPROTO_TCP
const TCP: u8 = 6;
/// AF_INET and AF_INET6.
const IPV4: u8 = 2;
const FAMILIES: [u8; 2] = [IPV4, 10];
/// The state as a bit in a request; its entries are not full sockets.
const TIME_WAIT: u32 = 1 << 6;
const ALL_STATES: u32 = 0xfff;
const ESTABLISHED: u32 = 1 << 1;
const CLOSE_WAIT: u32 = 1 << 8;
const LISTEN: u32 = 1 << 10;

/// TCP sockets, and in how many network namespaces there may be more.
#[derive(Debug, Default)]
pub struct Listing {
    /// In no order.
    pub sockets: Vec<DiagSocket>,
    /// Namespaces that could not be entered or listed.
    pub unvisited: u64,
}

/// All TCP sockets in every network namespace that this process can enter, without their statistics.
///
/// # Errors
/// If this kernel cannot list TCP sockets.
pub fn sockets() -> Result<Listing> {
    let Visited { all, unvisited } = namespaces::in_each(|| dump(ALL_STATES & !TIME_WAIT, &[]));
    let mut listing = Listing {
        sockets: Vec::new(),
        unvisited,
    };
    for (index, sockets) in all.into_iter().enumerate() {
        match sockets {
            Ok(sockets) => listing.sockets.extend(sockets),
            // This process's own: it would be the same everywhere.
            Err(error) if index == 0 => return Err(error),
            Err(_) => listing.unvisited = listing.unvisited.saturating_add(1),
        }
    }
    Ok(listing)
}

/// A socket in this thread's network namespace; `groups`: multicast groups to join.
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

/// The listeners of this thread's network namespace, with their drops.
///
/// # Errors
/// If this kernel cannot list TCP sockets.
pub fn listeners() -> Result<Vec<DiagSocket>> {
    with_namespace(dump(LISTEN, &[SKMEMINFO])?)
}

/// Every socket of this thread's network namespace, with its statistics, listeners first; those in TIME_WAIT too.
///
/// # Errors
/// If this kernel cannot list TCP sockets.
pub fn all() -> Result<Vec<DiagSocket>> {
    let mut all = dump(LISTEN, &[INFO])?;
    all.extend(dump(ALL_STATES & !LISTEN, &[INFO])?);
    with_namespace(all)
}

/// The connections of this thread's network namespace that wait for accept(), with their statistics: they have no file
/// yet.
///
/// # Errors
/// If this kernel cannot list TCP sockets.
pub fn waiting() -> Result<Vec<DiagSocket>> {
    let mut all = dump(ESTABLISHED | CLOSE_WAIT, &[INFO])?;
    all.retain(|socket| socket.inode == 0);
    with_namespace(all)
}

fn with_namespace(mut sockets: Vec<DiagSocket>) -> Result<Vec<DiagSocket>> {
    let inode = namespaces::here().map_or(0, |namespace| namespace.inode);
    for socket in &mut sockets {
        socket.netns = inode.try_into().unwrap_or_default();
    }
    Ok(sockets)
}

/// The sockets of this thread's network namespace in these states, with these attributes.
fn dump(states: u32, attributes: &[u16]) -> Result<Vec<DiagSocket>> {
    // As bits from the first one (net/ipv4/inet_diag.c: inet_sk_diag_fill).
    let bits = attributes
        .iter()
        .map(|kind| 1u8.wrapping_shl(u32::from(kind.wrapping_sub(1))));
    let ext = bits.fold(0, |all, bit| all | bit);
    let mut all = Vec::new();
    let fd = open(0).context(UNAVAILABLE)?;
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
            ext,
            states,
            ..Request::default()
        };
        // SAFETY: integers only, without padding: all its bytes have values.
        let bytes = unsafe { plain::as_bytes(&request) };
        send(fd.as_raw_fd(), bytes, MsgFlags::empty()).context(UNAVAILABLE)?;
        while answer(&fd, &mut buffer, family, &mut all)? {}
    }
    Ok(all)
}

const UNAVAILABLE: &str = "the kernel cannot list TCP sockets (it needs CONFIG_INET_TCP_DIAG)";

/// Receives a datagram sent by the kernel. Others are dropped: a process with CAP_NET_ADMIN in the namespace, such as
/// a container's root, can send them.
pub(crate) fn receive<'b>(
    fd: &OwnedFd,
    buffer: &'b mut [u8],
    flags: libc::c_int,
) -> nix::Result<&'b [u8]> {
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
fn answer(fd: &OwnedFd, buffer: &mut [u8], family: u8, all: &mut Vec<DiagSocket>) -> Result<bool> {
    /// A kernel without IPv6 has no such sockets.
    const ENOENT: i32 = 2;
    let received = match receive(fd, buffer, 0) {
        Err(Errno::EINTR) => return Ok(true),
        received => received.context(UNAVAILABLE)?,
    };
    for (kind, payload) in messages(received) {
        match kind {
            BY_FAMILY => all.extend(message::socket(payload)),
            ERROR | DONE => match errno(payload) {
                0 => return Ok(false),
                ENOENT if family != IPV4 => return Ok(false),
                number => {
                    let error = std::io::Error::from_raw_os_error(number);
                    bail!("{UNAVAILABLE}: {error}")
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
    fn datagrams_of_other_processes_are_dropped() {
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
        let received = receive(&watching, &mut buffer, libc::MSG_DONTWAIT);
        assert_eq!(received, Err(Errno::EAGAIN));
    }

    #[test]
    fn session_is_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let session = TcpStream::connect(at).unwrap();
        let own = session.local_addr().unwrap();
        let all = dump(ALL_STATES & !TIME_WAIT, &[]).unwrap();
        let client = |s: &&DiagSocket| s.flow.lport == own.port() && s.flow.rport == at.port();
        let found: Vec<_> = all.iter().filter(client).collect();
        assert!(found.len() == 1 && found[0].state == 1 && found[0].cookie != 0);
        let here = |s: &&DiagSocket| s.flow.lport == at.port();
        let listening = |s: &&DiagSocket| here(s) && s.state == 10;
        assert_eq!(all.iter().filter(listening).count(), 1);
        let listeners = super::listeners().unwrap();
        let found: Vec<_> = listeners.iter().filter(here).collect();
        assert!(found.len() == 1 && (found[0].rqueue, found[0].drops) == (1, Some(0)));
        assert!(found[0].wqueue > 0 && found[0].inode != 0);
        assert_eq!(waiting().unwrap().iter().filter(here).count(), 1);
        let accepted = listener.accept().unwrap();
        assert_eq!(waiting().unwrap().iter().filter(here).count(), 0);
        drop(accepted);
    }
}
