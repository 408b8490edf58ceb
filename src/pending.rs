// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to look for opens that nobody answers: only when some have waited long enough (`bpf/tcpconnect.bpf.c`).
//!
//! The kernel half counts the opens under way by when they began, in slots of a wheel; an iterator shows those that are
//! old, and tells in which slot each is. So a walk over the sockets happens only when there is something to find.

use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::{Link, MapMut};

use crate::clock::boot_ns;
use crate::count::Table;
use crate::iter;

/// `SLOTS` of tcpconnect.bpf.c.
const SLOTS: usize = 64;

/// An open whose SYN waits (Fast Open) is found by a walk and may become old later: look again after so long.
const AGAIN: Duration = Duration::from_secs(5);

type Slots = [u64; SLOTS];

/// How many powers of two of nanoseconds a slot is wide, when opens are old after `after`: a sixteenth of it or less.
pub fn slot_shift(after: Duration) -> u32 {
    (after.as_nanos() as u64 / 16).max(1 << 12).ilog2()
}

/// Walks over the sockets when opens have become old.
pub struct Pending {
    link: Link,
    opens: Table,
    after: Duration,
    /// What the last walk found: it need not be looked for again.
    seen: Slots,
    walked: Option<Instant>,
    started: Instant,
}

impl Pending {
    /// `link`: the iterator; `opens`: the wheel; `after`: the age at which an open is old.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn new(link: Link, opens: &MapMut<'_>, after: Duration) -> Result<Self> {
        Ok(Self {
            link,
            opens: Table::new(opens)?,
            after,
            seen: [0; SLOTS],
            walked: None,
            started: Instant::now(),
        })
    }

    /// Looks whether a walk is due, and walks. What it finds comes through the ring buffer.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn tick(&mut self) -> Result<()> {
        // Opens that began before the trace are in no slot: one walk is for them.
        let due = match self.walked {
            None => self.started.elapsed() > self.after,
            Some(walked) => {
                let again = walked.elapsed() > self.after.max(AGAIN);
                is_due(&self.counts()?, &self.seen, boot_ns(), self.after, again)
            }
        };
        if due {
            self.walked = Some(Instant::now());
            self.seen = [0; SLOTS];
            let found = iter::run(&self.link)?;
            for slot in found {
                if let Some(n) = self.seen.get_mut(usize::from(slot)) {
                    *n += 1;
                }
            }
        }
        Ok(())
    }

    fn counts(&self) -> Result<Slots> {
        let mut now = [0; SLOTS];
        if let Some((_, value)) = self.opens.read()?.first() {
            for (to, from) in now.iter_mut().zip(value.chunks_exact(8)) {
                *to = u64::from_ne_bytes(from.try_into()?);
            }
        }
        Ok(now)
    }
}

/// Whether an old slot has other opens than the last walk found there; or any, if it is time to look again.
fn is_due(now: &Slots, seen: &Slots, boot_ns: u64, after: Duration, again: bool) -> bool {
    let shift = slot_shift(after);
    let current = boot_ns >> shift;
    let young = (after.as_nanos() as u64 >> shift) + 2;
    let mut old =
        (young..SLOTS as u64).map(|age| (current.wrapping_sub(age) % SLOTS as u64) as usize);
    old.any(|slot| now[slot] != seen[slot] || again && now[slot] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_opens_ask_for_a_walk() {
        for ms in [1, 50, 1000, 60_000] {
            let after = Duration::from_millis(ms);
            let shift = slot_shift(after);
            assert!(after.as_nanos() as u64 >> shift < SLOTS as u64 - 4, "{ms}");
            let began = 1_000_000_000_000u64;
            let slot = (began >> shift) as usize % SLOTS;
            let (mut now, seen) = ([0; SLOTS], [0; SLOTS]);
            now[slot] = 1;
            let after_ns = after.as_nanos() as u64;
            let due = |seen: &Slots, ns, again| is_due(&now, seen, began + ns, after, again);
            assert!(!due(&seen, 0, true) && !due(&seen, after_ns, true));
            let late = after_ns + (after_ns / 8).max(1 << 14);
            assert!(due(&seen, late, false), "{ms}");
            assert!(!due(&now, late, false) && due(&now, late, true));
        }
    }
}
