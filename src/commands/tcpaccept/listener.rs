// SPDX-License-Identifier: MIT OR Apache-2.0
//! A row of a listener: as it is now, and what has changed since the reading before.

use std::cmp::Reverse;

use crate::abi::types::{Record, head};

use super::bpf::types::{listener_now, queues};
use super::verdict::{Seen, Verdict};

crate::record!(listener_now, super::bpf::types::head);

/// What stands for a queue that could not be read.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// `TIME_UNKNOWN` of listener.bpf.h.
pub(super) const TIME_UNKNOWN: u64 = u64::MAX;

/// A listener, and what it did in an interval. The head is the listener's.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Listener {
    pub head: head,
    pub queues: queues,
    pub interval_us: u64,
    /// Opens in the interval; `TIME_UNKNOWN`: not known.
    pub accepts: u64,
    /// The lowest cookie in its SO_REUSEPORT group; 0: in none.
    pub group: u64,
    /// Longest accept queue in the interval; `UNKNOWN` when none was read.
    pub accept_queue_high: u32,
    /// Drops in the interval; `UNKNOWN`: not known.
    pub new_drops: u32,
    /// A `Verdict`.
    pub verdict: u32,
    pub pad: u32,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Listener {}

// SAFETY: as above, and the head comes first.
unsafe impl Record for Listener {}

/// What opens tell of a listener in an interval.
#[derive(Clone, Copy)]
pub(super) struct Opens {
    pub accepts: u64,
    pub high: u32,
    pub max: u32,
}

/// What is not known of a listener that has been closed.
pub(super) const CLOSED: queues = queues {
    oldest_wait_us: TIME_UNKNOWN,
    syn_cookie_us: TIME_UNKNOWN,
    first: 0,
    group: 0,
    accept_queue: UNKNOWN,
    accept_queue_max: UNKNOWN,
    syn_queue: UNKNOWN,
    syn_queue_max: UNKNOWN,
    fastopen_queue: UNKNOWN,
    fastopen_queue_max: UNKNOWN,
    drops: UNKNOWN,
    group_size: 0,
    syncookies: 0,
    pad: 0,
};

impl Listener {
    /// Of a closed listener only its opens are known.
    pub fn closed(head: head, opens: Opens, interval_us: u64) -> Self {
        let queues = queues {
            accept_queue_max: opens.max,
            ..CLOSED
        };
        Self {
            head,
            queues,
            interval_us,
            accepts: opens.accepts,
            group: 0,
            accept_queue_high: opens.high,
            new_drops: UNKNOWN,
            verdict: 0,
            pad: 0,
        }
    }

    pub fn open(now: &listener_now, past: Past, opens: Opens, interval_us: u64) -> Self {
        let queues = now.queues;
        let high = known(opens.high).unwrap_or(0);
        // Fewer are those of another socket, where sockets have no cookies.
        let new_drops = queues.drops.checked_sub(past.drops).unwrap_or(queues.drops);
        let seen = Seen {
            stuck: queues.first != 0 && queues.first == past.first,
            accept_queue: known(queues.accept_queue).map(|queue| queue.max(high)),
            accept_queue_max: known(queues.accept_queue_max),
            syn_queue: known(queues.syn_queue),
            syn_queue_max: known(queues.syn_queue_max),
            syncookies: queues.syncookies,
            new_drops: known(queues.drops).map(|_| new_drops),
            syn_cookie_us: Some(queues.syn_cookie_us).filter(|&us| us != TIME_UNKNOWN),
            interval_us,
        };
        let past_high = known(queues.accept_queue).map(|queue| queue.max(high));
        Self {
            head: *now.head(),
            queues,
            interval_us,
            accepts: opens.accepts,
            group: 0,
            accept_queue_high: past_high.unwrap_or(UNKNOWN),
            new_drops: seen.new_drops.unwrap_or(UNKNOWN),
            verdict: Verdict::of(&seen) as u32,
            pad: 0,
        }
    }

    /// How full the fuller queue is, in thousandths.
    fn fill(&self) -> u64 {
        let q = &self.queues;
        let of = |queue, max| match (known(queue), known(max)) {
            (Some(queue), Some(max)) => u64::from(queue) * 1000 / (u64::from(max) + 1),
            _ => 0,
        };
        of(q.accept_queue, q.accept_queue_max).max(of(q.syn_queue, q.syn_queue_max))
    }

    /// The worst comes first: by verdict, how full it is, what it dropped.
    pub fn by_trouble(&self) -> impl Ord + use<> {
        let drops = known(self.new_drops).unwrap_or(0);
        let total = known(self.queues.drops).unwrap_or(0);
        let worst = Reverse((self.verdict, self.fill(), drops, total));
        (worst, self.head.flow.lport, self.head.cookie)
    }
}

/// `None` for `UNKNOWN`.
pub(super) fn known(number: u32) -> Option<u32> {
    Some(number).filter(|&number| number != UNKNOWN)
}

/// Of an earlier reading.
#[derive(Clone, Copy, Default)]
pub(super) struct Past {
    pub drops: u32,
    pub first: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(cookie: u64, queue: u32, drops: u32, first: u64) -> listener_now {
        let mut now = listener_now::default();
        now.head.cookie = cookie;
        now.address = cookie;
        now.queues = queues {
            accept_queue: queue,
            accept_queue_max: 4,
            drops,
            first,
            syn_queue: 0,
            syn_queue_max: 4,
            ..CLOSED
        };
        now
    }

    const NONE: Opens = Opens {
        accepts: 0,
        high: UNKNOWN,
        max: UNKNOWN,
    };

    fn verdict(past: Past, now: &listener_now) -> Option<&'static str> {
        Verdict::name(Listener::open(now, past, NONE, 1_000_000).verdict)
    }

    #[test]
    fn queue_that_nobody_takes_from_is_told_from_one_that_moves() {
        let past = Past { drops: 7, first: 3 };
        assert_eq!(verdict(past, &now(1, 1, 7, 3)), Some("not accepting"));
        assert_eq!(verdict(past, &now(1, 1, 7, 4)), None);
        assert_eq!(verdict(Past::default(), &now(1, 0, 0, 0)), None);
    }

    #[test]
    fn only_new_drops_count() {
        let past = Past { drops: 7, first: 0 };
        assert_eq!(verdict(past, &now(1, 0, 7, 0)), None);
        assert_eq!(verdict(past, &now(1, 0, 8, 0)), Some("dropping"));
        let row = Listener::open(&now(1, 0, 5, 0), past, NONE, 1);
        assert_eq!(row.new_drops, 5);
    }

    #[test]
    fn worst_comes_first() {
        let row = |cookie, queue, drops, first| {
            let past = Past { drops: 7, first: 3 };
            Listener::open(&now(cookie, queue, drops, first), past, NONE, 1_000_000)
        };
        let mut rows = [
            row(1, 0, 7, 0),
            row(2, 3, 7, 0),
            row(3, 2, 9, 0),
            row(4, 5, 9, 0),
            row(5, 1, 7, 3),
            row(6, 4, 9, 3),
            row(7, 2, 12, 0),
        ];
        rows.sort_by_cached_key(Listener::by_trouble);
        let order = rows.map(|row| row.head.cookie);
        assert_eq!(order, [6, 5, 4, 7, 3, 2, 1]);
    }
}
