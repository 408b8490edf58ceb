// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sockets had in the end: the kernel tells it of every socket that it destroys (`ss -E`), a moment after the
//! record of tcp:tcp_destroy_sock.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::message::{self, BY_FAMILY, Described, messages};
use super::{dump, open};
use crate::limits;
use crate::namespaces;

/// SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3) of include/uapi/linux/sock_diag.h, as bits.
const DESTROYED: u32 = 1 << 0 | 1 << 2;

/// A worker of the kernel's sends the account, once nothing refers to the socket any more (net/core/sock_diag.c). What
/// has not come by then was lost, or is not told: sockets of the kernel's own, and of namespaces that are not watched.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of accounts that wait for this process, in each namespace: some ten thousand.
const BUFFER: usize = 8 << 20;

/// Accounts of destroyed sockets, for those who know the cookie.
pub struct Accounts {
    watch: Option<Watch>,
    untold: Option<String>,
    /// By cookie; the latest, and those before them. Some are nobody's, because of filters.
    came: [HashMap<u64, Described>; 2],
    turned: Instant,
}

impl Accounts {
    /// Watches every network namespace that there is now. Where the kernel does not tell, none will come.
    pub fn watch() -> Self {
        let (watch, untold) = match Watch::new() {
            Ok(watch) => (Some(watch), None),
            Err(error) => (None, Some(limits::said(&error))),
        };
        Self {
            watch,
            untold,
            ..Self::without()
        }
    }

    /// Why none will come, if the kernel does not tell.
    pub fn untold(&self) -> Option<&str> {
        self.untold.as_deref()
    }

    /// None will come.
    pub fn without() -> Self {
        Self {
            watch: None,
            untold: None,
            came: Default::default(),
            turned: Instant::now(),
        }
    }

    /// Whether accounts come at all.
    pub fn are_told(&self) -> bool {
        self.watch.is_some()
    }

    /// Accounts that were lost because this process was too slow.
    pub fn lost(&self) -> u64 {
        self.watch.as_ref().map_or(0, Watch::lost)
    }

    /// Takes what has come since the last call. Call it once per turn of the reader.
    pub fn read(&mut self) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        if self.turned.elapsed() > 2 * PATIENCE {
            self.turned = Instant::now();
            self.came.swap(0, 1);
            self.came[0].clear();
        }
        let [came, _] = &mut self.came;
        watch.read(|socket| {
            came.insert(socket.cookie, socket);
        });
    }

    /// The account of the socket with this cookie, once it has come. It is handed over once.
    pub fn take(&mut self, cookie: u64) -> Option<Described> {
        self.came.iter_mut().find_map(|came| came.remove(&cookie))
    }

    /// As if it had come.
    #[cfg(test)]
    pub(super) fn insert(&mut self, cookie: u64, account: Described) {
        self.came[0].insert(cookie, account);
    }
}

/// Netlink sockets, one per network namespace.
struct Watch {
    /// Each with the inode number of its namespace.
    sockets: Vec<(OwnedFd, u32)>,
    epoll: Epoll,
    buffer: Vec<u8>,
}

impl Watch {
    fn new() -> Result<Self> {
        // Without the module that knows TCP nothing is sent, and nobody says so; asking loads it.
        dump(0)?;
        let here = || Ok((open(DESTROYED)?, namespace()));
        let sockets: Vec<_> = namespaces::in_each(here)?
            .into_iter()
            .collect::<Result<_>>()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (index, (socket, _)) in sockets.iter().enumerate() {
            // What is lost is counted anyway; this makes the kernel go on after the first loss.
            let on: libc::c_int = 1;
            // SAFETY: the option's value is an int, which outlives the call.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_NETLINK,
                    libc::NETLINK_NO_ENOBUFS,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                );
            }
            // As much as may be without CAP_NET_ADMIN.
            if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
                let _ = setsockopt(socket, sockopt::RcvBuf, &BUFFER);
            }
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(socket, event).context("no epoll")?;
        }
        Ok(Self {
            sockets,
            epoll,
            buffer: vec![0; 16 * 1024],
        })
    }

    /// Takes what is there.
    fn read(&mut self, mut each: impl FnMut(Described)) {
        let mut ready = [EpollEvent::empty(); 64];
        loop {
            let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
            for event in &ready[..count] {
                if let Some((socket, netns)) = self.sockets.get(event.data() as usize) {
                    take(socket, &mut self.buffer, &mut |told| {
                        each(Described {
                            netns: *netns,
                            ..told
                        });
                    });
                }
            }
            if count < ready.len() {
                return;
            }
        }
    }

    fn lost(&self) -> u64 {
        self.sockets.iter().map(|(socket, _)| drops(socket)).sum()
    }
}

/// The inode number of this thread's network namespace; 0 if /proc does not tell.
fn namespace() -> u32 {
    let inode = fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino());
    inode.unwrap_or_default().try_into().unwrap_or_default()
}

fn take(socket: &OwnedFd, buffer: &mut [u8], each: &mut impl FnMut(Described)) {
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) => {
                let sockets = messages(&buffer[..size]).filter(|(kind, _)| *kind == BY_FAMILY);
                sockets
                    .filter_map(|(_, payload)| message::socket(payload))
                    .for_each(&mut *each);
            }
            Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(_) => return,
        }
    }
}

/// Messages that a socket had no room for.
fn drops(socket: &OwnedFd) -> u64 {
    /// SO_MEMINFO, and SK_MEMINFO_DROPS in it (include/uapi/linux/sock_diag.h).
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = 8;
    let mut memory = [0u32; 9];
    let mut size = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `memory`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result == 0 { memory[DROPS].into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_destroyed_socket_is_told_of() {
        let mut watch = Watch::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[0; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        drop(server);
        drop(client);
        let mut found = Vec::new();
        let start = Instant::now();
        while found.len() < 2 && start.elapsed() < PATIENCE * 10 {
            watch.read(|socket| {
                if socket.flow.lport == port || socket.flow.rport == port {
                    found.push((socket.flow.lport == port, socket.info.bytes_received));
                    assert_eq!(socket.netns, namespace());
                }
            });
        }
        found.sort_unstable();
        // The other end's FIN counts as a byte, if it came.
        assert!(
            matches!(found[..], [(false, 1000..=1001), (true, 0..=1)]),
            "{found:?}"
        );
        assert_eq!(watch.lost(), 0);
    }
}
