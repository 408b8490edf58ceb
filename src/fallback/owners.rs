// SPDX-License-Identifier: MIT OR Apache-2.0
//! The owners of sockets, from records and /proc. An owner is right or left unknown.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::abi::names::state::{CLOSE, LISTEN};
use crate::abi::types::{flow, owner, pid_source, trace_event};
use crate::kernel::{clock::boot_ns, iter, pids};

/// The state changes that only a system call on the socket makes, in the calling process: connect(), listen(),
/// close(), shutdown() and exit (net/ipv4/tcp.c: tcp_close_state). All others may be caused by a segment or a timer,
/// where the current task is unrelated.
pub fn proves_owner(old: u8, new: u8) -> bool {
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
    /// Its start time in ticks; 0: unknown, or exited. Distinguishes it from a later process with the same PID.
    start_time: u64,
    comm: Option<[u8; 16]>,
}

/// How long what is known of a process is believed.
const BELIEVED: Duration = Duration::from_millis(50);

/// Looks up processes in /proc.
pub struct Processes {
    known: HashMap<u32, Process>,
    /// Since when.
    since: Instant,
    /// /proc shows the ids that records have.
    ours: bool,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            since: Instant::now(),
            ours: pids::namespace() == pids::Namespace::Initial && pids::proc_is_ours(),
        }
    }
}

impl Processes {
    /// Drops the results if they may be stale.
    pub fn forget_old(&mut self) {
        if self.since.elapsed() >= BELIEVED {
            self.known.clear();
            self.since = Instant::now();
        }
    }

    /// The start time of a process; 0 if it has exited.
    pub fn start_time(&mut self, pid: u32) -> u64 {
        self.look_up(pid).start_time
    }

    /// Whether an owner is still there.
    pub fn is_alive(&mut self, holder: &Holder) -> bool {
        holder.start_time != 0 && self.start_time(holder.owner.pid) == holder.start_time
    }

    fn look_up(&mut self, pid: u32) -> Process {
        *self.known.entry(pid).or_insert_with(|| look(pid))
    }

    /// The process in which an event happened, for an event that [`proves_owner`].
    ///
    /// `None` for the kernel's own threads: MPTCP closes its subflows from a worker, and a file that such a thread
    /// drops is closed by one; neither says whose socket it was. Nor does a visitor ([`iter::visit`]).
    pub fn current_owner(&mut self, event: &trace_event) -> Option<Holder> {
        // The record has the thread's name. A process that is gone has none any more.
        let leader = event.tid == event.tgid;
        let visits = !leader && iter::is_visitor(&event.comm);
        if event.tgid == 0 || visits || !self.ours {
            return None;
        }
        let process = self.look_up(event.tgid);
        if process.kernel {
            return None;
        }
        let owner = owner {
            pid: event.tgid,
            source: pid_source::SOCKET,
            comm: match leader {
                true => event.comm,
                false => process.comm.unwrap_or_default(),
            },
            ..owner::default()
        };
        let start_time = process.start_time;
        Some(Holder { owner, start_time })
    }
}

/// An exited process was no kernel thread: those that close sockets keep waiting for work.
fn look(pid: u32) -> Process {
    /// include/linux/sched.h
    const PF_KTHREAD: u64 = 0x0020_0000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in parentheses, and may have some itself. Then the state, and numbers (proc_pid_stat(5)).
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|n| n.parse::<u64>().ok());
    let (flags, threads, start_time) = (number(6), number(17), number(19));
    // Only the first thread of those that still run may have ended.
    let ended = matches!(fields.first(), Some(&("Z" | "X"))) && threads.is_none_or(|n| n <= 1);
    Process {
        kernel: flags.is_some_and(|flags| flags & PF_KTHREAD != 0),
        start_time: start_time.filter(|_| !ended).unwrap_or(0),
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

/// The key of a socket within a network namespace.
pub type Key = ([u8; 16], u16, [u8; 16], u16);

/// The key of a flow.
pub fn key(flow: &flow) -> Key {
    (flow.laddr, flow.lport, flow.raddr, flow.rport)
}

/// Who has a socket open, or had.
#[derive(Clone, Copy, Default)]
pub struct Holder {
    /// The process; its source may be [`pid_source::UNKNOWN`].
    pub owner: owner,
    /// Of that process: see [`Processes::start_time`].
    pub start_time: u64,
}

/// A listening socket.
#[derive(Clone, Copy)]
pub struct Listener {
    /// Where it listens.
    pub laddr: [u8; 16],
    /// Whose it is.
    pub holder: Holder,
}

/// The sockets that existed at the start, as `/proc/PID/net/tcp` and `/proc/PID/fd` have them: in every network
/// namespace that has a process.
#[derive(Default)]
pub struct Snapshot {
    /// When the scan was complete, by the boot-time clock; 0: no scan.
    pub taken_ns: u64,
    connections: HashMap<Key, Holder>,
    listeners: HashMap<u16, Vec<Listener>>,
}

impl Snapshot {
    /// Reads /proc, unless it shows other ids than this process's pid namespace has. What cannot be read is not there.
    pub fn take() -> Self {
        match pids::proc_is_ours() {
            true => iter::visit(Self::look),
            false => Self::default(),
        }
    }

    fn look() -> Self {
        let (mut tables, mut owners) = (BTreeMap::new(), HashMap::<u64, u32>::new());
        for pid in all_pids() {
            if let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")) {
                tables.entry(namespace.ino()).or_insert(pid);
            }
            for inode in sockets_of(pid) {
                owners.entry(inode).or_insert(pid);
            }
        }
        let mut snapshot = Self::default();
        for pid in tables.values() {
            for table in ["tcp", "tcp6"] {
                let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"));
                snapshot.read(&text.unwrap_or_default(), &owners);
            }
        }
        snapshot.taken_ns = boot_ns();
        snapshot
    }

    fn read(&mut self, table: &str, owners: &HashMap<u64, u32>) {
        let mut start_times = HashMap::<u32, u64>::new();
        for (flow, state, inode) in table.lines().filter_map(line) {
            let pid = owners.get(&inode);
            let owner = pid.map_or_else(owner::default, |&pid| scanned(pid));
            let start_time = *start_times
                .entry(owner.pid)
                .or_insert_with(|| look(owner.pid).start_time);
            let holder = Holder { owner, start_time };
            if state == LISTEN {
                let laddr = flow.laddr;
                let at = self.listeners.entry(flow.lport).or_default();
                at.push(Listener { laddr, holder });
                continue;
            }
            // The same flow in two namespaces with two owners is ambiguous.
            let known = self.connections.entry(key(&flow)).or_insert(holder);
            if known.owner.pid != owner.pid {
                known.owner.source = pid_source::UNKNOWN;
            }
        }
    }

    /// A socket that existed before `at_ns`: only for sockets whose creation was not seen.
    pub fn find(&self, flow: &flow, at_ns: u64) -> Option<Holder> {
        let since = self.taken_ns != 0 && at_ns >= self.taken_ns;
        since.then(|| self.connections.get(&key(flow)).copied())?
    }

    /// Likewise for a listener, if all listeners there have one owner.
    pub fn find_listener(&self, flow: &flow, at_ns: u64) -> Option<Holder> {
        let since = self.taken_ns != 0 && at_ns >= self.taken_ns;
        let here = self.listeners(flow.lport).iter();
        let mut snapshot = here.filter(|l| l.laddr == flow.laddr).map(|l| l.holder);
        let first = snapshot.next().filter(|_| since)?;
        let same = |holder: Holder| holder.owner.pid == first.owner.pid;
        snapshot.all(same).then_some(first)
    }

    /// The listeners at a port.
    pub fn listeners(&self, port: u16) -> &[Listener] {
        self.listeners.get(&port).map_or(&[], Vec::as_slice)
    }

    /// One of them has been closed.
    pub fn close(&mut self, flow: &flow) {
        self.connections.remove(&key(flow));
    }

    /// A listener was closed. Which of several at the same address is known only if all belong to one process.
    pub fn close_listener(&mut self, flow: &flow) {
        let Some(all) = self.listeners.get_mut(&flow.lport) else {
            return;
        };
        let here = |l: &Listener| l.laddr == flow.laddr;
        let mut owners = all
            .iter()
            .filter(|l| here(l))
            .map(|l| (l.holder.owner.source, l.holder.owner.pid));
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

/// The process that has each socket open, by the inode number of the socket; of several the one that was
/// started first.
/// None where /proc shows other ids than this process's pid namespace has.
pub fn holders() -> HashMap<u64, u32> {
    match pids::proc_is_ours() {
        true => iter::visit(look_for_holders),
        false => HashMap::new(),
    }
}

fn look_for_holders() -> HashMap<u64, u32> {
    let mut holders = HashMap::<u64, u32>::new();
    for pid in all_pids() {
        for inode in sockets_of(pid) {
            holders.entry(inode).or_insert(pid);
        }
    }
    holders
}

/// A process that was found with a socket open.
pub fn scanned(pid: u32) -> owner {
    owner {
        pid,
        source: pid_source::SCAN,
        comm: comm_of(pid).unwrap_or_default(),
        ..owner::default()
    }
}

/// In the order in which they were started; of the same time, by PID. A child that has got all files of its parent, and
/// has not begun its own program, may have the lower PID, once PIDs have come around.
fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_by_cached_key(|&pid| (look(pid).start_time, pid));
    pids
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
pub(crate) fn line(text: &str) -> Option<(flow, u8, u64)> {
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
