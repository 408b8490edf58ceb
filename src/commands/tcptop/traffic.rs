// SPDX-License-Identifier: MIT OR Apache-2.0
//! From counters that grow to what moved in an interval.

use std::collections::HashMap;

use crate::abi::types::{Record, head};

use super::bpf::types::conn;
use super::why::{Course, Why, why};

/// A connection, and what it did in an interval.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Connection {
    pub(super) conn: conn,
    pub(super) tx: u64,
    pub(super) rx: u64,
    /// Over which `tx`, `rx` and `retrans` are counted.
    pub(super) interval_us: u64,
    pub(super) why_us: u64,
    pub(super) retrans: u32,
    pub(super) send: u8,
    pub(super) receive: u8,
    pub(super) quiet: u8,
    /// Bit 0: orphan, bit 1: `why_us` is a lower bound, bit 2: it has ended.
    pub(super) more: u8,
}

// SAFETY: `repr(C)`, integers only, without padding: every bit pattern is a value.
unsafe impl plain::Plain for Connection {}

// SAFETY: as above, and its head comes first: `conn` begins with it.
unsafe impl Record for Connection {}

const ORPHAN: u8 = 1;
const AT_LEAST: u8 = 2;
const CLOSED: u8 = 4;

impl Connection {
    pub(super) fn why(&self) -> Why {
        Why {
            send: self.send,
            receive: self.receive,
            quiet: self.quiet,
            orphan: self.more & ORPHAN,
            us: self.why_us,
            at_least: self.more & AT_LEAST != 0,
        }
    }

    pub(super) fn set_why(&mut self, why: Why) {
        self.send = why.send;
        self.receive = why.receive;
        self.quiet = why.quiet;
        self.why_us = why.us;
        self.more |= why.orphan | if why.at_least { AT_LEAST } else { 0 };
    }

    /// It ended in this interval.
    pub(super) fn set_closed(&mut self) {
        self.more |= CLOSED;
    }

    /// Whether it ended in this interval.
    pub(super) fn is_closed(&self) -> bool {
        self.more & CLOSED != 0
    }

    /// Which session it is: an address is used again, but not at the same time.
    pub(super) fn id(&self) -> Id {
        (self.conn.sock, self.conn.start_ns)
    }

    pub(super) fn head(&self) -> &head {
        Record::head(self)
    }
}

/// A session: its socket's address, and when it began.
pub(super) type Id = (u64, u64);

/// What is remembered of a connection until it is looked at again: as little as possible, there may be 100,000.
#[derive(Clone, Copy, Default)]
struct Last {
    boot_ns: u64,
    tx: u64,
    rx: u64,
    rwnd_limited_us: u64,
    sndbuf_limited_us: u64,
    /// Since when nothing of what is unacknowledged was acknowledged, of what is unread was read; 0: there is nothing.
    unacked_ns: u64,
    unread_ns: u64,
    snd_una: u32,
    copied_seq: u32,
    retrans: u32,
    visit: u32,
}

/// The connections as they were when they were looked at last.
#[derive(Default)]
pub(super) struct Traffic {
    last: HashMap<Id, Last>,
    visit: u32,
    visited: usize,
}

/// Forgotten only beyond so many, as the owner of a connection may be unknown for a while, and with it whether it passes.
const SPARE: usize = 4096;

impl Traffic {
    /// All connections are going to be looked at, at the next [`Self::see`].
    pub(super) fn begin(&mut self) {
        self.visit = self.visit.wrapping_add(1);
        self.visited = 0;
    }

    /// All were. Those whose end was lost are forgotten.
    pub(super) fn end(&mut self) {
        if self.last.len() > 2 * self.visited + SPARE {
            let visit = self.visit;
            self.last.retain(|_, last| last.visit == visit);
            self.last.shrink_to_fit();
        }
    }

    /// What a connection did since it was looked at before; `closed`: it will not be again.
    pub(super) fn see(&mut self, conn: &conn, closed: bool) -> Connection {
        let id = (conn.sock, conn.start_ns);
        let last = match closed {
            true => self.last.remove(&id),
            false => self.last.get(&id).copied(),
        };
        let known = last.is_some();
        let last = last.unwrap_or_default();
        let course = course(conn, &last, known);
        let mut seen = Connection {
            conn: *conn,
            tx: conn.tx.saturating_sub(last.tx),
            rx: conn.rx.saturating_sub(last.rx),
            retrans: conn.retrans.saturating_sub(last.retrans),
            more: if closed { CLOSED } else { 0 },
            ..Connection::default()
        };
        if !closed {
            seen.set_why(why(conn, &course));
            self.last.insert(id, self.remembered(conn, &last, &course));
            self.visited += 1;
        }
        seen
    }

    fn remembered(&self, now: &conn, last: &Last, course: &Course) -> Last {
        let since = |us: u64| now.head.boot_ns.saturating_sub(us * 1000);
        Last {
            boot_ns: now.head.boot_ns,
            // A counter is never taken back.
            tx: now.tx.max(last.tx),
            rx: now.rx.max(last.rx),
            rwnd_limited_us: now.rwnd_limited_us,
            sndbuf_limited_us: now.sndbuf_limited_us,
            unacked_ns: if now.wqueue == 0 {
                0
            } else {
                since(course.unacked_us)
            },
            unread_ns: if now.rqueue == 0 {
                0
            } else {
                since(course.unread_us)
            },
            snd_una: now.snd_una,
            copied_seq: now.copied_seq,
            retrans: now.retrans.max(last.retrans),
            visit: self.visit,
        }
    }
}

fn course(now: &conn, last: &Last, known: bool) -> Course {
    if !known {
        return Course::default();
    }
    let boot_ns = now.head.boot_ns;
    let since = |ns: u64, same: bool| match ns {
        0 => 0,
        _ if !same => 0,
        ns => boot_ns.saturating_sub(ns) / 1000,
    };
    Course {
        interval_us: boot_ns.saturating_sub(last.boot_ns) / 1000,
        rwnd_limited_us: now.rwnd_limited_us.saturating_sub(last.rwnd_limited_us),
        sndbuf_limited_us: now.sndbuf_limited_us.saturating_sub(last.sndbuf_limited_us),
        retrans: now.retrans.saturating_sub(last.retrans),
        unacked_us: since(
            last.unacked_ns,
            now.snd_una == last.snd_una && now.wqueue != 0,
        ),
        unread_us: since(
            last.unread_ns,
            now.copied_seq == last.copied_seq && now.rqueue != 0,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64, sock: u64, tx: u64, rx: u64) -> conn {
        let mut conn = conn {
            sock,
            start_ns: 1,
            tx,
            rx,
            ..conn::default()
        };
        conn.head.boot_ns = second * 1_000_000_000;
        conn
    }

    /// Bytes of a connection over several looks and its end.
    #[test]
    fn differences_add_up_to_the_whole() {
        let mut traffic = Traffic::default();
        let mut sum = (0, 0);
        for (tx, rx, closed) in [(0, 0, false), (10, 3, false), (10, 7, false), (25, 9, true)] {
            let seen = traffic.see(&at(1, 7, tx, rx), closed);
            sum = (sum.0 + seen.tx, sum.1 + seen.rx);
            assert_eq!(seen.is_closed(), closed);
        }
        assert_eq!(sum, (25, 9));
        assert!(traffic.last.is_empty());
        // One that came and went between two looks, and one after it in the same place.
        assert_eq!(traffic.see(&at(1, 7, 5, 6), true).tx, 5);
        assert_eq!(traffic.see(&at(2, 7, 8, 6), false).tx, 8);
    }

    #[test]
    fn counters_never_run_back() {
        let mut traffic = Traffic::default();
        let seen = [10, 9, 12].map(|tx| traffic.see(&at(1, 7, tx, 0), false).tx);
        assert_eq!(seen, [10, 0, 2]);
    }

    /// A queue that does not get shorter is as old as the first sight of it.
    #[test]
    fn age_of_a_queue_is_seen() {
        let mut traffic = Traffic::default();
        let mut look = |second, rqueue, copied_seq| {
            let conn = conn {
                state: crate::abi::names::state::ESTABLISHED,
                rqueue,
                copied_seq,
                data_segs_in: 1,
                ..at(second, 7, 0, 0)
            };
            let why = traffic.see(&conn, false).why();
            (why.text(), why.us / 1_000_000)
        };
        assert_eq!(look(1, 5, 100).0, None);
        assert_eq!(look(3, 9, 100), (Some("unread"), 2));
        assert_eq!(look(6, 9, 100), (Some("unread"), 5));
        assert_eq!(look(7, 9, 104).0, None, "something was read");
        assert_eq!(look(8, 9, 104), (Some("unread"), 1));
        assert_eq!(look(9, 0, 113).0, None);
    }

    #[test]
    fn lost_ends_are_forgotten_in_the_end() {
        let mut traffic = Traffic::default();
        let mut look = |socks: std::ops::Range<u64>| {
            traffic.begin();
            for sock in socks {
                traffic.see(&at(1, sock, 1, 1), false);
            }
            traffic.end();
            traffic.last.len()
        };
        assert_eq!(look(0..20_000), 20_000);
        assert_eq!(look(0..3000), 3000);
        // A few may only not have passed a filter for a while.
        assert_eq!(look(0..2000), 3000);
    }
}
