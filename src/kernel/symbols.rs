// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel stacks (`bpf/common/stack.bpf.h`), with the names that /proc/kallsyms has for their addresses.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::{Mutex, Once, OnceLock};
use std::thread::{self, JoinHandle};

use super::privileges;

const KALLSYMS: &str = "/proc/kallsyms";

/// The kernel's functions, by the address where each begins.
#[derive(Default)]
pub(crate) struct Symbols {
    sorted: Vec<Symbol>,
    /// All names, one behind the other.
    names: String,
}

/// A function, and where its name is in `names`.
struct Symbol {
    address: u64,
    begin: u32,
    end: u32,
}

static SYMBOLS: OnceLock<Symbols> = OnceLock::new();
/// Who reads them now.
static READER: Mutex<Option<JoinHandle<Symbols>>> = Mutex::new(None);

/// Begins to read the kernel's symbols, once, for [`load_symbols`]. Call it before privileges are dropped: the kernel shows
/// zeros to whoever opens the file without them (`kernel/kallsyms.c: kallsyms_open`).
///
/// `now`: waits for them, because much memory is asked for next. Where a cgroup has too little, the kernel refuses a
/// buffer, but kills for a page that a process touches meanwhile (`mm/memcontrol.c: try_charge_memcg`, `__GFP_NORETRY`).
pub fn begin(now: bool) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        if File::open(KALLSYMS).is_ok_and(|file| are_shown(BufReader::new(file))) {
            read_beside();
        }
    });
    if now {
        symbols();
    }
}

/// Waits for the kernel's symbols, so that no row has to.
///
/// False when the addresses are hidden (`kernel.kptr_restrict`) or there is no /proc/kallsyms: then stacks are numbers.
pub fn load_symbols() -> bool {
    begin(false);
    symbols().is_some_and(|symbols| !symbols.sorted.is_empty())
}

/// Whether the first function has an address: data may lie at 0.
fn are_shown(mut kallsyms: impl BufRead) -> bool {
    let mut line = Vec::new();
    let mut first = None;
    while first.is_none() && next_line(&mut kallsyms, &mut line) {
        first = function(&String::from_utf8_lossy(&line)).map(|(address, _)| address != 0);
    }
    first.unwrap_or(false)
}

/// The kernel prints 5 MB in about 50 ms: a command loads its programs meanwhile.
fn read_beside() {
    let Ok(file) = File::open(KALLSYMS) else {
        return;
    };
    let body = move || {
        privileges::drop_all();
        Symbols::read(BufReader::with_capacity(64 * 1024, file))
    };
    match (thread::Builder::new().spawn(body), READER.lock()) {
        (Ok(thread), Ok(mut reader)) => *reader = Some(thread),
        // There may be no more threads.
        _ => {
            let _ =
                File::open(KALLSYMS).map(|file| SYMBOLS.set(Symbols::read(BufReader::new(file))));
        }
    }
}

/// Waits for them, if they were begun.
fn symbols() -> Option<&'static Symbols> {
    SYMBOLS.get().or_else(|| {
        if let Some(thread) = READER.lock().ok()?.take() {
            let _ = SYMBOLS.set(thread.join().unwrap_or_default());
        }
        SYMBOLS.get()
    })
}

/// False at the end, and after an error.
fn next_line(kallsyms: &mut impl BufRead, line: &mut Vec<u8>) -> bool {
    line.clear();
    kallsyms.read_until(b'\n', line).is_ok_and(|n| n > 0)
}

/// The address and name of a line's symbol, if that is a function.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let code = matches!(words.next()?, "t" | "T" | "w" | "W");
    code.then_some((address, words.next()?))
}

impl Symbols {
    pub(crate) fn read(mut kallsyms: impl BufRead) -> Self {
        let mut all = Self::default();
        let mut line = Vec::new();
        while next_line(&mut kallsyms, &mut line) {
            // A symbol that is not UTF-8, in a module, must not hide all others.
            let text = String::from_utf8_lossy(&line);
            if let Some((address, name)) = function(&text).filter(|&(address, _)| address != 0) {
                all.add(address, name);
            }
        }
        all.sorted.sort_by_key(|symbol| symbol.address);
        all
    }

    /// What is beyond 4 GB of names is left out.
    fn add(&mut self, address: u64, name: &str) {
        let begin = self.names.len();
        if let (Ok(begin), Ok(end)) = (
            begin.try_into(),
            begin.saturating_add(name.len()).try_into(),
        ) {
            self.names.push_str(name);
            self.sorted.push(Symbol {
                address,
                begin,
                end,
            });
        }
    }

    pub(crate) fn find(&self, address: u64) -> Option<(&str, u64)> {
        let after = self.sorted.partition_point(|s| s.address <= address);
        let symbol = self.sorted.get(after.checked_sub(1)?)?;
        let name = self.names.get(symbol.begin as usize..symbol.end as usize)?;
        Some((name, address.checked_sub(symbol.address)?))
    }
}

/// The function that a call returns to, by the address behind the call; `None` where no name is known.
pub fn caller(address: u64) -> Option<&'static str> {
    // A call may be the last instruction of its function.
    let (name, _) = symbols()?.find(address.checked_sub(1)?)?;
    Some(name)
}

/// One call: `tcp_write_timer+0x6b`, or its address where no name is known.
pub struct Frame(u64);

impl Frame {
    fn name(&self) -> Option<(&'static str, u64)> {
        symbols()?.find(self.0)
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

    const KERNEL: &[u8] = b"ffffffff81000200 T tcp_b\nffffffff81000100 t tcp_a\n\
        0000000000000000 A percpu\nffffffff81000180 d data\nffffffffc0000000 t in_module\t[mod]\n";

    #[test]
    fn address_resolves_to_preceding_symbol() {
        let symbols = Symbols::read(KERNEL);
        assert_eq!(symbols.find(0xffff_ffff_8100_0190), Some(("tcp_a", 0x90)));
        assert_eq!(symbols.find(0xffff_ffff_8100_0200), Some(("tcp_b", 0)));
        assert_eq!(symbols.find(0xffff_ffff_c000_0001), Some(("in_module", 1)));
        assert_eq!(symbols.find(1), None);
    }

    #[test]
    fn zero_addresses_are_no_symbols() {
        let hidden = b"0000000000000000 A percpu\n0000000000000000 T tcp_a\n";
        assert!(Symbols::read(&hidden[..]).sorted.is_empty());
        assert!(!are_shown(&hidden[..]) && are_shown(KERNEL) && !are_shown(&b""[..]));
    }
}
