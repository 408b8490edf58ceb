// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the kernel half's counters (bpf/metrics/counters.bpf.h). Sums never go down: what is folded away is kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::bpf::types::{span, totals};
use super::counted::{COUNTERS, is_gauge};
use crate::aggregate::group::Group;

// SAFETY: `repr(C)` structs of integers only: every bit pattern is a value.
unsafe impl plain::Plain for span {}
// SAFETY: as above.
unsafe impl plain::Plain for totals {}

/// A key's numbers, as far as they are kept here.
struct Known<T> {
    total: T,
    /// When it grew last.
    since: Instant,
}

/// What all keys have that are no more in the kernel's tables, or found no room there.
pub(super) struct Counts {
    totals: MapHandle,
    counts: MapHandle,
    spans: MapHandle,
    expire: Duration,
    known: HashMap<Group, Known<u64>>,
    known_spans: HashMap<Group, Known<span>>,
    /// What expired.
    folded: totals,
    folded_ended: HashMap<u32, u64>,
    /// What was read last: a number that is taken back at this moment is not shown.
    shown: totals,
    pub(super) expired: u64,
}

/// A reading: what has no labels, and what has.
pub(super) struct Reading {
    /// Of gauges: what the look has added.
    pub counts: Vec<(Group, u64)>,
    pub spans: Vec<(Group, span)>,
    pub rest: totals,
    /// Of ends that expired, by their number.
    pub ended: HashMap<u32, u64>,
}

impl Counts {
    pub(super) fn new(maps: [MapHandle; 3], expire: Duration) -> Self {
        let [totals, counts, spans] = maps;
        Self {
            totals,
            counts,
            spans,
            expire,
            known: HashMap::new(),
            known_spans: HashMap::new(),
            folded: totals_empty(),
            folded_ended: HashMap::new(),
            shown: totals_empty(),
            expired: 0,
        }
    }

    /// After a look.
    ///
    /// # Errors
    /// When this process may no longer use BPF.
    pub(super) fn read(&mut self) -> Result<Reading> {
        let now = Instant::now();
        let counts = self.read_counts(now)?;
        let spans = self.read_spans(now)?;
        let rest = self.read_totals()?;
        Ok(Reading {
            counts,
            spans,
            rest,
            ended: self.folded_ended.clone(),
        })
    }

    fn read_counts(&mut self, now: Instant) -> Result<Vec<(Group, u64)>> {
        let mut all = Vec::new();
        let mut idle = Vec::new();
        for (key, value) in entries(&self.counts)? {
            let (Some(group), Some(total)) = (Group::from_bytes(&key), number(&value)) else {
                continue;
            };
            let known = self.known.entry(group).or_insert(Known {
                total: 0,
                since: now,
            });
            let before = known.total;
            known.total = before.max(total);
            if total > before {
                known.since = now;
            } else if now.duration_since(known.since) >= self.expire {
                idle.push((group, key));
                continue;
            }
            let shown = match is_gauge(group.kind()) {
                true => known.total - before,
                false => known.total,
            };
            all.push((group, shown));
        }
        for (group, key) in idle {
            self.fold(group, &key);
        }
        Ok(all)
    }

    fn fold(&mut self, group: Group, key: &[u8]) {
        let before = self.known.remove(&group).map_or(0, |known| known.total);
        let last = take(&self.counts, key).and_then(|value| number(&value));
        let total = last.unwrap_or(0).max(before);
        self.expired += 1;
        let kind = group.kind();
        if is_gauge(kind) {
            return;
        }
        match self.folded.count.get_mut(kind as usize) {
            Some(count) => *count += total,
            None => *self.folded_ended.entry(kind).or_default() += total,
        }
    }

    fn read_spans(&mut self, now: Instant) -> Result<Vec<(Group, span)>> {
        let mut all = Vec::new();
        let mut idle = Vec::new();
        for (key, value) in entries(&self.spans)? {
            let mut span = span::default();
            let Some(group) = Group::from_bytes(&key) else {
                continue;
            };
            if plain::copy_from_bytes(&mut span, &value).is_err() {
                continue;
            }
            let grown = |known: &Known<span>| known.total.bucket != span.bucket;
            let since = match self.known_spans.get(&group) {
                Some(known) if !grown(known) => known.since,
                _ => now,
            };
            if now.duration_since(since) >= self.expire {
                idle.push((group, key));
                continue;
            }
            self.known_spans.insert(group, Known { total: span, since });
            all.push((group, span));
        }
        for (group, key) in idle {
            let before = self.known_spans.remove(&group);
            let mut last = before.map_or_else(span::default, |known| known.total);
            if let Some(value) = take(&self.spans, &key) {
                let _ = plain::copy_from_bytes(&mut last, &value);
            }
            self.expired += 1;
            if let Some(folded) = self.folded.span.get_mut(group.kind() as usize) {
                add(folded, &last);
            }
        }
        Ok(all)
    }

    /// Of all processors, with what has expired.
    fn read_totals(&mut self) -> Result<totals> {
        let first = 0u32.to_ne_bytes();
        let cpus = self.totals.lookup_percpu(&first, MapFlags::ANY);
        let cpus = cpus
            .context("cannot read the counters")?
            .unwrap_or_default();
        let mut all = totals_empty();
        let mut one = totals_empty();
        for cpu in &cpus {
            if plain::copy_from_bytes(&mut one, cpu).is_err() {
                continue;
            }
            let counts = all.count.iter_mut().zip(one.count);
            // One processor may have taken back what another one has counted.
            counts.for_each(|(to, from)| *to = to.wrapping_add(from));
            let spans = all.span.iter_mut().zip(&one.span);
            spans.for_each(|(to, from)| add(to, from));
        }
        let before = self.shown;
        self.shown = all;
        let counts = self.shown.count.iter_mut().zip(before.count);
        counts.for_each(|(now, before)| {
            if now.wrapping_sub(before).cast_signed() < 0 {
                *now = before;
            }
        });
        let mut shown = self.shown;
        for (at, count) in shown.count.iter_mut().enumerate() {
            let is_gauge = is_gauge(at as u32);
            let before = before.count.get(at).copied().unwrap_or(0);
            let folded = self.folded.count.get(at).copied().unwrap_or(0);
            *count = match is_gauge {
                true => *count - before,
                false => *count + folded,
            };
        }
        let spans = shown.span.iter_mut().zip(&self.folded.span);
        spans.for_each(|(to, from)| add(to, from));
        Ok(shown)
    }
}

/// All zero.
fn totals_empty() -> totals {
    totals {
        count: [0; COUNTERS as usize],
        span: [span::default(); 4],
    }
}

fn add(to: &mut span, from: &span) {
    let buckets = to.bucket.iter_mut().zip(from.bucket);
    buckets.for_each(|(to, from)| *to += from);
    to.sum_ns = to.sum_ns.wrapping_add(from.sum_ns);
}

fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

type Entry = (Vec<u8>, Vec<u8>);

fn entries(map: &MapHandle) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    for key in map.keys() {
        let value = map.lookup(&key, MapFlags::ANY);
        if let Some(value) = value.context("cannot read the counters")? {
            all.push((key, value));
        }
    }
    Ok(all)
}

/// Takes an entry out: at once, where the kernel can (since 5.14).
fn take(map: &MapHandle, key: &[u8]) -> Option<Vec<u8>> {
    if let Ok(value) = map.lookup_and_delete(key) {
        return value;
    }
    let value = map.lookup(key, MapFlags::ANY).ok().flatten();
    let _ = map.delete(key);
    value
}
