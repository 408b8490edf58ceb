// SPDX-License-Identifier: MIT OR Apache-2.0
//! State per socket where the kernel has no socket storage: by address, until the socket is destroyed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::owners::{Holder, Key, Listener, Processes, Snapshot, key, proves_owner};
use crate::abi::names::state::{
    CLOSE, ESTABLISHED, FIN_WAIT1, LAST_ACK, LISTEN, NEW_SYN_RECV, SYN_RECV, SYN_SENT, TIME_WAIT,
};
use crate::abi::types::{flow, owner, pid_source, trace_event, trace_kind};
use crate::kernel::clock::boot_ns;

/// Maximum time between the change to ESTABLISHED and the next one if a single segment made both: a connection that
/// was shut down before it was established (net/ipv4/tcp_input.c: tcp_rcv_state_process, `sk_shutdown`).
const AT_ONCE_NS: u64 = 1_000_000;

/// A process is assumed to run for this long after it acted on a socket: records are read up to two turns late, and a
/// process that connects and closes at once has exited by then.
const LIVES_NS: u64 = 100_000_000;

/// One socket.
#[derive(Clone, Copy, Default)]
pub struct Socket<T> {
    /// Whose it is.
    pub owner: owner,
    /// See [`Holder`].
    start_time: u64,
    /// When it was last known to run.
    alive_ns: u64,
    /// It has closed or shut down the socket: the owner is final.
    closed: bool,
    /// When its owner was scanned, if it existed at the start.
    pub scanned_ns: Option<u64>,
    /// The command's own state of it.
    pub tool: T,
    established: Option<(u64, u32)>,
    flow: flow,
}

impl<T> Socket<T> {
    fn holder(&self) -> Holder {
        Holder {
            owner: self.owner,
            start_time: self.start_time,
        }
    }
}

/// All of them.
pub struct Sockets<T> {
    all: HashMap<u64, Socket<T>>,
    /// Socket addresses by flow, for records that have none.
    by_flow: Option<HashMap<Key, Vec<u64>>>,
    listening: HashMap<u64, Listener>,
    snapshot: Snapshot,
    processes: Processes,
    untracked: u64,
    most: usize,
}

impl<T: Copy + Default> Sockets<T> {
    /// `by_flow`: assign records without a socket address by their flow.
    /// `most`: of how many sockets at once.
    pub fn new(by_flow: bool, most: u32) -> Self {
        Self {
            all: HashMap::new(),
            by_flow: by_flow.then(HashMap::new),
            listening: HashMap::new(),
            snapshot: Snapshot::default(),
            processes: Processes::default(),
            untracked: 0,
            most: most as usize,
        }
    }

    /// Scans the owners of existing sockets.
    pub fn scan(&mut self) {
        self.snapshot = Snapshot::take();
    }

    /// What is remembered at an address.
    pub fn get(&mut self, skaddr: u64) -> Option<&mut Socket<T>> {
        self.all.get_mut(&skaddr)
    }

    /// Events of sockets that did not fit.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Events were lost: an address or a port may belong to another socket now. Drops all owners; later events set
    /// them again.
    pub fn forget(&mut self) {
        self.all.clear();
        self.listening.clear();
        self.snapshot = Snapshot::default();
        if let Some(by_flow) = &mut self.by_flow {
            by_flow.clear();
        }
    }

    /// The reader has waited.
    pub fn resume(&mut self) {
        self.processes.forget_old();
    }

    /// The socket of an event, with its owner updated. `None`: no room, or an ambiguous record.
    pub fn follow(&mut self, event: &trace_event) -> Option<&mut Socket<T>> {
        let skaddr = self.find(event)?;
        self.settle(skaddr, event);
        self.all.get_mut(&skaddr)
    }

    /// Its address, once its owner has followed the event.
    fn find(&mut self, event: &trace_event) -> Option<u64> {
        let known = |all: &HashMap<u64, _>| all.contains_key(&event.skaddr).then_some(event.skaddr);
        if event.kind == trace_kind::STATE {
            return self.follow_state(event);
        }
        if event.kind == trace_kind::DESTROY {
            return known(&self.all);
        }
        // It may belong to a destroyed socket, or answer a segment without a full socket: then it is not followed.
        let passing = [0, TIME_WAIT, CLOSE, NEW_SYN_RECV];
        if event.kind == trace_kind::SEND_RESET && passing.contains(&event.state) {
            return known(&self.all);
        }
        let skaddr = match event.skaddr {
            0 => self.by_ends(&event.flow)?,
            skaddr => skaddr,
        };
        self.known(skaddr, event).map(|_| skaddr)
    }

    /// An exited process owns no open socket.
    fn settle(&mut self, skaddr: u64, event: &trace_event) {
        let Some(socket) = self.all.get_mut(&skaddr) else {
            return;
        };
        if socket.closed || socket.owner.source == pid_source::UNKNOWN {
            return;
        }
        let holder = socket.holder();
        if event.tgid == socket.owner.pid {
            socket.alive_ns = event.at_ns;
        } else if event.at_ns.saturating_sub(socket.alive_ns) > LIVES_NS {
            if self.processes.is_alive(&holder) {
                socket.alive_ns = boot_ns();
            } else {
                socket.owner.source = pid_source::UNKNOWN;
            }
        }
    }

    /// Its memory may be reused from now on.
    pub fn destroy(&mut self, skaddr: u64) {
        self.listening.remove(&skaddr);
        if let Some(socket) = self.all.remove(&skaddr) {
            self.unlink(skaddr, &socket.flow);
        }
    }

    /// The owner for an event without an address, if its socket has not changed since the start.
    pub fn owner_by_ends(&mut self, event: &trace_event) -> owner {
        let followed = self
            .by_flow
            .as_ref()
            .is_none_or(|all| all.contains_key(&key(&event.flow)));
        if event.skaddr != 0 || followed {
            return owner::default();
        }
        let holder = self.snapshot.find(&event.flow, event.at_ns);
        let alive = holder.filter(|holder| self.processes.is_alive(holder));
        alive.unwrap_or_default().owner
    }

    fn follow_state(&mut self, event: &trace_event) -> Option<u64> {
        let (old, new, skaddr) = (event.old_state, event.state, event.skaddr);
        let born = old == LISTEN && new == SYN_RECV;
        let current_owner = match proves_owner(old, new) {
            true => self.processes.current_owner(event),
            false => None,
        };
        if born {
            let listener = self.listener(&event.flow);
            self.destroy(skaddr);
            self.make(skaddr, of_holder(&listener, event.at_ns))?;
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
        if let Some(current_owner) = current_owner.filter(|_| !follows) {
            socket.owner = current_owner.owner;
            socket.start_time = current_owner.start_time;
            socket.alive_ns = event.at_ns;
            socket.closed = matches!(new, FIN_WAIT1 | LAST_ACK);
        }
        socket.established =
            (old == SYN_RECV && new == ESTABLISHED).then_some((event.at_ns, event.tid));
        let holder = socket.holder();
        if new == LISTEN {
            let laddr = event.flow.laddr;
            self.listening.insert(skaddr, Listener { laddr, holder });
            self.ports(skaddr, event.flow);
        }
        if new == ESTABLISHED {
            self.link(skaddr, event.flow);
        }
        if old == LISTEN && new == CLOSE && self.listening.remove(&skaddr).is_none() {
            self.snapshot.close_listener(&event.flow);
        }
        if new == CLOSE {
            self.snapshot.close(&event.flow);
            self.unlink(skaddr, &event.flow);
        }
        self.all.contains_key(&skaddr).then_some(skaddr)
    }

    /// The state of a socket, created from the scan if its creation was not seen.
    fn known(&mut self, skaddr: u64, event: &trace_event) -> Option<&mut Socket<T>> {
        if !self.all.contains_key(&skaddr) {
            let new = event.kind == trace_kind::STATE && event.old_state == CLOSE;
            let found = match (event.kind, event.old_state) {
                _ if new => None,
                (trace_kind::SYNACK, _) => Some(self.listener(&event.flow)),
                (_, LISTEN) => self.snapshot.find_listener(&event.flow, event.at_ns),
                (trace_kind::SEND_RESET, _) if event.state == LISTEN => {
                    self.snapshot.find_listener(&event.flow, event.at_ns)
                }
                _ => self.snapshot.find(&event.flow, event.at_ns),
            };
            let socket = found.map_or_else(Socket::default, |holder| Socket {
                scanned_ns: Some(self.snapshot.taken_ns),
                ..of_holder(&holder, 0)
            });
            self.make(skaddr, socket)?;
        }
        self.all.get_mut(&skaddr)
    }

    fn make(&mut self, skaddr: u64, socket: Socket<T>) -> Option<()> {
        if self.all.len() >= self.most {
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

    /// The owner of a new child: that of its possible listeners if all have the same, otherwise unknown.
    fn listener(&mut self, flow: &flow) -> Holder {
        let followed = self.listening.iter().filter(|(skaddr, _)| {
            self.all
                .get(skaddr)
                .is_some_and(|s| s.flow.lport == flow.lport)
        });
        let all = followed
            .map(|(_, l)| l)
            .chain(self.snapshot.listeners(flow.lport));
        let mut here = all.filter(|l| l.laddr == flow.laddr || is_any(&l.laddr));
        let Some(Listener { holder, .. }) = here.next().copied() else {
            return Holder::default();
        };
        let known = |holder: &Holder| holder.owner.source != pid_source::UNKNOWN;
        let process = |holder: &Holder| (holder.owner.pid, holder.start_time);
        let same = |l: &Listener| known(&l.holder) && process(&l.holder) == process(&holder);
        if !known(&holder) || !here.all(same) || !self.processes.is_alive(&holder) {
            return Holder::default();
        }
        let mut listener = holder;
        listener.owner.source = pid_source::LISTENER;
        listener
    }
}

/// A socket whose owner was known to run at that time.
fn of_holder<T: Default>(holder: &Holder, alive_ns: u64) -> Socket<T> {
    Socket {
        owner: holder.owner,
        start_time: holder.start_time,
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
