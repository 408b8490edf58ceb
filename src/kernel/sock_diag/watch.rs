// SPDX-License-Identifier: MIT OR Apache-2.0
//! Netlink sockets that receive the statistics of destroyed sockets: one per network namespace.
//!
//! Such a socket keeps its namespace alive, so it is closed once the namespace has neither a process nor a name.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use super::message::{self, BY_FAMILY, DiagSocket, messages};
use super::{dump, open, receive};
use crate::kernel::namespaces::{self, Inhabited, Namespace, Visited};

/// SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3) of include/uapi/linux/sock_diag.h, as bits.
const DESTROYED: u32 = 1 << 0 | 1 << 2;

/// Bytes of accounts that wait for this process, in each namespace: some ten thousand.
const BUFFER: usize = 8 << 20;

/// Descriptors that are left to the rest of the command: programs, maps, buffers.
const RESERVED: u64 = 64;

/// How often it is looked whether a namespace is only kept by us.
const GIVE_UP: Duration = Duration::from_secs(2);

/// A socket, and where it is.
struct Watched {
    socket: OwnedFd,
    namespace: Option<Namespace>,
}

/// All of them.
pub(super) struct Watch {
    sockets: BTreeMap<u64, Watched>,
    epoll: Epoll,
    buffer: Vec<u8>,
    looked: Instant,
    /// Messages dropped for lack of space, in namespaces that are no longer watched.
    lost: u64,
    /// Namespaces that could not be entered, or for which there were too few descriptors.
    pub unvisited: u64,
}

impl Watch {
    /// # Errors
    /// If the kernel does not send statistics.
    pub(super) fn new() -> Result<Self> {
        // Without the TCP module nothing is sent, silently; a request loads it.
        dump(0, &[])?;
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let room = limit.saturating_sub(RESERVED).max(1);
        let opened = AtomicU64::new(0);
        let here = || {
            if opened.fetch_add(1, Ordering::Relaxed) >= room {
                bail!("too few descriptors");
            }
            let socket = open(DESTROYED)?;
            let namespace = namespaces::here();
            Ok(Watched { socket, namespace })
        };
        let Visited { all, unvisited } = namespaces::in_each(here);
        let mut watch = Self {
            sockets: BTreeMap::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            buffer: vec![0; 16 * 1024],
            looked: Instant::now(),
            lost: 0,
            unvisited,
        };
        for (index, watched) in (0..).zip(all) {
            match watched {
                Ok(watched) => watch.add(index, watched)?,
                // Of this process's own.
                Err(error) if index == 0 => return Err(error),
                Err(_) => watch.unvisited = watch.unvisited.saturating_add(1),
            }
        }
        Ok(watch)
    }

    fn add(&mut self, index: u64, watched: Watched) -> Result<()> {
        let socket = &watched.socket;
        // Losses are counted anyway; this makes the kernel continue after the first one.
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
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index);
        self.epoll
            .add(socket, event)
            .context("cannot poll netlink sockets")?;
        self.sockets.insert(index, watched);
        Ok(())
    }

    /// When to look for namespaces that only we keep: nothing tells when the last process leaves one.
    pub(super) fn due(&self) -> Option<Instant> {
        let others = self.sockets.len() > 1;
        self.looked.checked_add(GIVE_UP).filter(|_| others)
    }

    /// Reads what is available.
    pub(super) fn read(&mut self, mut each: impl FnMut(DiagSocket)) {
        let mut ready = [EpollEvent::empty(); 64];
        loop {
            let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
            for event in ready.iter().take(count) {
                if let Some(watched) = self.sockets.get(&event.data()) {
                    let inode = watched.namespace.map_or(0, |namespace| namespace.inode);
                    let netns = inode.try_into().unwrap_or_default();
                    take(&watched.socket, &mut self.buffer, &mut |socket| {
                        each(DiagSocket { netns, ..socket });
                    });
                }
            }
            if count < ready.len() {
                break;
            }
        }
        if self.sockets.len() > 1 && self.looked.elapsed() >= GIVE_UP {
            self.looked = Instant::now();
            if let Some(inhabited) = Inhabited::look() {
                self.give_up(&inhabited);
            }
        }
    }

    /// Leaves namespaces that nothing else uses.
    fn give_up(&mut self, inhabited: &Inhabited) {
        let deserted = |w: &Watched| w.namespace.is_some_and(|n| !inhabited.has(&n));
        let mut lost = 0u64;
        self.sockets.retain(|_, watched| {
            let keep = !deserted(watched);
            if !keep {
                lost = lost.saturating_add(drops(&watched.socket));
            }
            keep
        });
        self.lost = self.lost.saturating_add(lost);
    }

    /// Messages dropped for lack of space.
    pub(super) fn lost(&self) -> u64 {
        let now: u64 = self.sockets.values().map(|w| drops(&w.socket)).sum();
        self.lost.saturating_add(now)
    }
}

fn take(socket: &OwnedFd, buffer: &mut [u8], each: &mut impl FnMut(DiagSocket)) {
    loop {
        match receive(socket, buffer, libc::MSG_DONTWAIT) {
            Ok(received) => {
                let sockets = messages(received).filter(|(kind, _)| *kind == BY_FAMILY);
                sockets
                    .filter_map(|(_, payload)| message::socket(payload))
                    .for_each(&mut *each);
            }
            Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(_) => return,
        }
    }
}

/// Messages that a socket dropped for lack of space.
fn drops(socket: &OwnedFd) -> u64 {
    /// SO_MEMINFO, and SK_MEMINFO_DROPS, its last word (include/uapi/linux/sock_diag.h).
    const SO_MEMINFO: libc::c_int = 55;
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
    let [.., drops] = memory;
    if result == 0 { drops.into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::super::STATISTICS_TIMEOUT;
    use super::*;

    fn collect(watch: &mut Watch, port: u16, count: usize) -> Vec<DiagSocket> {
        let mut found = Vec::new();
        let start = Instant::now();
        while found.len() < count && start.elapsed() < STATISTICS_TIMEOUT * 10 {
            watch.read(|socket| {
                if socket.flow.lport == port || socket.flow.rport == port {
                    found.push(socket);
                }
            });
        }
        found
    }

    fn session() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[0; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        port
    }

    #[test]
    fn destroyed_socket_is_reported() {
        let mut watch = Watch::new().unwrap();
        let port = session();
        let found = collect(&mut watch, port, 2);
        let own = namespaces::here().unwrap().inode;
        assert!(found.iter().all(|socket| u64::from(socket.netns) == own));
        let received = |s: &DiagSocket| (s.flow.lport == port, s.info.bytes_received);
        let mut found: Vec<_> = found.iter().map(received).collect();
        found.sort_unstable();
        // The peer's FIN counts as a byte, if it has arrived.
        assert!(
            matches!(found[..], [(false, 1000..=1001), (true, 0..=1)]),
            "{found:?}"
        );
        assert_eq!(watch.lost(), 0);
    }

    #[test]
    fn empty_namespace_is_left_but_not_own() {
        let mut watch = Watch::new().unwrap();
        watch.sockets.retain(|index, _| *index == 0);
        let elsewhere = Watched {
            socket: open(DESTROYED).unwrap(),
            namespace: Some(Namespace { inode: 1, files: 1 }),
        };
        watch.add(7, elsewhere).unwrap();
        if let Some(inhabited) = Inhabited::look() {
            watch.give_up(&inhabited);
            assert!(watch.sockets.keys().eq([&0]));
        }
    }
}
