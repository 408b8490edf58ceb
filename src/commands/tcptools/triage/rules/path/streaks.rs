// SPDX-License-Identifier: MIT OR Apache-2.0
//! Retransmissions that nothing came of yet: the other end may be gone, which is no loss.

use std::collections::BTreeMap;

use crate::commands::tcptools::feed::Row;

/// How many connections are remembered.
const MOST: usize = 8192;

/// A timer fires as late as this on a busy host.
const SLACK_NS: u64 = 300_000_000;

/// So many timeouts in a row are silence: where one segment of ten is lost, one of a thousand is three times.
const SILENCE: u64 = 3;

#[derive(Default)]
struct Streak {
    /// Segments that were sent again without a sign of life.
    segs: u64,
    attempt: u64,
    /// Those of a loss probe, which comes before the first timeout.
    probed: u64,
    /// When the timer fires again, if nothing is acknowledged until then.
    due_ns: u64,
}

/// By connection.
pub struct Streaks<K>(BTreeMap<u64, (K, Streak)>);

impl<K> Default for Streaks<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Streaks<K> {
    /// Takes a row of tcpretrans.
    pub fn see(&mut self, row: &Row, key: &K) {
        let Some(cookie) = row.number("cookie") else {
            return;
        };
        if self.0.len() >= MOST && !self.0.contains_key(&cookie) {
            return;
        }
        let (_, streak) = self
            .0
            .entry(cookie)
            .or_insert_with(|| (key.clone(), Streak::default()));
        let number = |key| row.number(key).unwrap_or_default();
        let (segs, attempt) = (number("segs").max(1), number("attempt"));
        let in_ns = |factor| row.boot_ns() + factor * number("rto_us") * 1000 + SLACK_NS;
        match row.text("kind") {
            Some("tlp") => {
                *streak = Streak {
                    segs,
                    attempt: 0,
                    probed: segs,
                    due_ns: in_ns(1),
                }
            }
            Some("rto") if row.flag("by_timer") == Some(true) => {
                let before = if attempt > 1 {
                    streak.segs
                } else {
                    streak.probed
                };
                *streak = Streak {
                    segs: before + segs,
                    attempt,
                    probed: 0,
                    due_ns: in_ns(2),
                }
            }
            // An acknowledgement has led to it.
            _ => *streak = Streak::default(),
        }
    }

    /// Segments of connections that are silent at this time, by key.
    pub fn silent(&self, now_ns: u64) -> BTreeMap<K, u64> {
        let mut sums = BTreeMap::new();
        for (key, streak) in self.0.values() {
            if streak.attempt >= SILENCE || now_ns < streak.due_ns {
                *sums.entry(key.clone()).or_default() += streak.segs;
            }
        }
        sums
    }
}
