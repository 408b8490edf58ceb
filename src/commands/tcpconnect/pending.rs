// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to look for opens that nobody answers: only when some have waited long enough (`bpf/tcpconnect.bpf.c`).
//!
//! The kernel half counts the opens under way by when they began, in slots of a wheel; an iterator shows those that are
//! old. So a walk over the sockets happens only when there is something to find.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::MapMut;

use crate::aggregate::table::Table;
use crate::kernel::{clock::boot_ns, holders::Holders};
use crate::session::{Interval, buffer::shared::Shared};

use super::bpf::types::unanswered;

/// `SLOTS` of tcpconnect.bpf.c.
const SLOTS: usize = 64;

/// A walk may pass over an open whose SYN still waits (Fast Open), and one may take the place of another in its slot
/// unseen: look again after so long, while there are old opens.
const AGAIN: Duration = Duration::from_secs(5);

/// How often it is looked where the kernel half cannot wake the reader.
const POLL: Duration = Duration::from_millis(50);
/// The most time without opens before the next one is to wake the reader.
const QUIET: Duration = Duration::from_secs(1);
/// The least time between looks.
const LOOK: Duration = Duration::from_millis(1);

crate::enumerators! { super::bpf::types::asks as u32: ASKS_TRACE = ASKS_TRACE, ASKS_WAKE = ASKS_WAKE }

type Slots = [u64; SLOTS];

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for unanswered {}

/// How many powers of two of nanoseconds a slot is wide, when opens are old after `after`: a sixteenth of it or less.
pub fn slot_shift(after: Duration) -> u32 {
    (after.as_nanos() as u64 / 16).max(1 << 12).ilog2()
}

/// Where the kernel half counts.
enum Opens {
    /// In shared memory.
    Shared(Shared<unanswered>),
    /// In a map that is read by system call.
    Asked(Table),
}

/// Walks over the sockets when opens have become old.
pub struct Pending {
    sockets: Holders,
    opens: Opens,
    after: Duration,
    /// How many of each slot need not be looked for again.
    known: Slots,
    /// Opens that began before the trace are in no slot: one walk is for them.
    walked: bool,
    /// Since the last walk, or the first tick: sockets of before were looked for until then, which may take long.
    again: Option<Interval>,
    /// Until then no open is to begin, before the reader asks for more.
    quiet: Instant,
    due: Option<Instant>,
}

impl Pending {
    /// `sockets`: the iterator; `opens`: the wheel; `after`: the age at which an open is old.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn new(
        sockets: Holders,
        opens: &MapMut<'_>,
        shared: Option<Shared<unanswered>>,
        after: Duration,
    ) -> Result<Self> {
        let opens = match shared {
            Some(shared) => Opens::Shared(shared),
            None => Opens::Asked(Table::new(opens)?),
        };
        Ok(Self {
            sockets,
            opens,
            after,
            known: [0; SLOTS],
            walked: false,
            again: None,
            quiet: Instant::now(),
            due: None,
        })
    }

    /// See [`Holders::unvisited`].
    pub fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }

    /// When to look next; `None`: when the kernel half wakes the reader, because an open begins.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks whether a walk is due, and walks. What it finds comes through the ring buffer.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn tick(&mut self) -> Result<()> {
        let first = || Interval::new(Some(self.after));
        let again = self.again.get_or_insert_with(first).has_passed();
        let now = self.opens.counts()?;
        for (known, now) in self.known.iter_mut().zip(now) {
            *known = now.min(*known);
        }
        let boot_ns = boot_ns();
        let old = old_slots(boot_ns, self.after);
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
        self.due = self.next(boot_ns, &now);
        Ok(())
    }

    fn next(&mut self, boot_ns: u64, now: &Slots) -> Option<Instant> {
        let again = self.again.as_ref().and_then(Interval::due);
        if !self.walked {
            return again;
        }
        let unknown = |slot: usize| now[slot] > self.known[slot];
        let old = next_old(boot_ns, self.after, unknown).map(later);
        let known = old_slots(boot_ns, self.after).any(|slot| now[slot] != 0);
        let again = again.filter(|_| known);
        old.or_else(|| self.none()).into_iter().chain(again).min()
    }

    /// No open is under way that is to be looked for. Sleeps only after a time without opens: while they come, each
    /// would wake it. One that begins meanwhile is there at the next look, and no older than `after`.
    fn none(&mut self) -> Option<Instant> {
        let Opens::Shared(opens) = &self.opens else {
            return Some(later(POLL));
        };
        let (asks, passed) = (opens.asks(), Instant::now() >= self.quiet);
        match asks.load(Ordering::SeqCst) {
            ASKS_WAKE if passed => return None,
            ASKS_TRACE if passed => asks.store(ASKS_WAKE, Ordering::SeqCst),
            ASKS_WAKE | ASKS_TRACE => return Some(self.quiet),
            _ => asks.store(ASKS_TRACE, Ordering::SeqCst),
        }
        self.quiet = later(self.after.min(QUIET));
        Some(self.quiet)
    }
}

impl Opens {
    fn counts(&mut self) -> Result<Slots> {
        let table = match self {
            Self::Shared(shared) => return Ok(shared.read().opens),
            Self::Asked(table) => table,
        };
        let mut now = [0; SLOTS];
        if let Some((_, value)) = table.read()?.first() {
            for (to, from) in now.iter_mut().zip(value.chunks_exact(8)) {
                *to = u64::from_ne_bytes(from.try_into()?);
            }
        }
        Ok(now)
    }
}

impl Shared<unanswered> {
    /// What the next open is to do.
    fn asks(&self) -> &AtomicU32 {
        // SAFETY: mapped as long as the object, which outlives this; on both sides only the whole word is read and
        // written.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.as_ptr()).asks) }
    }
}

fn later(wait: Duration) -> Instant {
    Instant::now() + wait.max(LOOK)
}

/// How long it takes until the first of these slots becomes old.
fn next_old(boot_ns: u64, after: Duration, is_it: impl Fn(usize) -> bool) -> Option<Duration> {
    let shift = slot_shift(after);
    let (current, young) = (boot_ns >> shift, (after.as_nanos() as u64 >> shift) + 2);
    let slot = |age: u64| (current.wrapping_sub(age) % SLOTS as u64) as usize;
    let oldest = (0..SLOTS as u64).rev().find(|&age| is_it(slot(age)))?;
    let at = (current + young.saturating_sub(oldest)) << shift;
    Some(Duration::from_nanos(at.saturating_sub(boot_ns)))
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
    fn next_look_is_when_a_slot_becomes_old() {
        for ms in [1, 50, 1000, 60_000] {
            let after = Duration::from_millis(ms);
            let began = 1_000_000_123_456u64;
            let slot = (began >> slot_shift(after)) as usize % SLOTS;
            let left = next_old(began, after, |it| it == slot).unwrap();
            let is_old = |ns| old_slots(ns, after).any(|old| old == slot);
            let at = began + left.as_nanos() as u64;
            assert!(is_old(at) && !is_old(at - 1), "{ms}");
            assert!(left > after && left <= after * 5 / 4, "{ms}: {left:?}");
            assert_eq!(next_old(at, after, |it| it == slot), Some(Duration::ZERO));
        }
        assert_eq!(next_old(1, Duration::from_secs(1), |_| false), None);
    }

    #[test]
    fn slot_expires_with_its_last_entry() {
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
