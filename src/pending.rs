// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to look for opens that nobody answers: only when some have waited long enough (`bpf/tcpconnect.bpf.c`).
//!
//! The kernel half counts the opens under way by when they began, in slots of a wheel; an iterator shows those that are
//! old. So a walk over the sockets happens only when there is something to find.

use std::time::Duration;

use anyhow::Result;
use libbpf_rs::MapMut;

use crate::clock::boot_ns;
use crate::holders::Holders;
use crate::interval::Interval;
use crate::table::Table;

/// `SLOTS` of tcpconnect.bpf.c.
const SLOTS: usize = 64;

/// A walk may pass over an open whose SYN still waits (Fast Open), and one may take the place of another in its slot
/// unseen: look again after so long, while there are old opens.
const AGAIN: Duration = Duration::from_secs(5);

type Slots = [u64; SLOTS];

/// How many powers of two of nanoseconds a slot is wide, when opens are old after `after`: a sixteenth of it or less.
pub fn slot_shift(after: Duration) -> u32 {
    (after.as_nanos() as u64 / 16).max(1 << 12).ilog2()
}

/// Walks over the sockets when opens have become old.
pub struct Pending {
    sockets: Holders,
    opens: Table,
    after: Duration,
    /// How many of each slot need not be looked for again.
    known: Slots,
    /// Opens that began before the trace are in no slot: one walk is for them.
    walked: bool,
    /// Since the last walk, or the first tick: sockets of before were looked for until then, which may take long.
    again: Option<Interval>,
}

impl Pending {
    /// `sockets`: the iterator; `opens`: the wheel; `after`: the age at which an open is old.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn new(sockets: Holders, opens: &MapMut<'_>, after: Duration) -> Result<Self> {
        Ok(Self {
            sockets,
            opens: Table::new(opens)?,
            after,
            known: [0; SLOTS],
            walked: false,
            again: None,
        })
    }

    /// See [`Holders::unvisited`].
    pub fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }

    /// Looks whether a walk is due, and walks. What it finds comes through the ring buffer.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn tick(&mut self) -> Result<()> {
        let first = || Interval::new(Some(self.after));
        let again = self.again.get_or_insert_with(first).has_passed();
        let now = self.counts()?;
        for (known, now) in self.known.iter_mut().zip(now) {
            *known = now.min(*known);
        }
        let old = old_slots(boot_ns(), self.after);
        let news = |slot: usize| now[slot] > self.known[slot] || again && now[slot] != 0;
        let due = match self.walked {
            false => again,
            true => old.clone().any(news),
        };
        if due {
            self.walked = true;
            self.again = Some(Interval::new(Some(self.after.max(AGAIN))));
            self.sockets.run()?;
            old.for_each(|slot| self.known[slot] = now[slot]);
        }
        Ok(())
    }

    fn counts(&mut self) -> Result<Slots> {
        let mut now = [0; SLOTS];
        if let Some((_, value)) = self.opens.read()?.first() {
            for (to, from) in now.iter_mut().zip(value.chunks_exact(8)) {
                *to = u64::from_ne_bytes(from.try_into()?);
            }
        }
        Ok(now)
    }
}

/// The slots in which every open is old.
fn old_slots(boot_ns: u64, after: Duration) -> impl Iterator<Item = usize> + Clone {
    let shift = slot_shift(after);
    let current = boot_ns >> shift;
    let young = (after.as_nanos() as u64 >> shift) + 2;
    (young..SLOTS as u64).map(move |age| (current.wrapping_sub(age) % SLOTS as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_old_when_all_in_it_are_and_not_much_later() {
        for ms in [1, 50, 1000, 60_000] {
            let after = Duration::from_millis(ms);
            let shift = slot_shift(after);
            let began = 1_000_000_123_456u64;
            let slot = (began >> shift) as usize % SLOTS;
            let after_ns = after.as_nanos() as u64;
            let is_old = |age| old_slots(began + age, after).any(|old| old == slot);
            assert!(
                !is_old(0) && !is_old(after_ns / 2) && !is_old(after_ns),
                "{ms}"
            );
            let late = after_ns / 4;
            assert!(
                is_old(after_ns + late) && is_old(after_ns + 2 * late),
                "{ms}"
            );
        }
    }
}
