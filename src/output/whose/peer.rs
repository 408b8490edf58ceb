// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end of a row's connection, where it is on this host: `--peer`. The columns are in `output/column.rs`.
//!
//! It is looked up when the row is written, so that the records of a run without the flag are as small as ever. What is
//! remembered is each thread's own.

use std::cell::RefCell;

use crate::abi::types::{decode, head};
use crate::kernel::conntrack::Conntrack;
use crate::kernel::peers::Peers;

#[derive(Default)]
struct Memory {
    asked: bool,
    shown: bool,
    peers: Option<Peers>,
    conntrack: Option<Conntrack>,
    /// The last one: the columns of a row ask one after the other.
    last: Option<(head, Option<Other>)>,
}

/// The other end of a row's connection.
#[derive(Clone, Copy)]
pub struct Other {
    /// The head that a record of it would have.
    pub head: head,
    /// From what it is known: its own socket, or else only its addresses, from connection tracking.
    pub source: &'static str,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// The user gave `--peer`: rows that are made from now on have these columns.
pub fn ask() {
    MEMORY.with_borrow_mut(|memory| memory.asked = true);
}

/// Whether the user gave `--peer`.
pub fn is_asked() -> bool {
    MEMORY.with_borrow(|memory| memory.asked)
}

/// Whether there are rows that have these columns.
pub fn is_shown() -> bool {
    MEMORY.with_borrow(|memory| memory.shown)
}

/// The same as [`is_asked`], of rows that have them if so.
pub fn show() -> bool {
    MEMORY.with_borrow_mut(|memory| {
        memory.shown |= memory.asked;
        memory.asked
    })
}

/// Rows of this thread know the other ends from now on.
pub fn open(peers: Peers, conntrack: Option<Conntrack>) {
    MEMORY.with_borrow_mut(|memory| {
        memory.peers = Some(peers);
        memory.conntrack = conntrack;
    });
}

/// Forgets them, and ends what asks about them.
pub fn close() {
    MEMORY.with_borrow_mut(|memory| *memory = Memory::default());
}

/// Rows whose other end may be blank because connection tracking was not asked in time.
pub fn late() -> u64 {
    MEMORY.with_borrow(|memory| memory.conntrack.as_ref().map_or(0, Conntrack::late))
}

/// A record has come, whose row will be written in a moment.
pub fn foresee(record: &[u8]) {
    MEMORY.with_borrow_mut(|memory| {
        if let (Some(conntrack), Some(head)) = (&mut memory.conntrack, decode::<head>(record)) {
            conntrack.ask(head);
        }
    });
}

/// The other end of a record's connection; `None`: not known.
pub fn of(own: &head) -> Option<Other> {
    MEMORY.with_borrow_mut(|memory| {
        let last = memory.last.as_ref();
        if let Some((_, found)) = last.filter(|(of, _)| is_same(of, own)) {
            return *found;
        }
        let found = memory.find(own);
        memory.last = Some((*own, found));
        found
    })
}

fn is_same(a: &head, b: &head) -> bool {
    let which = |head: &head| (head.boot_ns, head.cookie, head.netns, head.flow.ends());
    which(a) == which(b)
}

impl Memory {
    fn find(&mut self, own: &head) -> Option<Other> {
        if let Some(head) = self.peers.as_ref().and_then(|peers| peers.of(own)) {
            let source = "socket";
            return Some(Other { head, source });
        }
        let head = head {
            flow: self.conntrack.as_mut()?.other(own)?,
            ..head::default()
        };
        let source = "conntrack";
        Some(Other { head, source })
    }
}
