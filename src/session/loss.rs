// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel half counts of what it could not do, and saying so.

use libbpf_rs::{AsRawLibbpf, MapCore, MapFlags, MapHandle, Object};

use crate::message::Throttle;
use crate::record;
use crate::types::counters;

/// The kernel half's counters.
pub(crate) enum Counters {
    /// In memory that it shares with us: reading them takes no system call and no privilege.
    Shared(*const counters),
    /// A map that must be asked: before 5.5.
    Asked(MapHandle),
}

impl Counters {
    /// `None` if the object is none of ours.
    pub(crate) fn of(object: &Object) -> Option<Self> {
        let map = object.maps().find(|m| m.name() == ".data.counters")?;
        let flags = map.info().ok()?.info.map_flags;
        if flags & BPF_F_MMAPABLE == 0 || record::done_without("mmap") {
            return MapHandle::try_from(&map).ok().map(Self::Asked);
        }
        let mut size = 0;
        // SAFETY: the map belongs to a loaded object; libbpf returns its mapping and the size of it.
        let data = unsafe {
            libbpf_rs::libbpf_sys::bpf_map__initial_value(
                map.as_libbpf_object().as_ptr(),
                &raw mut size,
            )
        };
        let whole = size as usize >= size_of::<counters>() && !data.is_null();
        whole.then_some(Self::Shared(data.cast()))
    }

    /// As they are now.
    pub(crate) fn read(&self) -> counters {
        let mut now = counters::default();
        match self {
            // SAFETY: mapped, large enough and aligned as `of` saw; the object outlives the run. The kernel writes it.
            Self::Shared(data) => unsafe { data.read_volatile() },
            Self::Asked(map) => {
                let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
                let bytes = bytes.ok().flatten().unwrap_or_default();
                // Nothing to say is better than no run.
                let _ = plain::copy_from_bytes(&mut now, &bytes);
                now
            }
        }
    }
}

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Says on standard error what was lost: at most once a second, and at the end.
pub(crate) struct Lost {
    tool: &'static str,
    /// Whether sockets lie in a table, which may be full.
    table: bool,
    /// What the kernel half has counted.
    pub(crate) counters: Counters,
    lost: Throttle,
    untracked: Throttle,
    uncounted: Throttle,
}

impl Lost {
    /// Nothing has been lost yet.
    pub(crate) fn new(tool: &'static str, table: bool, counters: Counters) -> Self {
        Self {
            tool,
            table,
            counters,
            lost: Throttle::default(),
            untracked: Throttle::default(),
            uncounted: Throttle::default(),
        }
    }

    /// `untracked`, `uncounted`: on this side. `last`: nothing will follow. Returns all that was counted.
    pub(crate) fn say(&mut self, untracked: u64, uncounted: u64, last: bool) -> counters {
        let mut now = self.counters.read();
        now.untracked += untracked;
        now.uncounted += uncounted;
        let tool = self.tool;
        let so_far = if last { "" } else { " so far" };
        if self.lost.is_due(now.lost, last) {
            let lost = now.lost;
            crate::message!(
                "{tool}: {lost} events lost{so_far}: the buffer was full (a larger --buffer, a narrower filter or a faster reader helps)"
            );
        }
        if self.untracked.is_due(now.untracked, last) {
            let events = now.untracked;
            let reason = match self.table {
                true => "this kernel needs a table for their state, and it is full",
                false => "the kernel had no memory for their state",
            };
            crate::message!(
                "{tool}: {events} events of sockets that are not tracked{so_far}: {reason}"
            );
        }
        if self.uncounted.is_due(now.uncounted, last) {
            let uncounted = now.uncounted;
            crate::message!(
                "{tool}: {uncounted} occurrences not counted{so_far}: the table was full (a narrower filter helps)"
            );
        }
        now
    }
}
