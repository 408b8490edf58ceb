// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who owns a socket, as far as records and /proc tell. An owner is right, or it is not told.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use crate::clock::boot_ns;
use crate::names::state::{CLOSE, LISTEN};
use crate::pids;
use crate::types::{flow, owner, pid_source, seen};

/// The changes of state that only a system call on the socket makes, in the process that makes it: connect(), listen(),
/// and close(), shutdown() or exit (net/ipv4/tcp.c: tcp_close_state). All others may come with a segment or a timer,
/// when whoever is on the CPU is a stranger.
pub fn acts(old: u8, new: u8) -> bool {
    const ACTS: [(u8, u8); 4] = [
        (CLOSE, 2), // SYN_SENT
        (CLOSE, LISTEN),
        (1, 4), // ESTABLISHED, FIN_WAIT1
        (8, 9), // CLOSE_WAIT, LAST_ACK
    ];
    ACTS.contains(&(old, new))
}

/// What is known of a process, or of a thread of the kernel's.
#[derive(Clone, Copy)]
struct Process {
    kernel: bool,
    /// When it was started, in ticks; 0: not known, or gone. Tells it from a later one with the same id.
    birth: u64,
    comm: Option<[u8; 16]>,
}

/// Looks processes up in /proc, each once per turn of the reader.
pub struct Processes {
    known: HashMap<u32, Process>,
    /// /proc shows the ids that records have.
    ours: bool,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            ours: pids::namespace() == pids::Namespace::Initial && pids::proc_is_ours(),
        }
    }
}

impl Processes {
    /// What was looked up may be out of date by now.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// What tells a process from a later one with the same id; 0 if it is gone.
    pub fn birth(&mut self, pid: u32) -> u64 {
        self.known.entry(pid).or_insert_with(|| look(pid)).birth
    }

    /// Whether the process that [`Self::birth`] said this of is still there.
    pub fn lives(&mut self, pid: u32, birth: u64) -> bool {
        birth != 0 && self.birth(pid) == birth
    }

    /// The process in which an event came about, for an event that [`acts`].
    ///
    /// `None` for the kernel's own threads: MPTCP closes its subflows from a worker, and a file that such a thread
    /// drops is closed by one; neither says whose socket it was.
    /// Also what tells it from a later one with the same id; 0 if it is gone.
    pub fn acting(&mut self, event: &seen) -> Option<(owner, u64)> {
        if event.tgid == 0 || !self.ours {
            return None;
        }
        let process = *self
            .known
            .entry(event.tgid)
            .or_insert_with(|| look(event.tgid));
        if process.kernel {
            return None;
        }
        // The record has the thread's name. A process that is gone has none any more.
        let leader = event.tid == event.tgid;
        let owner = owner {
            pid: event.tgid,
            source: pid_source::SOCKET,
            comm: if leader {
                event.comm
            } else {
                process.comm.unwrap_or_default()
            },
            ..owner::default()
        };
        Some((owner, process.birth))
    }
}

/// A process that is gone was none of the kernel's threads: those that close sockets wait for more work to do.
fn look(pid: u32) -> Process {
    /// include/linux/sched.h
    const PF_KTHREAD: u64 = 0x0020_0000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses, and may have some itself. Then the state, and numbers (proc_pid_stat(5)).
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|n| n.parse::<u64>().ok());
    let (flags, threads, birth) = (number(6), number(17), number(19));
    // Only the first thread of those that still run may have ended.
    let ended = matches!(fields.first(), Some(&("Z" | "X"))) && threads.is_none_or(|n| n <= 1);
    Process {
        kernel: flags.is_some_and(|flags| flags & PF_KTHREAD != 0),
        birth: birth.filter(|_| !ended).unwrap_or(0),
        comm: comm_of(pid),
    }
}

fn comm_of(pid: u32) -> Option<[u8; 16]> {
    let text = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut comm = [0; 16];
    comm.get_mut(..name.len())?.copy_from_slice(name);
    Some(comm)
}

/// What tells one socket from others, within a network namespace.
pub type Key = ([u8; 16], u16, [u8; 16], u16);

/// The key of a flow.
pub fn key(flow: &flow) -> Key {
    (flow.laddr, flow.lport, flow.raddr, flow.rport)
}

/// Who had a socket open.
#[derive(Clone, Copy, Default)]
pub struct Seed {
    /// The process; its source may be [`pid_source::UNKNOWN`].
    pub owner: owner,
    /// Of that process: see [`Processes::birth`].
    pub birth: u64,
}

/// A listening socket.
#[derive(Clone, Copy)]
pub struct Listener {
    /// Where it listens.
    pub laddr: [u8; 16],
    /// Whose it is; its source may be [`pid_source::UNKNOWN`].
    pub owner: owner,
    /// Of that process: see [`Processes::birth`].
    pub birth: u64,
}

/// The sockets that existed at the start, as `/proc/PID/net/tcp` and `/proc/PID/fd` have them: in every network
/// namespace that has a process.
#[derive(Default)]
pub struct Seeds {
    /// When everything had been read, by the boot-time clock; 0: nothing was.
    pub taken_ns: u64,
    connections: HashMap<Key, Seed>,
    listeners: HashMap<u16, Vec<Listener>>,
}

impl Seeds {
    /// Reads /proc, unless it shows other ids than this process's pid namespace has. What cannot be read is not there.
    pub fn take() -> Self {
        if !pids::proc_is_ours() {
            return Self::default();
        }
        let (mut tables, mut owners) = (BTreeMap::new(), HashMap::<u64, u32>::new());
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<u32> = pids
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        for pid in pids {
            if let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")) {
                tables.entry(namespace.ino()).or_insert(pid);
            }
            for inode in sockets_of(pid) {
                owners.entry(inode).or_insert(pid);
            }
        }
        let mut seeds = Self::default();
        for pid in tables.values() {
            for table in ["tcp", "tcp6"] {
                let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"));
                seeds.read(&text.unwrap_or_default(), &owners);
            }
        }
        seeds.taken_ns = boot_ns();
        seeds
    }

    fn read(&mut self, table: &str, owners: &HashMap<u64, u32>) {
        let mut births = HashMap::<u32, u64>::new();
        for (flow, state, inode) in table.lines().filter_map(line) {
            let pid = owners.get(&inode);
            let owner = pid.map_or_else(owner::default, |&pid| owner {
                pid,
                source: pid_source::SEED,
                comm: comm_of(pid).unwrap_or_default(),
                ..owner::default()
            });
            let birth = *births
                .entry(owner.pid)
                .or_insert_with(|| look(owner.pid).birth);
            if state == LISTEN {
                let laddr = flow.laddr;
                let at = self.listeners.entry(flow.lport).or_default();
                at.push(Listener {
                    laddr,
                    owner,
                    birth,
                });
                continue;
            }
            // The same ends in two namespaces, with two owners: nobody can tell which is which.
            let seed = Seed { owner, birth };
            let known = self.connections.entry(key(&flow)).or_insert(seed);
            if known.owner.pid != owner.pid {
                known.owner.source = pid_source::UNKNOWN;
            }
        }
    }

    /// A socket that was there before `at_ns`, which it must be said of: its creation was not seen.
    pub fn find(&self, flow: &flow, at_ns: u64) -> Option<Seed> {
        let since = self.taken_ns != 0 && at_ns >= self.taken_ns;
        since.then(|| self.connections.get(&key(flow)).copied())?
    }

    /// The same for a listener: whose all are that listen there.
    pub fn find_listener(&self, flow: &flow, at_ns: u64) -> Option<Seed> {
        let since = self.taken_ns != 0 && at_ns >= self.taken_ns;
        let here = self.listeners(flow.lport).iter();
        let mut seeds = here.filter(|l| l.laddr == flow.laddr).map(|l| Seed {
            owner: l.owner,
            birth: l.birth,
        });
        let first = seeds.next().filter(|_| since)?;
        let same = |seed: Seed| seed.owner.pid == first.owner.pid;
        seeds.all(same).then_some(first)
    }

    /// The listeners at a port.
    pub fn listeners(&self, port: u16) -> &[Listener] {
        self.listeners.get(&port).map_or(&[], Vec::as_slice)
    }

    /// One of them has been closed.
    pub fn close(&mut self, flow: &flow) {
        self.connections.remove(&key(flow));
    }

    /// A listener has been closed. Which of several at one place it was is known only if all are one process's.
    pub fn close_listener(&mut self, flow: &flow) {
        let Some(all) = self.listeners.get_mut(&flow.lport) else {
            return;
        };
        let here = |l: &Listener| l.laddr == flow.laddr;
        let mut owners = all
            .iter()
            .filter(|l| here(l))
            .map(|l| (l.owner.source, l.owner.pid));
        let Some(first) = owners.next() else {
            return;
        };
        if owners.all(|owner| owner == first)
            && let Some(at) = all.iter().position(here)
        {
            all.remove(at);
        }
    }
}

/// The inode numbers of a process's sockets.
fn sockets_of(pid: u32) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    files
        .flatten()
        .filter_map(|file| {
            let target = fs::read_link(file.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Ends, state and inode number of a line of /proc/net/tcp or tcp6; a socket without an inode is nobody's.
fn line(text: &str) -> Option<(flow, u8, u64)> {
    let mut fields = text.split_whitespace().skip(1);
    let (laddr, lport) = end(fields.next()?)?;
    let (raddr, rport) = end(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok().filter(|&inode| inode != 0)?;
    let flow = flow {
        laddr,
        raddr,
        lport,
        rport,
        ..flow::default()
    };
    Some((flow, state, inode))
}

/// `0100007F:1F90`: words as they lie in memory, then the port.
fn end(text: &str) -> Option<([u8; 16], u16)> {
    let (words, port) = text.split_once(':')?;
    let word = |word: &[u8]| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok();
    let values = words.as_bytes().chunks(8).map(word);
    let values = values.collect::<Option<Vec<u32>>>()?;
    let addr = match values[..] {
        [v4] => Ipv4Addr::from(v4.to_ne_bytes()).to_ipv6_mapped().octets(),
        [a, b, c, d] => {
            let mut addr = [0; 16];
            let bytes = [a, b, c, d].map(u32::to_ne_bytes);
            for (to, from) in addr.iter_mut().zip(bytes.as_flattened()) {
                *to = *from;
            }
            addr
        }
        _ => return None,
    };
    Some((addr, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[path = "owners_tests.rs"]
mod tests;
