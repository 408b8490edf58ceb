// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's reasons for throwing a segment away: their names, and which of them are shown.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::cli::explain::{self, Explained, is_named};
use crate::cli::filter::split;
use crate::error::Usage;
use crate::kernel::enums::Names;
use anyhow::{Result, bail};

use super::explained::EXPLAINED;

/// Numbers move between releases, so names are the running kernel's.
static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::from_kernel("skb_drop_reason", "SKB_DROP_REASON_"));

/// The subsystems that have reasons of their own, in the upper half of the number (5.18).
static SUBSYSTEMS: LazyLock<Names> =
    LazyLock::new(|| Names::from_kernel("skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_"));

/// What is in the enum, and no reason.
const NO_REASONS: [&str; 2] = ["MAX", "SUBSYS_MASK"];

/// Reasons that mean nothing bad, which are shown on request only: the segment has done what it is for, it says what is
/// known already, it is a copy, or what it was for is gone.
pub(super) const HARMLESS: [&str; 11] = [
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

/// A bit for each reason below 256: `hidden` of tcpdrop.bpf.c.
type Bits = [u64; 4];

/// Reads the names, before the first row.
pub(super) fn load() {
    LazyLock::force(&NAMES);
    LazyLock::force(&SUBSYSTEMS);
}

/// The kernel's name of a reason. `None` where it gives none: before 5.17.
pub(super) fn name(reason: i32) -> Option<&'static str> {
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

/// The reasons of this kernel, or all that are explained if it has no list.
fn all() -> Vec<&'static str> {
    let mut all = NAMES.all();
    all.retain(|name| !NO_REASONS.contains(name));
    match all.is_empty() {
        true => EXPLAINED.iter().map(|e| e.0).collect(),
        false => all,
    }
}

/// Whether the kernel gives reasons.
pub(super) fn are_given() -> bool {
    !NAMES.all().is_empty()
}

/// `--reason`: names of reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reasons {
    negate: bool,
    names: Vec<String>,
}

impl FromStr for Reasons {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negate, names) = split(text)?;
        let names = names.into_iter().map(str::to_owned).collect();
        Ok(Self { negate, names })
    }
}

/// Which reasons are hidden: a bit for each that has a small number, and what is done with the others.
pub(super) struct Hidden {
    pub(super) bits: Bits,
    pub(super) others: bool,
}

impl Hidden {
    /// # Errors
    /// When a name is none of a reason of this kernel.
    pub(super) fn new(all: bool, wanted: Option<&Reasons>) -> Result<Self> {
        let Some(wanted) = wanted else {
            let harmless = HARMLESS.iter().filter_map(|name| NAMES.number(name));
            let none = Self {
                bits: [0; 4],
                others: false,
            };
            return Ok(if all { none } else { none.with(harmless) });
        };
        if !are_given() {
            bail!(Usage(
                "--reason: this kernel gives no reason for a drop (before 5.17)".into()
            ));
        }
        let numbers = wanted.names.iter().map(|name| number(name));
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        let named = Self {
            bits: [0; 4],
            others: !wanted.negate,
        };
        let mut named = named.with(numbers.into_iter());
        if !wanted.negate {
            named.bits = named.bits.map(|word| !word);
        }
        Ok(named)
    }

    fn with(mut self, numbers: impl Iterator<Item = i64>) -> Self {
        for number in numbers {
            let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
            if let Some(word) = self.bits.get_mut(word) {
                *word |= 1 << (number % 64);
            }
        }
        self
    }
}

/// A sentence about a name that no reason has: with those that have it in theirs.
fn unknown(wanted: &str, all: &[&str]) -> String {
    let part = wanted.to_ascii_uppercase();
    let alike = all.iter().copied().filter(|name| name.contains(&part));
    let alike: Vec<_> = alike.take(5).collect();
    let meant = match alike.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", alike.join(" or ")),
    };
    format!("this kernel has no reason '{wanted}'{meant} (tcpdrop --explain lists all)")
}

/// The number of a reason by its name, in any case, with or without `TCP_`.
fn number(wanted: &str) -> Result<i64> {
    let all = all();
    let named = all.iter().find(|name| is_named(name, wanted));
    match named.and_then(|name| NAMES.number(name)) {
        Some(number) => Ok(number),
        None => bail!(Usage(format!("--reason: {}", unknown(wanted, &all)))),
    }
}

/// `--explain`: one reason, or all of this kernel that a TCP segment can meet.
///
/// # Errors
/// When there is no such reason, or nothing can be written.
pub(super) fn explain(reason: Option<&str>) -> Result<()> {
    let all = all();
    let wanted = match reason {
        None => all,
        Some(wanted) => {
            let of_kernel = all.iter().copied();
            let known = EXPLAINED.iter().map(|e| e.0);
            let found = of_kernel.chain(known).find(|name| is_named(name, wanted));
            match found {
                Some(name) => vec![name],
                None => bail!(Usage(unknown(wanted, &all))),
            }
        }
    };
    let known = |name: &str| EXPLAINED.iter().find(|e| e.0 == name);
    let newer = (
        "A reason that TCP segments are not known to meet, or that is newer than this command.",
        "include/net/dropreason-core.h of the kernel.",
    );
    let titled = wanted.into_iter().filter_map(|name| {
        let texts = known(name).map(|e| (e.1, e.2));
        let texts = texts.or(reason.map(|_| newer))?;
        let title = match HARMLESS.contains(&name) {
            true => format!("{name} (harmless: shown with --all or --reason only)"),
            false => name.to_owned(),
        };
        Some((title, texts))
    });
    let all: Vec<_> = titled.collect();
    explain::print(
        all.iter()
            .map(|(title, (cause, look))| Explained(title, cause, look)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_harmless_reason_is_explained() {
        for name in HARMLESS {
            assert!(EXPLAINED.iter().any(|e| e.0 == name), "{name}");
        }
    }

    #[test]
    fn each_reason_is_explained_once() {
        let mut names: Vec<_> = EXPLAINED.iter().map(|e| e.0).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn every_reason_of_tcp_is_explained() {
        for name in all().into_iter().filter(|name| name.starts_with("TCP_")) {
            assert!(EXPLAINED.iter().any(|e| e.0 == name), "{name}");
        }
    }

    #[test]
    fn lists_hide_what_they_do_not_name() {
        if !are_given() {
            return;
        }
        let hidden = |all, list: Option<&str>| {
            let list = list.map(|list| list.parse::<Reasons>().unwrap());
            Hidden::new(all, list.as_ref())
        };
        let hides = |hidden: &Hidden, name: &str| {
            let number = NAMES.number(name).unwrap() as usize;
            hidden.bits[number / 64] >> (number % 64) & 1 != 0
        };
        let usual = hidden(false, None).unwrap();
        assert!(hides(&usual, "TCP_CLOSE") && !hides(&usual, "NO_SOCKET") && !usual.others);
        assert_eq!(hidden(true, None).unwrap().bits, [0; 4]);
        let only = hidden(false, Some("netfilter_drop,csum")).unwrap();
        assert!(!hides(&only, "NETFILTER_DROP") && !hides(&only, "TCP_CSUM"));
        assert!(hides(&only, "NO_SOCKET") && only.others);
        let but = hidden(false, Some("!NO_SOCKET")).unwrap();
        assert!(hides(&but, "NO_SOCKET") && !hides(&but, "TCP_CLOSE") && !but.others);
        let unknown = hidden(false, Some("rpfilter")).err().unwrap().to_string();
        assert!(
            unknown.contains("'rpfilter'") && unknown.contains("IP_RPFILTER"),
            "{unknown}"
        );
    }

    #[test]
    fn unnamed_reasons_are_numbers() {
        assert_eq!(name(-1), None);
        assert_eq!(name(65_000), Some("65000"));
        if SUBSYSTEMS.number("OPENVSWITCH").is_some() {
            let number = SUBSYSTEMS.number("OPENVSWITCH").unwrap() as i32;
            assert_eq!(name(number << 16 | 3), Some("OPENVSWITCH_3"));
        }
    }
}
