// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered of each socket, where the kernel keeps nothing for us: by its address, until it is destroyed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::owners::{Key, Listener, Processes, Seeds, acts, key};
use crate::names::state::{
    CLOSE, ESTABLISHED, LISTEN, NEW_SYN_RECV, SYN_RECV, SYN_SENT, TIME_WAIT,
};
use crate::types::{flow, owner, pid_source, seen, seen_kind};

/// Sockets that are remembered at the most; what is beyond is counted.
const MOST: usize = 128 * 1024;

/// A change of state is told right after the one to ESTABLISHED when both were made by one segment: a connection that
/// was shut down before it was established (net/ipv4/tcp_input.c: tcp_rcv_state_process, `sk_shutdown`).
const AT_ONCE_NS: u64 = 1_000_000;

/// One socket.
#[derive(Clone, Copy, Default)]
pub struct Socket<T> {
    /// Whose it is.
    pub owner: owner,
    /// It was there at the start, and who had it then was looked up: when that was.
    pub seeded_ns: Option<u64>,
    /// The command's own state of it.
    pub tool: T,
    established: Option<(u64, u32)>,
    flow: flow,
}

/// All of them.
pub struct Sockets<T> {
    all: HashMap<u64, Socket<T>>,
    /// The addresses of connections, for records that have none.
    by_flow: Option<HashMap<Key, Vec<u64>>>,
    listening: HashMap<u64, Listener>,
    seeds: Seeds,
    processes: Processes,
    untracked: u64,
}

impl<T: Copy + Default> Sockets<T> {
    /// `by_flow`: records that do not have a socket's address are to be assigned by their ends.
    pub fn new(by_flow: bool) -> Self {
        Self {
            all: HashMap::new(),
            by_flow: by_flow.then(HashMap::new),
            listening: HashMap::new(),
            seeds: Seeds::default(),
            processes: Processes::default(),
            untracked: 0,
        }
    }

    /// Looks up whose the sockets are that are there already.
    pub fn seed(&mut self) {
        self.seeds = Seeds::take();
    }

    /// What is remembered at an address.
    pub fn get(&mut self, skaddr: u64) -> Option<&mut Socket<T>> {
        self.all.get_mut(&skaddr)
    }

    /// Sockets that there was no room for.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Once per turn of the reader.
    pub fn tick(&mut self) {
        self.processes.forget();
    }

    /// The socket of an event, after its owner has followed it. `None`: no room, or a record that could be any of
    /// several sockets'.
    pub fn follow(&mut self, event: &seen) -> Option<&mut Socket<T>> {
        if event.kind == seen_kind::STATE {
            return self.follow_state(event);
        }
        if event.kind == seen_kind::DESTROY {
            return self.all.get_mut(&event.skaddr);
        }
        // It may be that of a socket that is gone, or in answer to a segment that no full socket takes: then its memory
        // is not followed.
        let passing = [0, TIME_WAIT, CLOSE, NEW_SYN_RECV];
        if event.kind == seen_kind::SEND_RESET && passing.contains(&event.state) {
            return self.all.get_mut(&event.skaddr);
        }
        let skaddr = match event.skaddr {
            0 => self.by_ends(&event.flow)?,
            skaddr => skaddr,
        };
        self.known(skaddr, event)
    }

    /// Its memory is another socket's from now on.
    pub fn destroy(&mut self, skaddr: u64) {
        self.listening.remove(&skaddr);
        if let Some(socket) = self.all.remove(&skaddr) {
            self.unlink(skaddr, &socket.flow);
        }
    }

    /// Whose an event without an address is, if no change of its socket has been seen: then it was there at the start.
    pub fn owner_by_ends(&self, event: &seen) -> owner {
        let seen = self
            .by_flow
            .as_ref()
            .is_none_or(|all| all.contains_key(&key(&event.flow)));
        if event.skaddr != 0 || seen {
            return owner::default();
        }
        self.seeds
            .find(&event.flow, event.at_ns)
            .unwrap_or_default()
    }

    fn follow_state(&mut self, event: &seen) -> Option<&mut Socket<T>> {
        let (old, new, skaddr) = (event.old_state, event.state, event.skaddr);
        let born = old == LISTEN && new == SYN_RECV;
        let acting = match acts(old, new) {
            true => self.processes.acting(event),
            false => None,
        };
        if born {
            let owner = self.listener(&event.flow);
            self.destroy(skaddr);
            self.make(
                skaddr,
                Socket {
                    owner,
                    ..Socket::default()
                },
            )?;
        }
        let socket = self.known(skaddr, event)?;
        if new == SYN_SENT || new == LISTEN {
            // A new use of the socket.
            socket.owner.source = pid_source::UNKNOWN;
        }
        let at_once = |&(at, tid): &(u64, u32)| {
            tid == event.tid && event.at_ns.saturating_sub(at) < AT_ONCE_NS
        };
        let follows = socket.established.as_ref().is_some_and(at_once);
        if let Some(acting) = acting.filter(|_| !follows) {
            let another =
                socket.owner.source == pid_source::SOCKET && socket.owner.pid != acting.pid;
            // The first one stays, because a socket may be handed on only to be closed.
            if !another {
                socket.owner = acting;
            }
        }
        socket.established =
            (old == SYN_RECV && new == ESTABLISHED).then_some((event.at_ns, event.tid));
        let owner = socket.owner;
        if new == LISTEN {
            let laddr = event.flow.laddr;
            let birth = self.processes.birth(owner.pid);
            self.listening.insert(
                skaddr,
                Listener {
                    laddr,
                    owner,
                    birth,
                },
            );
            self.ports(skaddr, event.flow);
        }
        if new == ESTABLISHED {
            self.link(skaddr, event.flow);
        }
        if old == LISTEN && new == CLOSE && self.listening.remove(&skaddr).is_none() {
            self.seeds.close_listener(&event.flow);
        }
        if new == CLOSE {
            self.seeds.close(&event.flow);
            self.unlink(skaddr, &event.flow);
        }
        self.all.get_mut(&skaddr)
    }

    /// What is remembered of a socket, or what can be known of one whose creation was not seen.
    fn known(&mut self, skaddr: u64, event: &seen) -> Option<&mut Socket<T>> {
        if !self.all.contains_key(&skaddr) {
            let new = event.kind == seen_kind::STATE && event.old_state == CLOSE;
            let mut socket = Socket::default();
            let found = match (event.kind, event.old_state) {
                _ if new => None,
                (seen_kind::SYNACK, _) => Some(self.listener(&event.flow)),
                (_, LISTEN) => self.seeds.find_listener(&event.flow, event.at_ns),
                (seen_kind::SEND_RESET, _) if event.state == LISTEN => {
                    self.seeds.find_listener(&event.flow, event.at_ns)
                }
                _ => self.seeds.find(&event.flow, event.at_ns),
            };
            if let Some(owner) = found {
                socket.owner = owner;
                socket.seeded_ns = Some(self.seeds.taken_ns);
            }
            self.make(skaddr, socket)?;
        }
        self.all.get_mut(&skaddr)
    }

    fn make(&mut self, skaddr: u64, socket: Socket<T>) -> Option<()> {
        if self.all.len() >= MOST {
            self.untracked = self.untracked.saturating_add(1);
            return None;
        }
        self.all.insert(skaddr, socket);
        Some(())
    }

    fn ports(&mut self, skaddr: u64, flow: flow) {
        if let Some(socket) = self.all.get_mut(&skaddr) {
            socket.flow = flow;
        }
    }

    fn link(&mut self, skaddr: u64, flow: flow) {
        self.ports(skaddr, flow);
        if let Some(by_flow) = &mut self.by_flow {
            by_flow.entry(key(&flow)).or_default().push(skaddr);
        }
    }

    fn unlink(&mut self, skaddr: u64, flow: &flow) {
        let Some(by_flow) = &mut self.by_flow else {
            return;
        };
        if let Entry::Occupied(mut entry) = by_flow.entry(key(flow)) {
            entry.get_mut().retain(|&other| other != skaddr);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    /// The only connection with these ends; namespaces may have several.
    fn by_ends(&self, flow: &flow) -> Option<u64> {
        match self.by_flow.as_ref()?.get(&key(flow))?.as_slice() {
            [skaddr] => Some(*skaddr),
            _ => None,
        }
    }

    /// The owner of a child that is being born: whose all listeners are that it may be of, or nobody.
    fn listener(&mut self, flow: &flow) -> owner {
        let seen = self.listening.iter().filter(|(skaddr, _)| {
            self.all
                .get(skaddr)
                .is_some_and(|s| s.flow.lport == flow.lport)
        });
        let all = seen.map(|(_, l)| l).chain(self.seeds.listeners(flow.lport));
        let mut here = all.filter(|l| l.laddr == flow.laddr || is_any(&l.laddr));
        let Some(first) = here.next().copied() else {
            return owner::default();
        };
        let known = |l: &Listener| l.owner.source != pid_source::UNKNOWN;
        let same =
            |l: &Listener| known(l) && (l.owner.pid, l.birth) == (first.owner.pid, first.birth);
        if !known(&first) || !here.all(same) || !self.processes.lives(first.owner.pid, first.birth)
        {
            return owner::default();
        }
        owner {
            source: pid_source::LISTENER,
            ..first.owner
        }
    }
}

/// `::` or `::ffff:0.0.0.0`.
fn is_any(addr: &[u8; 16]) -> bool {
    let v6 = std::net::Ipv6Addr::from(*addr);
    v6.is_unspecified() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_unspecified())
}
