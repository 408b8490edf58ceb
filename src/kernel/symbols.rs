// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel stacks (`bpf/common/stack.bpf.h`), with the names that /proc/kallsyms has for their addresses.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fmt;
use std::sync::OnceLock;

/// The kernel's functions: the address where each begins, sorted.
#[derive(Default)]
pub(crate) struct Symbols(Vec<(u64, Box<str>)>);

static SYMBOLS: OnceLock<Symbols> = OnceLock::new();

/// Reads the kernel's symbols, once. Call it before privileges are dropped: unprivileged readers see zeros.
///
/// False when the addresses are hidden (`kernel.kptr_restrict`) or there is no /proc/kallsyms: then stacks are numbers.
pub fn load_symbols() -> bool {
    let symbols = SYMBOLS.get_or_init(|| {
        // A symbol that is not UTF-8, in a module, must not hide all others.
        let text = std::fs::read("/proc/kallsyms").unwrap_or_default();
        Symbols::parse(&String::from_utf8_lossy(&text))
    });
    !symbols.0.is_empty()
}

impl Symbols {
    pub(crate) fn parse(text: &str) -> Self {
        let function = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let code = address != 0 && matches!(kind, "t" | "T" | "w" | "W");
            code.then_some((address, words.next()?.into()))
        };
        let mut all: Vec<_> = text.lines().filter_map(function).collect();
        all.sort_by_key(|&(address, _)| address);
        Self(all)
    }

    pub(crate) fn find(&self, address: u64) -> Option<(&str, u64)> {
        let after = self.0.partition_point(|&(start, _)| start <= address);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        Some((name, address.checked_sub(*start)?))
    }
}

/// The function that a call returns to, by the address behind the call; `None` where no name is known.
pub fn caller(address: u64) -> Option<&'static str> {
    // A call may be the last instruction of its function.
    let (name, _) = SYMBOLS.get()?.find(address.checked_sub(1)?)?;
    Some(name)
}

/// One call: `tcp_write_timer+0x6b`, or its address where no name is known.
pub struct Frame(u64);

impl Frame {
    fn name(&self) -> Option<(&'static str, u64)> {
        SYMBOLS.get()?.find(self.0)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}"),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// The calls of a stack, without those of the tracing itself.
pub fn frames(stack: &[u64]) -> impl Iterator<Item = Frame> {
    let stack = stack.split(|&address| address == 0).next();
    let stack = stack.unwrap_or_default();
    let tracing = |&address: &u64| {
        Frame(address).name().is_some_and(|(name, _)| {
            ["bpf_trace_run", "__bpf_trace_", "__traceiter_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
    };
    let own = stack.rsplit(tracing).next().unwrap_or_default();
    own.iter().map(|&a| Frame(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "ffffffff81000200 T tcp_b\nffffffff81000100 t tcp_a\n\
        ffffffff81000180 d data\nffffffffc0000000 t in_module\t[mod]\n";

    #[test]
    fn address_resolves_to_preceding_symbol() {
        let symbols = Symbols::parse(KALLSYMS);
        assert_eq!(symbols.find(0xffff_ffff_8100_0190), Some(("tcp_a", 0x90)));
        assert_eq!(symbols.find(0xffff_ffff_8100_0200), Some(("tcp_b", 0)));
        assert_eq!(symbols.find(0xffff_ffff_c000_0001), Some(("in_module", 1)));
        assert_eq!(symbols.find(1), None);
    }

    #[test]
    fn zero_addresses_are_no_symbols() {
        assert!(Symbols::parse("0000000000000000 T tcp_a\n").0.is_empty());
    }
}
