// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints that prevent a misreading of a reset, given only if the kernel or another reset proves them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::abi::names::state::{LISTEN, TIME_WAIT};
use crate::commands::tcpreset::reasons::{self, hint};

use super::bpf::types::reset;
use super::columns::is_sent;

/// Maximum number of resets kept of each kind.
const MAX_RECENT: usize = 4096;
/// How long segments of a reset connection may arrive: a retransmission or two.
const LATE_NS: u64 = 60_000_000_000;
/// Maximum time between the two resets of one broken address translation.
const TOGETHER_NS: u64 = 3_000_000_000;
const SYN: u8 = 0x02;
const RST_AND_ACK: u8 = 0x14;

type Addr = [u8; 16];
/// A local end, in its network namespace.
type Here = (u32, Addr, u16);
/// A remote end.
type There = (Addr, u16);

/// Chooses the hint of a row from the resets before it.
#[derive(Default)]
pub struct Hints {
    /// Connections that were reset.
    cut: Recent<(Here, There), ()>,
    /// Local addresses that answered a packet without a socket, other than a SYN, with its sender.
    strays: Recent<Here, There>,
    /// Local ends of active opens that received a reset, with its sender.
    own: Recent<Here, There>,
}

impl Hints {
    /// The hint of a row, an index into [`reasons::HINTS`] from 1 on; 0: none. Rows come in the order of their time.
    pub fn of(&mut self, row: &reset) -> u8 {
        let at = row.head.boot_ns;
        let flow = &row.head.flow;
        let here = (row.head.netns, flow.laddr, flow.lport);
        let there = (flow.raddr, flow.rport);
        // Of a record alone the packet is not known.
        let answers = is_sent(row) && row.trigger != 0;
        let unknown = matches!(row.state, 0 | LISTEN);
        let stray = answers && unknown && row.trigger & SYN == 0;
        let mine = !is_sent(row) && row.active != 0;
        let nobodys = stray && row.state == 0;
        let translated = (nobodys && other(self.own.get(at, TOGETHER_NS, &here), there))
            || (mine && other(self.strays.get(at, TOGETHER_NS, &here), there));
        let hint = if stray && overflows(row) {
            hint::ACCEPT_QUEUE_FULL
        } else if stray && self.cut.get(at, LATE_NS, &(here, there)).is_some() {
            hint::LATE_SEGMENT
        } else if answers && row.state == 0 && row.trigger & (SYN | RST_AND_ACK) == SYN {
            hint::NO_LISTENER
        } else if translated {
            hint::ADDRESS_TRANSLATION
        } else {
            0
        };
        if !unknown || hint == hint::ACCEPT_QUEUE_FULL {
            self.cut.put(at, (here, there), ());
        }
        if nobodys {
            self.strays.put(at, here, there);
        }
        if mine && row.state != TIME_WAIT {
            self.own.put(at, here, there);
        }
        hint
    }
}

/// The packet was to complete a handshake, and the accept queue was full. A SYN can have the same reason, and with no
/// reasons (before 6.10) an unexpected packet looks the same: then the queue alone says it.
fn overflows(row: &reset) -> bool {
    let asked = matches!(reasons::name(row.reason), None | Some("INVALID_SYN"));
    asked && row.listener != 0 && row.aborts != 0 && row.accept_queue > row.accept_queue_max
}

fn other(seen: Option<&There>, there: There) -> bool {
    seen.is_some_and(|seen| *seen != there)
}

/// The last value of each key, with its time: of the newest ones.
struct Recent<K, V> {
    last: HashMap<K, (u64, V)>,
    order: VecDeque<(u64, K)>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            last: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn put(&mut self, at: u64, key: K, value: V) {
        self.last.insert(key, (at, value));
        self.order.push_back((at, key));
        if self.order.len() > MAX_RECENT
            && let Some((put_at, key)) = self.order.pop_front()
            && self.last.get(&key).is_some_and(|(at, _)| *at == put_at)
        {
            self.last.remove(&key);
        }
    }

    fn get(&self, now: u64, within: u64, key: &K) -> Option<&V> {
        let (at, value) = self.last.get(key)?;
        (now.saturating_sub(*at) <= within).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_are_evicted() {
        let mut recent = Recent::default();
        recent.put(1, 0usize, "old");
        for at in 0..MAX_RECENT {
            recent.put(at as u64 + 2, at + 1, "new");
        }
        assert_eq!(recent.get(10, 100, &0), None);
        assert_eq!(recent.get(10, u64::MAX, &1), Some(&"new"));
        assert!(recent.last.len() <= MAX_RECENT && recent.order.len() <= MAX_RECENT);
    }

    #[test]
    fn repeated_entry_stays() {
        let mut recent = Recent::default();
        recent.put(1, 0usize, "old");
        recent.put(2, 0, "again");
        for at in 0..MAX_RECENT - 1 {
            recent.put(at as u64 + 3, at + 1, "new");
        }
        assert_eq!(recent.get(3, 10, &0), Some(&"again"));
        assert_eq!(recent.get(100, 10, &0), None, "too long ago");
    }
}
