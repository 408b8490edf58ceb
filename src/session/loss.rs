// SPDX-License-Identifier: MIT OR Apache-2.0
//! Losses counted in the kernel, and their report (docs/principles.md 2).

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use super::buffer::shared::Shared;
use crate::abi::types::counters;
use crate::output::message::Throttle;

/// A loss that was counted as the reader asked may be seen only now: not all processors see what others store in the
/// order in which they load it (`bpf/common/kernel/order.bpf.h`).
const SETTLED: Duration = Duration::from_millis(10);
/// Whether this is such a processor.
const OUT_OF_ORDER: bool = !cfg!(any(target_arch = "x86_64", target_arch = "x86"));

/// The kernel half's counters.
pub(crate) enum Counters {
    /// In shared memory.
    Shared(Shared<counters>),
    /// A map that is read by system call: before 5.5.
    Asked(MapHandle),
}

impl Counters {
    /// `None` if the object is none of ours.
    pub(crate) fn from_object(object: &Object) -> Option<Self> {
        const SECTION: &str = ".data.counters";
        if let Some(shared) = Shared::from_object(object, SECTION) {
            return Some(Self::Shared(shared));
        }
        let map = object.maps().find(|map| map.name() == SECTION)?;
        MapHandle::try_from(&map).ok().map(Self::Asked)
    }

    /// As they are now.
    pub(crate) fn read(&self) -> counters {
        let mut now = counters::default();
        match self {
            Self::Shared(shared) => shared.read(),
            Self::Asked(map) => {
                let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
                let bytes = bytes.ok().flatten().unwrap_or_default();
                // Missing counters are better than no run.
                let _ = plain::copy_from_bytes(&mut now, &bytes);
                now
            }
        }
    }

    /// Whether the next loss that is counted while the buffer has room wakes the reader. A map's reader polls.
    fn asked(&self) -> bool {
        match self {
            Self::Shared(shared) => shared.asks().load(Ordering::SeqCst) != 0,
            Self::Asked(_) => true,
        }
    }

    /// Asks for that. What is read after it was not missed.
    fn ask(&self) {
        if let Self::Shared(shared) = self {
            shared.asks().store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }
}

impl Shared<counters> {
    fn asks(&self) -> &AtomicU32 {
        // SAFETY: mapped as long as the object, which outlives this; on both sides only the whole word is read and
        // written.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.as_ptr()).asks) }
    }
}

/// Reports losses on standard error: at most once a second, and at the end.
pub(crate) struct Lost {
    tool: &'static str,
    /// Whether the state of sockets is in a table, which can fill up.
    table: bool,
    /// What the kernel half has counted.
    pub(crate) counters: Counters,
    /// When to look again, after it has asked.
    again: Option<Instant>,
    lost: Throttle,
    untracked: Throttle,
    uncounted: Throttle,
}

impl Lost {
    /// Starts with no losses.
    pub(crate) fn new(tool: &'static str, table: bool, counters: Counters) -> Self {
        Self {
            tool,
            table,
            counters,
            again: None,
            lost: Throttle::default(),
            untracked: Throttle::default(),
            uncounted: Throttle::default(),
        }
    }

    /// When it has more to report, although nothing more was lost; or may ask to be woken again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waits = self.all().into_iter().filter_map(Throttle::due).min();
        let asks = self.rests_until().filter(|_| !self.counters.asked());
        waits.into_iter().chain(asks).chain(self.again).min()
    }

    fn rests_until(&self) -> Option<Instant> {
        let rests = self.all().into_iter().filter_map(Throttle::rests_until);
        rests.max()
    }

    fn all(&self) -> [&Throttle; 3] {
        [&self.lost, &self.untracked, &self.uncounted]
    }

    /// Reports what was lost. `untracked`, `uncounted`: counted in user space. `last`: the final report. Returns all
    /// counters.
    pub(crate) fn report(&mut self, untracked: u64, uncounted: u64, last: bool) -> counters {
        let at = Instant::now();
        self.again = self.again.filter(|again| *again > at);
        // Not while it could not say so: at most two wake-ups a second, however many losses.
        let rests = || self.rests_until().is_some_and(|end| end > at);
        if !self.counters.asked() && !rests() {
            self.counters.ask();
            self.again = OUT_OF_ORDER.then(|| at + SETTLED);
        }
        let mut now = self.counters.read();
        now.untracked += untracked;
        now.uncounted += uncounted;
        let tool = self.tool;
        let so_far = if last { "" } else { " so far" };
        if self.lost.is_due(now.lost, last) {
            let lost = now.lost;
            crate::message!(
                "{tool}: {lost} events lost{so_far}: the buffer was full; use a larger --buffer, a narrower filter or a faster reader"
            );
        }
        if self.untracked.is_due(now.untracked, last) {
            let events = now.untracked;
            let reason = match self.table {
                true => "the table that keeps their state is full",
                false => "the kernel had no memory for their state",
            };
            crate::message!("{tool}: {events} events of untracked sockets{so_far}: {reason}");
        }
        if self.uncounted.is_due(now.uncounted, last) {
            let uncounted = now.uncounted;
            crate::message!(
                "{tool}: {uncounted} occurrences not counted{so_far}: the table was full; use a narrower filter"
            );
        }
        now
    }
}
