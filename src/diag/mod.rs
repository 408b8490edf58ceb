// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own account of TCP sockets (NETLINK_SOCK_DIAG, as `ss` asks it): what tracepoints' records do not have.

mod destroyed;
mod finals;
mod message;

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

pub use self::destroyed::{Accounts, PATIENCE};
pub use self::finals::Finals;
use self::message::{BY_FAMILY, DONE, DUMP, ERROR, Header, Request, errno, messages};
pub use self::message::{Described, TcpInfo};

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
    let all = in_each_namespace(|| dump(ALL_STATES & !TIME_WAIT));
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

/// Does something in every network namespace that a process is in or that has a name, as far as this process may enter
/// it; in its own first.
fn in_each_namespace<T: Send>(act: impl Fn() -> T + Sync) -> Vec<T> {
    let mut seen = HashSet::new();
    let own = fs::metadata("/proc/self/ns/net").map(|m| m.ino());
    seen.extend(own);
    let mut all = vec![act()];
    let numeric = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
    let processes = list("/proc").filter(|entry| numeric(&entry.file_name()));
    let paths = processes.map(|entry| entry.path().join("ns/net"));
    let named = list("/run/netns").map(|entry| entry.path());
    let others = paths.chain(named).filter_map(|path| {
        let ino = fs::metadata(&path).ok()?.ino();
        seen.insert(ino).then(|| File::open(path).ok())?
    });
    let others: Vec<_> = others.collect();
    let enter = || {
        let entered = others
            .iter()
            .filter(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET).is_ok());
        entered.map(|_| act()).collect::<Vec<_>>()
    };
    // A thread of its own: this one stays where it is.
    let rest = thread::scope(|scope| scope.spawn(enter).join());
    all.extend(rest.unwrap_or_default());
    all
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

    #[test]
    fn the_own_namespace_is_always_visited() {
        assert!(!in_each_namespace(|| ()).is_empty());
    }
}
