// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets as inet_diag has them, for what is shown without an event: in each network namespace, and whose they are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Event, Out, Translate, holders, scanned};
use crate::abi::known::{KNOWN_NETNS, KNOWN_UID};
use crate::abi::names::state::{CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV};
use crate::abi::types::{Record, bytes_of, head, owner, pid_source, trace_event};
use crate::cli::filter::{Filter, Parts};
use crate::error::Usage;
use crate::kernel::clock::boot_ns;
use crate::kernel::holders::SocketIterator;
use crate::kernel::namespaces::worker::Found;
use crate::kernel::sock_diag::DiagSocket;
use crate::output::message;
use anyhow::Result;
use caps::Capability;

/// How old the owners may be, at least: they are looked up once for all network namespaces.
const OWNERS_AGE: Duration = Duration::from_millis(500);

/// Visits every network namespace: `look` makes the records of this thread's. `what` they are of is for messages: one,
/// and several.
///
/// # Errors
/// A sentence, if a filter asks what inet_diag does not tell.
pub fn sockets<R: Record>(
    tool: &'static str,
    (one, several): (&'static str, &'static str),
    filter: &Filter,
    look: impl Fn() -> Result<Vec<R>> + 'static,
) -> Result<SocketIterator> {
    let asked = ["--cgroup", "--unit", "--container"];
    let mut given = filter.given();
    if let Some((flag, _)) = given.find(|(flag, _)| asked.contains(flag)) {
        let kernel = crate::kernel::features::this_kernel();
        let why = format!("{flag}: {kernel}, so the cgroup of a {one} is unknown");
        return Err(Usage(why).into());
    }
    let look = move |found: &mut Found<'_>| {
        found(
            &look()?
                .iter()
                .flat_map(bytes_of)
                .copied()
                .collect::<Vec<_>>(),
        );
        Ok(())
    };
    // Other users' files in /proc/PID/fd.
    let rights = [Capability::CAP_DAC_READ_SEARCH];
    let report = move |n| message::unvisited(tool, several, n);
    Ok(SocketIterator::looking(
        Box::new(look),
        &[],
        &rights,
        report,
    ))
}

/// Who has sockets open, as of a moment ago.
pub struct Owners {
    scan: bool,
    found: RefCell<Option<Scan>>,
}

struct Scan {
    at: Instant,
    /// How long it took.
    took: Duration,
    pids: HashMap<u64, u32>,
}

impl Scan {
    fn new() -> Self {
        let begin = Instant::now();
        let pids = holders();
        Self {
            at: Instant::now(),
            took: begin.elapsed(),
            pids,
        }
    }

    /// On a busy host, looking again and again would take most of the time.
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < OWNERS_AGE.max(self.took.saturating_mul(4))
    }
}

impl Owners {
    /// `scan`: whether they are looked for.
    pub fn new(scan: bool) -> Self {
        Self {
            scan,
            found: RefCell::default(),
        }
    }

    /// Of the socket whose file has this inode number; 0: it has none.
    pub fn of(&self, inode: u32) -> owner {
        if !self.scan {
            return owner::default();
        }
        let mut found = self.found.borrow_mut();
        let fresh = found.take().filter(Scan::is_fresh);
        let found = found.insert(fresh.unwrap_or_else(Scan::new));
        let pid = found.pids.get(&inode.into()).filter(|_| inode != 0);
        pid.map_or_else(owner::default, |&pid| scanned(pid))
    }
}

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A process has it open.
    Process,
    /// It waits for accept().
    AcceptQueue,
    /// Its process has closed it.
    Orphan,
    /// It is half open.
    Request,
    /// It is what is left in TIME_WAIT ([`DiagSocket::rests`]).
    Rest,
}

/// Of a socket with its statistics.
pub fn held(socket: &DiagSocket) -> Held {
    match socket.state {
        _ if socket.rests() => Held::Rest,
        _ if socket.inode != 0 => Held::Process,
        SYN_RECV if socket.info_bytes == 0 => Held::Request,
        ESTABLISHED | CLOSE_WAIT | SYN_RECV => Held::AcceptQueue,
        _ => Held::Orphan,
    }
}

/// The owners of a namespace's listeners, by port; none where several processes listen.
#[derive(Default)]
pub struct Listeners(HashMap<u16, Option<owner>>);

impl Listeners {
    /// The owner of a socket, and whether it is one that a listener made: its own, or where no process has accepted it,
    /// the listener's. Listeners come first ([`crate::kernel::sock_diag::all`]).
    pub fn owner(&mut self, socket: &DiagSocket, held: Held, own: owner) -> (owner, bool) {
        let port = socket.flow.lport;
        if socket.state == LISTEN {
            let known = self.0.entry(port).or_insert(Some(own));
            *known = known.filter(|known| known.pid == own.pid);
            return (own, false);
        }
        let Some(listener) = self.0.get(&port) else {
            return (own, false);
        };
        let owner = match (held, listener) {
            (Held::AcceptQueue | Held::Request, Some(listener)) => owner {
                source: match listener.source {
                    pid_source::UNKNOWN => pid_source::UNKNOWN,
                    _ => pid_source::LISTENER,
                },
                ..*listener
            },
            _ => own,
        };
        (owner, true)
    }
}

/// Whether the filters let it pass.
pub fn passes(filter: &Filter, socket: &DiagSocket, owner: &owner) -> bool {
    let about = trace_event {
        netns: socket.netns,
        uid: socket.uid,
        ..trace_event::default()
    };
    filter.passes(Parts {
        flow: Some(&socket.flow),
        socket: Some(&about),
        owner: Some(owner),
    })
}

/// The head of its record, now.
pub fn head_of(socket: &DiagSocket, owner: owner, event: u16) -> head {
    head {
        cgroup: 0,
        boot_ns: boot_ns(),
        cookie: socket.cookie,
        flow: socket.flow,
        netns: socket.netns,
        owner,
        uid: socket.uid,
        event,
        known: KNOWN_NETNS | KNOWN_UID,
    }
}

/// For a command that needs no record: what its rows do not have, the end of a sentence.
pub struct NoRecords(pub &'static str);

impl Translate for NoRecords {
    type Tool = ();

    fn tracepoints(&self) -> Vec<&'static str> {
        vec![]
    }

    fn follows(&self) -> bool {
        false
    }

    fn blank(&self) -> &'static str {
        self.0
    }

    fn event(&mut self, _event: Event<'_, ()>, _out: &mut Out<'_>) {}
}
