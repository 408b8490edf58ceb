// SPDX-License-Identifier: MIT OR Apache-2.0
//! All listeners, read again and again.

use std::collections::HashMap;

use crate::abi::types::decode_all;
use crate::kernel::holders::Holders;
use anyhow::Result;

use super::bpf::types::listener_now;
use super::listener::{Listener, Opens, Past};

/// What names a listener in all readings: its address and its cookie.
pub(super) type Name = (u64, u64);

/// What one look found.
pub(super) type Reading = HashMap<Name, listener_now>;

fn name(now: &listener_now) -> Name {
    (now.address, now.key.cookie)
}

/// Reads the listeners again and again.
pub(super) struct Listeners {
    now: Holders,
    past: HashMap<Name, Past>,
}

/// A listener's key in the tables of the kernel half.
pub(super) type Key = Vec<u8>;

/// Beyond that, the kernel's iterators pause (kernel/bpf/bpf_iter.c: bpf_seq_read). The one over socket storage then
/// counts where it was: what comes and goes meanwhile makes it repeat a socket, or leave one out.
const PAUSE_BYTES: usize = 4096 << 3;

impl Listeners {
    /// `now`: what visits them.
    pub fn new(now: Holders) -> Self {
        Self {
            now,
            past: HashMap::new(),
        }
    }

    /// See [`Holders::unvisited`].
    pub fn unvisited(&self) -> u64 {
        self.now.unvisited()
    }

    /// Begins an interval.
    ///
    /// # Errors
    /// See [`Holders::run`].
    pub fn begin(&mut self) -> Result<()> {
        let mut now = Reading::new();
        // What is left out here would be taken for new later, and its drops too.
        if self.read(&mut now)? > PAUSE_BYTES {
            self.read(&mut now)?;
        }
        self.remember(&now);
        Ok(())
    }

    /// Adds what was not seen yet; returns how many bytes there were.
    fn read(&self, now: &mut Reading) -> Result<usize> {
        let bytes = self.now.run()?;
        for listener in decode_all::<listener_now>(&bytes) {
            now.entry(name(&listener)).or_insert(listener);
        }
        Ok(bytes.len())
    }

    fn remember(&mut self, now: &Reading) {
        let past = |(name, now): (&Name, &listener_now)| {
            let past = Past {
                drops: now.queues.drops,
                first: now.queues.first,
            };
            (*name, past)
        };
        self.past = now.iter().map(past).collect();
    }

    /// Reads them at the end of an interval.
    ///
    /// # Errors
    /// See [`Holders::run`].
    pub fn look(&self) -> Result<Reading> {
        let mut now = Reading::new();
        let bytes = self.read(&mut now)?;
        if bytes > PAUSE_BYTES && self.past.keys().any(|name| !now.contains_key(name)) {
            self.read(&mut now)?;
        }
        Ok(now)
    }

    /// Ends an interval: the open listeners by their keys, each with whether it matches the filters. `opens` is asked
    /// what each did.
    pub fn end(
        &mut self,
        now: &Reading,
        interval_us: u64,
        mut opens: impl FnMut(&Key) -> Opens,
    ) -> Vec<(Key, bool, Listener)> {
        let mut all: Vec<_> = now
            .values()
            .map(|now| {
                let key = key(now);
                let past = self.past.get(&name(now));
                // One that is new has dropped nothing before.
                let past = past.copied().unwrap_or_default();
                let listener = Listener::open(now, past, opens(&key), interval_us);
                (key, now.head.event != 0, listener)
            })
            .collect();
        number_groups(all.iter_mut().map(|(_, _, listener)| listener));
        self.remember(now);
        all
    }
}

/// Replaces the group's address, which is not shown, by the lowest cookie in it.
fn number_groups<'l>(listeners: impl Iterator<Item = &'l mut Listener>) {
    let mut listeners: Vec<_> = listeners.filter(|l| l.queues.group != 0).collect();
    let mut lowest = HashMap::new();
    for listener in &listeners {
        let cookie = listener.head.cookie;
        let group = lowest.entry(listener.queues.group).or_insert(cookie);
        *group = cookie.min(*group);
    }
    for listener in &mut listeners {
        listener.group = lowest[&listener.queues.group];
    }
}

fn key(now: &listener_now) -> Key {
    // SAFETY: integers without padding: all its bytes have values.
    unsafe { plain::as_bytes(&now.key) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::types::head;

    const NONE: Opens = Opens {
        accepts: 0,
        high: 0,
        max: 0,
    };

    #[test]
    fn group_has_the_lowest_cookie() {
        let mut rows = [(5, 70), (3, 70), (4, 80), (6, 0)].map(|(cookie, group)| {
            let head = head {
                cookie,
                ..head::default()
            };
            let mut listener = Listener::closed(head, NONE, 1);
            listener.queues.group = group;
            listener
        });
        number_groups(rows.iter_mut());
        assert_eq!(rows.map(|row| row.group), [3, 3, 4, 0]);
    }
}
