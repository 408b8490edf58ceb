// SPDX-License-Identifier: MIT OR Apache-2.0
//! What refused a packet or an allocation.

use crate::abi::known::KNOWN_CAUSE;

use super::bpf::types::{self, overflow};

crate::enumerators! { types::event_kind as u16:
    pub(super) RCVQUEUE_FULL = RCVQUEUE_FULL,
    pub(super) EXCEED_BUF_LIMIT = EXCEED_BUF_LIMIT,
    pub(super) UDP_FAIL_QUEUE = UDP_FAIL_QUEUE,
}

/// What refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// The socket's own receive buffer is full.
    RcvBuf,
    /// All sockets of the protocol are over the host's limit.
    MemMax,
    /// They are near it, and this one has more than its guaranteed minimum.
    Pressure,
    /// The memory cgroup.
    MemCg,
}

impl Cause {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RcvBuf => "rcvbuf",
            Self::MemMax => "mem_max",
            Self::Pressure => "pressure",
            Self::MemCg => "memcg",
        }
    }

    /// Of a row; `None`: what is known of it does not tell.
    pub(super) fn of(body: &overflow) -> Option<Self> {
        if body.head.event != EXCEED_BUF_LIMIT {
            return Some(Self::RcvBuf);
        }
        let pressure = (body.head.known & KNOWN_CAUSE != 0).then_some(body.pressure != 0);
        Self::of_limit(body.allocated, &body.mem, body.shift, pressure)
    }

    /// Why `__sk_mem_raise_allocated()` refused, from what it compares (net/core/sock.c). `allocated`: by all sockets of the
    /// protocol, in pages << `shift`; `mem`: its limits in pages, as net.ipv4.tcp_mem; `pressure`: whether the protocol is
    /// under memory pressure, if that is known.
    pub(super) fn of_limit(
        allocated: i64,
        mem: &[i64; 3],
        shift: u8,
        pressure: Option<bool>,
    ) -> Option<Self> {
        let unit = 1i64.checked_shl(shift.into()).unwrap_or(i64::MAX);
        let limit = |pages: i64| pages.saturating_mul(unit);
        match pressure {
            _ if allocated > limit(mem[2]) => Some(Self::MemMax),
            _ if allocated <= limit(mem[0]) => Some(Self::MemCg),
            Some(true) => Some(Self::Pressure),
            Some(false) => Some(Self::MemCg),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_follows_from_numbers_and_pressure() {
        use Cause::*;
        for (allocated, shift, pressure, cause) in [
            (31, 0, None, Some(MemMax)),
            (31, 0, Some(false), Some(MemMax)),
            (30, 0, Some(true), Some(Pressure)),
            (30, 0, Some(false), Some(MemCg)),
            (11, 0, None, None),
            (10, 0, None, Some(MemCg)),
            (10, 0, Some(true), Some(MemCg)),
            (481, 4, None, Some(MemMax)),
            (480, 4, Some(true), Some(Pressure)),
            (161, 4, None, None),
            (160, 4, None, Some(MemCg)),
        ] {
            let actual = Cause::of_limit(allocated, &[10, 20, 30], shift, pressure);
            assert_eq!(actual, cause, "{allocated} {shift} {pressure:?}");
        }
        assert_eq!(
            Cause::of_limit(1, &[i64::MAX; 3], 4, None),
            Some(Cause::MemCg)
        );
    }

    /// Over all small inputs: knowing the pressure only ever adds to what the numbers tell, and more memory never makes
    /// it less the host's limit.
    #[test]
    fn missing_facts_never_change_cause() {
        let of = |allocated, low, max, pressure| {
            Cause::of_limit(allocated, &[low, low, max], 0, pressure)
        };
        for (low, max) in (0..6).flat_map(|low| (low..6).map(move |max| (low, max))) {
            for allocated in 0..8 {
                let unknown = of(allocated, low, max, None);
                for pressure in [true, false] {
                    let known = of(allocated, low, max, Some(pressure));
                    assert!(known.is_some() && (unknown.is_none() || unknown == known));
                    let over = |n| of(n, low, max, Some(pressure)) == Some(Cause::MemMax);
                    assert!(!over(allocated) || over(allocated + 1));
                }
                assert_eq!(unknown.is_none(), allocated > low && allocated <= max);
            }
        }
    }
}
