// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's reasons for throwing a segment away: their names, and which of them are shown.

use std::str::FromStr;

use crate::cli::explain::{self, Explained, is_named};
use crate::cli::filter::split;
use crate::error::Usage;
use crate::kernel::tracepoints::drops::{Bits, HARMLESS, bits, harmless, names};
pub(super) use crate::kernel::tracepoints::drops::{load, name};
use anyhow::{Result, bail};

use super::explained::EXPLAINED;

/// What is in the enum, and no reason.
const NO_REASONS: [&str; 2] = ["MAX", "SUBSYS_MASK"];

/// The reasons of this kernel, or all that are explained if it has no list.
fn all() -> Vec<&'static str> {
    let mut all = names().all();
    all.retain(|name| !NO_REASONS.contains(name));
    match all.is_empty() {
        true => EXPLAINED.iter().map(|e| e.0).collect(),
        false => all,
    }
}

/// Whether the kernel gives reasons.
pub(super) fn are_given() -> bool {
    !names().all().is_empty()
}

/// Whether the kernel reports what TCP throws away of a connection, as `kfree_skb` (`net/ipv4/tcp_input.c:
/// tcp_drop_reason`, since 5.18, whose first reasons these are); before, `__kfree_skb` says nothing.
pub(super) fn are_of_connections() -> bool {
    names().all().contains(&"TCP_OVERWINDOW")
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
            return Ok(Self {
                bits: if all { Bits::default() } else { harmless() },
                others: false,
            });
        };
        if !are_given() {
            bail!(Usage(
                "--reason: this kernel gives no reason for a drop (before 5.17)".into()
            ));
        }
        let numbers = wanted.names.iter().map(|name| number(name));
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        let named = bits(numbers.into_iter());
        Ok(match wanted.negate {
            true => Self {
                bits: named,
                others: false,
            },
            false => Self {
                bits: named.map(|word| !word),
                others: true,
            },
        })
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
    match named.and_then(|name| names().number(name)) {
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
            let number = names().number(name).unwrap() as usize;
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
}
