// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's reasons for throwing a packet away: their names, and which of them mean nothing bad.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::arguments::arguments;
use crate::kernel::enums::Names;

/// Numbers move between releases, so names are the running kernel's.
static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::from_kernel("skb_drop_reason", "SKB_DROP_REASON_"));

/// The subsystems that have reasons of their own, in the upper half of the number (5.18).
static SUBSYSTEMS: LazyLock<Names> =
    LazyLock::new(|| Names::from_kernel("skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_"));

/// Reasons that mean nothing bad: the segment has done what it is for, it says what is known already, it is a copy, or
/// what it was for is gone.
pub const HARMLESS: [&str; 11] = [
    "TCP_RESET",
    "TCP_OLD_DATA",
    "TCP_OLD_SEQUENCE",
    "TCP_OLD_ACK",
    "TCP_OFOMERGE",
    "TCP_RFC7323_PAWS_ACK",
    "TCP_CLOSE",
    "SOCKET_CLOSE",
    "QUEUE_PURGE",
    "OTHERHOST",
    "PACKET_SOCK_ERROR",
];

/// A bit for each reason below 256: `hidden` of `bpf/common/kernel/reason.bpf.h`.
pub type Bits = [u64; 4];

/// Reads the names, before the first row.
pub fn load() {
    LazyLock::force(&NAMES);
    LazyLock::force(&SUBSYSTEMS);
}

/// The running kernel's names.
pub fn names() -> &'static Names {
    &NAMES
}

/// The bits of these reasons; numbers that have none are left out.
pub fn bits(numbers: impl Iterator<Item = i64>) -> Bits {
    let mut bits = Bits::default();
    for number in numbers {
        let word = usize::try_from(number.div_euclid(64)).unwrap_or(usize::MAX);
        if let Some(word) = bits.get_mut(word) {
            *word |= 1 << number.rem_euclid(64);
        }
    }
    bits
}

/// The bits of [`HARMLESS`].
pub fn harmless() -> Bits {
    bits(HARMLESS.iter().filter_map(|name| NAMES.number(name)))
}

/// Whether the tracepoint says why (since 5.17).
pub fn has_reason() -> bool {
    arguments("kfree_skb") > 2
}

/// Whether it says for which socket a packet was (since 6.11).
pub fn has_socket() -> bool {
    arguments("kfree_skb") > 3
}

/// The kernel's name of a reason. `None` where it gives none: before 5.17.
pub fn name(reason: i32) -> Option<&'static str> {
    if reason < 0 {
        return None;
    }
    NAMES
        .get(reason.into())
        .or_else(|| Some(other_name(reason)))
}

/// Of a subsystem, as `OPENVSWITCH_3`; a number, where not even that is known. There are few.
fn other_name(reason: i32) -> &'static str {
    static KEPT: LazyLock<Mutex<HashMap<i32, &'static str>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.entry(reason).or_insert_with(|| {
        let (subsystem, number) = (reason >> 16, reason & 0xffff);
        let name = match SUBSYSTEMS.get(subsystem.into()) {
            Some(name) if subsystem != 0 => format!("{name}_{number}"),
            _ => reason.to_string(),
        };
        name.leak()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_reasons_are_numbers() {
        assert_eq!(name(-1), None);
        assert_eq!(name(65_000), Some("65000"));
        if let Some(number) = SUBSYSTEMS.number("OPENVSWITCH") {
            assert_eq!(name((number as i32) << 16 | 3), Some("OPENVSWITCH_3"));
        }
    }

    #[test]
    fn only_small_numbers_have_a_bit() {
        assert_eq!(bits([0, 65, 256, -1].into_iter()), [1, 2, 0, 0]);
    }
}
