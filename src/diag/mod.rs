// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own account of TCP sockets (NETLINK_SOCK_DIAG, as `ss` asks it): what tracepoints' records do not have.

mod destroyed;
mod finals;
mod message;

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

pub use self::destroyed::{Accounts, PATIENCE};
pub use self::finals::Finals;
use self::message::{BY_FAMILY, DONE, DUMP, ERROR, Header, Request, errno, messages};
pub use self::message::{Described, TcpInfo};
use crate::namespaces;

/// IPPROTO_TCP
const TCP: u8 = 6;
/// AF_INET and AF_INET6.
const FAMILIES: [u8; 2] = [2, 10];
/// As a bit in a request: its sockets are none any more.
const TIME_WAIT: u32 = 1 << 6;
const ALL_STATES: u32 = 0xfff;

/// All TCP sockets in every network namespace that this process can enter, without their statistics.
///
/// # Errors
/// When this kernel does not tell.
pub fn sockets() -> Result<Vec<Described>> {
    let all = namespaces::in_each(|| dump(ALL_STATES & !TIME_WAIT))?;
    all.into_iter()
        .collect::<Result<Vec<_>>>()
        .map(|all| all.concat())
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

/// One datagram of an answer. Whether there are more.
fn answer(fd: &OwnedFd, buffer: &mut [u8], family: u8, all: &mut Vec<Described>) -> Result<bool> {
    /// A kernel without IPv6 has no such sockets.
    const ENOENT: i32 = 2;
    let size = match recv(fd.as_raw_fd(), buffer, MsgFlags::empty()) {
        Err(nix::errno::Errno::EINTR) => return Ok(true),
        size => size.context(UNTOLD)?,
    };
    for (kind, payload) in messages(&buffer[..size]) {
        match kind {
            BY_FAMILY => all.extend(message::socket(payload)),
            ERROR | DONE => match errno(payload) {
                0 => return Ok(false),
                ENOENT if family != FAMILIES[0] => return Ok(false),
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
