// SPDX-License-Identifier: MIT OR Apache-2.0
//! The size of the table that holds the state of TCP sockets (`bpf/common/owner/table.bpf.h`).

use std::fs;

use crate::abi::types::MAX_SOCKETS;
use crate::cli::SOCKETS;

/// Slots of a bucket: `WAYS` of that header.
const WAYS: u32 = 4;

/// Room for fewer sockets is never made, unless it is asked for.
const LEAST: u32 = 16 * 1024;

/// How many sockets there is to be room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What the user asked for.
    wanted: Option<u32>,
}

impl Room {
    /// `wanted`: the argument of `--sockets`.
    pub fn new(wanted: Option<u32>) -> Self {
        Self { wanted }
    }

    /// Slots of the table, a power of two: without a number from the user, room for the TCP sockets of the whole host
    /// and half as many again.
    pub fn slots(self) -> u32 {
        let default = || {
            let open = open_sockets();
            LEAST.max(open.saturating_add(open / 2).min(*SOCKETS.end()))
        };
        self.wanted
            .unwrap_or_else(default)
            .next_power_of_two()
            .max(WAYS)
    }

    /// How many sockets are followed at the most where there is no place but a table.
    pub fn most(self) -> u32 {
        self.wanted.unwrap_or_else(|| self.slots().max(MAX_SOCKETS))
    }
}

/// TCP sockets in all network namespaces, closed ones included; 0 if that is unknown.
fn open_sockets() -> u32 {
    let text = fs::read_to_string("/proc/self/net/sockstat").unwrap_or_default();
    allocated(&text).unwrap_or(0)
}

/// `alloc` of the line `TCP:`, which counts sockets of all namespaces and of both families (net/ipv4/proc.c:
/// sockstat_seq_show).
fn allocated(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "alloc")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_all_namespaces() {
        let text =
            "sockets: used 90\nTCP: inuse 5 orphan 1 tw 2 alloc 70000 mem 3\nUDP: inuse 3 mem 2\n";
        assert_eq!(allocated(text), Some(70_000));
        assert_eq!(allocated("sockets: used 90\n"), None);
        assert_eq!(allocated("TCP: inuse 5 alloc"), None);
    }

    #[test]
    fn slots_are_powers_of_two() {
        for (wanted, slots) in [(1, 4), (5, 8), (16_384, 16_384), (16_385, 32_768)] {
            assert_eq!(Room::new(Some(wanted)).slots(), slots);
            assert_eq!(Room::new(Some(wanted)).most(), wanted);
        }
        assert_eq!(Room::new(Some(*SOCKETS.end())).slots(), *SOCKETS.end());
        let default = Room::new(None);
        assert!(default.slots() >= LEAST && default.slots().is_power_of_two());
        assert!(default.most() >= MAX_SOCKETS);
    }
}
