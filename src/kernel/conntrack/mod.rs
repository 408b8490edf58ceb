// SPDX-License-Identifier: MIT OR Apache-2.0
//! What connection tracking knows of a connection whose addresses were translated: the addresses that its other end has.
//!
//! It takes CAP_NET_ADMIN, in the namespace where the packets are translated. The command drops that, so a process of its
//! own asks (`ps` shows it as `tcptools-ct`). Questions are sent when records come, and rows take the answers that are
//! there: nobody waits.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub(crate) mod message;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::Result;
use caps::Capability;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket, socketpair,
};
use nix::unistd::Pid;
use plain::Plain;

use self::message::{entry, request};
use crate::abi::types::{flow, head, place};
use crate::kernel::namespaces::{self, ways::Ways, worker};
use crate::kernel::sock_diag::receive;

/// Which connection is meant, and a process that is in its namespace (0: unknown).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Question {
    place: place,
    cookie: u64,
    pid: u32,
    pad: u32,
}

// SAFETY: `repr(C)`, of integers only, without padding.
unsafe impl Plain for Question {}

const QUESTION: usize = size_of::<Question>();
type Key = [u8; QUESTION];

/// The same as the question, and what was found.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Found {
    question: Question,
    other: flow,
    is_translated: u32,
}

// SAFETY: as above.
unsafe impl Plain for Found {}

const _: () = assert!(QUESTION == 64 && size_of::<Found>() == 112, "no padding");

/// Connections that are remembered; then all are forgotten.
const MAX_ANSWERS: usize = 16 * 1024;

/// Where there is connection tracking (net/netfilter/nf_conntrack_standalone.c).
const LOADED: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// The process that asks, as the command sees it.
pub struct Conntrack {
    stream: OwnedFd,
    process: Pid,
    /// By question; `None`: not answered yet.
    answers: HashMap<Key, Option<Option<flow>>>,
    late: u64,
}

impl Conntrack {
    /// Starts the process; `None` where nothing is tracked, as asking would load the kernel's module. See
    /// [`worker::spawn`] for when to call it.
    ///
    /// # Errors
    /// If no process or descriptor can be created.
    pub(crate) fn start() -> Result<Option<Self>> {
        if !Path::new(LOADED).exists() {
            return Ok(None);
        }
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let (ours, theirs) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)?;
        let kept = [theirs.as_raw_fd()];
        let body = move || serve(&theirs);
        let process = worker::spawn(c"tcptools-ct", &kept, &[Capability::CAP_NET_ADMIN], body)?;
        Ok(Some(Self {
            stream: ours,
            process,
            answers: HashMap::new(),
            late: 0,
        }))
    }

    /// Asks about a record's connection, unless that was asked before. While the process has too much to do, nothing is
    /// asked, and the row does without.
    pub fn ask(&mut self, head: &head) {
        let Some(key) = key_of(head) else {
            return;
        };
        self.take();
        // Where there was nothing, there may be something by now.
        if matches!(self.answers.get(&key), Some(Some(Some(_)) | None)) {
            return;
        }
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.clear();
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if send(self.stream.as_raw_fd(), &key, flags).is_ok() {
            self.answers.insert(key, None);
        }
    }

    /// The other end of a record's connection as it sees itself, if translation changed that and it was found in time.
    pub fn other(&mut self, head: &head) -> Option<flow> {
        let key = key_of(head)?;
        self.take();
        if let Some(Some(answer)) = self.answers.get(&key) {
            return *answer;
        }
        self.late = self.late.saturating_add(1);
        // For the next row: this one may be of a socket that was visited, without a record before.
        self.ask(head);
        None
    }

    /// Rows that were written before their question was answered.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes the answers that are there.
    fn take(&mut self) {
        let mut found = Found::default();
        let mut bytes = [0; size_of::<Found>()];
        while let Ok(1..) = recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            let copied = plain::copy_from_bytes(&mut found, &bytes);
            let key = bytes.first_chunk::<QUESTION>();
            if let (Ok(()), Some(key)) = (copied, key) {
                let other = (found.is_translated != 0).then_some(found.other);
                self.answers.insert(*key, Some(other));
            }
        }
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        worker::end(self.process);
    }
}

/// `None`: nothing can be asked, as the socket is not connected.
fn key_of(head: &head) -> Option<Key> {
    let place = place {
        flow: head.flow,
        netns: head.netns,
    };
    let question = Question {
        place,
        cookie: head.cookie,
        pid: head.pid().unwrap_or(0),
        pad: 0,
    };
    // SAFETY: integers only, without padding.
    let bytes: &[u8] = unsafe { plain::as_bytes(&question) };
    let connected = head.flow.family != 0 && head.flow.rport != 0;
    bytes.try_into().ok().filter(|_| connected)
}

/// Answers questions until the other end is closed.
fn serve(stream: &OwnedFd) {
    let mut asker = Asker::new();
    let mut question = Question::default();
    let mut bytes: Key = [0; QUESTION];
    loop {
        match recv(stream.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(QUESTION) => {}
            Err(Errno::EINTR) => continue,
            _ => return,
        }
        let _ = plain::copy_from_bytes(&mut question, &bytes);
        let other = asker.find(&question);
        let found = Found {
            question,
            other: other.unwrap_or_default(),
            is_translated: other.is_some().into(),
        };
        // SAFETY: integers only, without padding.
        let bytes = unsafe { plain::as_bytes(&found) };
        if send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}

/// What the process remembers: where it is, and ways into other namespaces.
struct Asker {
    own: u64,
    socket: Option<OwnedFd>,
    ways: Ways,
}

impl Asker {
    fn new() -> Self {
        Self {
            own: namespaces::here().map_or(0, |namespace| namespace.inode),
            socket: open(),
            ways: Ways::default(),
        }
    }

    /// Asks where the socket is, as for a sidecar; and where the command is, as on a node that translates for its pods.
    fn find(&mut self, question: &Question) -> Option<flow> {
        let flow = &question.place.flow;
        let inode = u64::from(question.place.netns);
        let pid = Some(question.pid).filter(|&pid| pid != 0);
        let there = || translated(&open()?, flow);
        let other = match inode == self.own {
            true => None,
            false => self.ways.inside(inode, pid, there).flatten(),
        };
        other.or_else(|| translated(self.socket.as_ref()?, flow))
    }
}

/// A socket in this thread's network namespace.
fn open() -> Option<OwnedFd> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, kind, flags, SockProtocol::NetlinkNetFilter).ok()?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).ok()?;
    Some(fd)
}

/// The other end of a flow as it sees itself, if an address or a port was translated in between.
fn translated(socket: &OwnedFd, flow: &flow) -> Option<flow> {
    send(socket.as_raw_fd(), &request(flow), MsgFlags::empty()).ok()?;
    let mut buffer = [0; 4096];
    // The kernel has answered by now.
    let datagram = receive(socket, &mut buffer, nix::libc::MSG_DONTWAIT).ok()?;
    let [orig, reply] = entry(datagram, flow.family)?;
    let [own, to] = flow.ends();
    let other = match orig.ends() == [own, to] {
        true => reply,
        false => orig,
    };
    (other.ends() != [to, own]).then_some(other)
}
