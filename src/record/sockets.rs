// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered of each socket, where the kernel keeps nothing for us: by its address, until it is destroyed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::owners::{Key, Listener, Processes, Seed, Seeds, acts, key};
use crate::clock::boot_ns;
use crate::names::state::{
    CLOSE, ESTABLISHED, FIN_WAIT1, LAST_ACK, LISTEN, NEW_SYN_RECV, SYN_RECV, SYN_SENT, TIME_WAIT,
};
use crate::types::{flow, owner, pid_source, seen, seen_kind};

/// Sockets that are remembered at the most; what is beyond is counted.
const MOST: usize = 128 * 1024;

/// A change of state is told right after the one to ESTABLISHED when both were made by one segment: a connection that
/// was shut down before it was established (net/ipv4/tcp_input.c: tcp_rcv_state_process, `sk_shutdown`).
const AT_ONCE_NS: u64 = 1_000_000;

/// Who acted on a socket is taken to run for so long after that: records are read up to two turns of the reader late, and
/// whoever connects and closes at once has gone by then.
const LIVES_NS: u64 = 100_000_000;

/// One socket.
#[derive(Clone, Copy, Default)]
pub struct Socket<T> {
    /// Whose it is.
    pub owner: owner,
    /// What tells that process from a later one with its id; 0: not known.
    birth: u64,
    /// When it was known to run.
    alive_ns: u64,
    /// It has closed its end, or shut it down: whose it was is known for good.
    closed: bool,
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

    /// Events of sockets that there was no room for.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Events were lost: an address may be another socket's by now, and a port another listener's. What comes after is
    /// known of its own; of all others nothing is claimed any more.
    pub fn forget(&mut self) {
        self.all.clear();
        self.listening.clear();
        self.seeds = Seeds::default();
        if let Some(by_flow) = &mut self.by_flow {
            by_flow.clear();
        }
    }

    /// Once per turn of the reader.
    pub fn tick(&mut self) {
        self.processes.forget();
    }

    /// The socket of an event, after its owner has followed it. `None`: no room, or a record that could be any of
    /// several sockets'.
    pub fn follow(&mut self, event: &seen) -> Option<&mut Socket<T>> {
        let skaddr = self.find(event)?;
        self.settle(skaddr, event);
        self.all.get_mut(&skaddr)
    }

    /// Its address, once its owner has followed the event.
    fn find(&mut self, event: &seen) -> Option<u64> {
        let known = |all: &HashMap<u64, _>| all.contains_key(&event.skaddr).then_some(event.skaddr);
        if event.kind == seen_kind::STATE {
            return self.follow_state(event);
        }
        if event.kind == seen_kind::DESTROY {
            return known(&self.all);
        }
        // It may be that of a socket that is gone, or in answer to a segment that no full socket takes: then its memory
        // is not followed.
        let passing = [0, TIME_WAIT, CLOSE, NEW_SYN_RECV];
        if event.kind == seen_kind::SEND_RESET && passing.contains(&event.state) {
            return known(&self.all);
        }
        let skaddr = match event.skaddr {
            0 => self.by_ends(&event.flow)?,
            skaddr => skaddr,
        };
        self.known(skaddr, event).map(|_| skaddr)
    }

    /// Nobody who has ended has an open socket.
    fn settle(&mut self, skaddr: u64, event: &seen) {
        let Some(socket) = self.all.get_mut(&skaddr) else {
            return;
        };
        if socket.closed || socket.owner.source == pid_source::UNKNOWN {
            return;
        }
        if event.tgid == socket.owner.pid {
            socket.alive_ns = event.at_ns;
        } else if event.at_ns.saturating_sub(socket.alive_ns) > LIVES_NS {
            if self.processes.lives(socket.owner.pid, socket.birth) {
                socket.alive_ns = boot_ns();
            } else {
                socket.owner.source = pid_source::UNKNOWN;
            }
        }
    }

    /// Its memory is another socket's from now on.
    pub fn destroy(&mut self, skaddr: u64) {
        self.listening.remove(&skaddr);
        if let Some(socket) = self.all.remove(&skaddr) {
            self.unlink(skaddr, &socket.flow);
        }
    }

    /// Whose an event without an address is, if no change of its socket has been seen: then it was there at the start.
    pub fn owner_by_ends(&mut self, event: &seen) -> owner {
        let seen = self
            .by_flow
            .as_ref()
            .is_none_or(|all| all.contains_key(&key(&event.flow)));
        if event.skaddr != 0 || seen {
            return owner::default();
        }
        let seed = self.seeds.find(&event.flow, event.at_ns);
        let lives = |seed: &Seed| self.processes.lives(seed.owner.pid, seed.birth);
        seed.filter(lives)
            .map_or_else(owner::default, |seed| seed.owner)
    }

    fn follow_state(&mut self, event: &seen) -> Option<u64> {
        let (old, new, skaddr) = (event.old_state, event.state, event.skaddr);
        let born = old == LISTEN && new == SYN_RECV;
        let acting = match acts(old, new) {
            true => self.processes.acting(event),
            false => None,
        };
        if born {
            let listener = self.listener(&event.flow);
            self.destroy(skaddr);
            self.make(skaddr, of_seed(&listener, event.at_ns))?;
        }
        let socket = self.known(skaddr, event)?;
        if new == SYN_SENT || new == LISTEN {
            // A new use of the socket.
            socket.owner.source = pid_source::UNKNOWN;
            socket.closed = false;
        }
        let at_once = |&(at, tid): &(u64, u32)| {
            tid == event.tid && event.at_ns.saturating_sub(at) < AT_ONCE_NS
        };
        let follows = socket.established.as_ref().is_some_and(at_once);
        if let Some((acting, birth)) = acting.filter(|_| !follows) {
            socket.owner = acting;
            socket.birth = birth;
            socket.alive_ns = event.at_ns;
            socket.closed = matches!(new, FIN_WAIT1 | LAST_ACK);
        }
        socket.established =
            (old == SYN_RECV && new == ESTABLISHED).then_some((event.at_ns, event.tid));
        let (owner, birth) = (socket.owner, socket.birth);
        if new == LISTEN {
            let laddr = event.flow.laddr;
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
        self.all.contains_key(&skaddr).then_some(skaddr)
    }

    /// What is remembered of a socket, or what can be known of one whose creation was not seen.
    fn known(&mut self, skaddr: u64, event: &seen) -> Option<&mut Socket<T>> {
        if !self.all.contains_key(&skaddr) {
            let new = event.kind == seen_kind::STATE && event.old_state == CLOSE;
            let found = match (event.kind, event.old_state) {
                _ if new => None,
                (seen_kind::SYNACK, _) => Some(self.listener(&event.flow)),
                (_, LISTEN) => self.seeds.find_listener(&event.flow, event.at_ns),
                (seen_kind::SEND_RESET, _) if event.state == LISTEN => {
                    self.seeds.find_listener(&event.flow, event.at_ns)
                }
                _ => self.seeds.find(&event.flow, event.at_ns),
            };
            let socket = found.map_or_else(Socket::default, |seed| Socket {
                seeded_ns: Some(self.seeds.taken_ns),
                ..of_seed(&seed, 0)
            });
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
    fn listener(&mut self, flow: &flow) -> Seed {
        let seen = self.listening.iter().filter(|(skaddr, _)| {
            self.all
                .get(skaddr)
                .is_some_and(|s| s.flow.lport == flow.lport)
        });
        let all = seen.map(|(_, l)| l).chain(self.seeds.listeners(flow.lport));
        let mut here = all.filter(|l| l.laddr == flow.laddr || is_any(&l.laddr));
        let Some(first) = here.next().copied() else {
            return Seed::default();
        };
        let known = |l: &Listener| l.owner.source != pid_source::UNKNOWN;
        let same =
            |l: &Listener| known(l) && (l.owner.pid, l.birth) == (first.owner.pid, first.birth);
        if !known(&first) || !here.all(same) || !self.processes.lives(first.owner.pid, first.birth)
        {
            return Seed::default();
        }
        Seed {
            owner: owner {
                source: pid_source::LISTENER,
                ..first.owner
            },
            birth: first.birth,
        }
    }
}

/// A socket whose owner was known to run then.
fn of_seed<T: Default>(seed: &Seed, alive_ns: u64) -> Socket<T> {
    Socket {
        owner: seed.owner,
        birth: seed.birth,
        alive_ns,
        ..Socket::default()
    }
}

/// `::` or `::ffff:0.0.0.0`.
fn is_any(addr: &[u8; 16]) -> bool {
    let v6 = std::net::Ipv6Addr::from(*addr);
    v6.is_unspecified() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_unspecified())
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
