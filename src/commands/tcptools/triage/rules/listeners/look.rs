// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener as one look found it: what a row of `tcpaccept --listeners` says of its interval.

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::subject::Subject;

/// Figures of an interval, and queues at its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    pub interval_us: u64,
    /// Handshakes that completed, accepted or not.
    pub opens: u64,
    /// What was dropped in the interval. The row's own `drops` are those since the socket was made.
    pub drops: u64,
    /// Connections that wait for accept() now.
    pub waiting: u64,
    /// The most that have waited in the interval, and the limit.
    pub waited_most: u64,
    pub waiting_max: Option<u64>,
    /// Half-open connections, and their limit.
    pub half_open: u64,
    pub half_open_max: Option<u64>,
}

impl Look {
    /// `None`: another row.
    pub fn of(row: &Row) -> Option<Self> {
        if !row.is("tcpaccept", "listener") {
            return None;
        }
        let number = |key| row.number(key).unwrap_or_default();
        let interval_us = number("interval_us");
        // The rate has three decimals: of ten seconds, that is exact.
        let drops = row.float("drops_per_s").unwrap_or_default() * interval_us as f64 / 1e6;
        let waiting = number("accept_queue");
        Some(Self {
            interval_us,
            opens: number("accepts"),
            drops: drops.round() as u64,
            waiting,
            waited_most: waiting.max(number("accept_queue_high")),
            waiting_max: row.number("accept_queue_max"),
            half_open: number("syn_queue"),
            half_open_max: row.number("syn_queue_max"),
        })
    }

    /// The accept queue had no room (include/net/sock.h: sk_acceptq_is_full: one more than the limit is admitted).
    pub fn was_full(&self) -> bool {
        self.waiting_max.is_some_and(|max| self.waited_most > max)
    }
}

/// The command that goes on looking at a listener.
pub fn watch(subject: &Subject) -> String {
    match subject.listener {
        Some(at) => format!("tcpaccept --listeners=1s -w -L {}", at.port()),
        None => "tcpaccept --listeners=1s -w".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::row;

    #[test]
    fn drops_are_those_of_the_interval() {
        let values = json!({
            "interval_us": 2_000_123, "drops": 4000, "drops_per_s": 2.5, "accept_queue": 2,
            "accept_queue_high": 5, "accept_queue_max": 4,
        });
        let look = Look::of(&row("tcpaccept", "listener", values)).unwrap();
        assert_eq!(
            (look.drops, look.waited_most, look.was_full()),
            (5, 5, true)
        );
    }
}
