// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much was looked at: "nothing found" is worth what was seen.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::commands::tcptools::feed::Row;

/// Sums over all rows, and what commands lost.
#[derive(Default)]
pub struct Seen {
    rows: u64,
    opened: u64,
    accepted: u64,
    ended: u64,
    resets: u64,
    retransmits: u64,
    drops: u64,
    listeners: BTreeSet<u64>,
    sockets: u64,
    namespaces: BTreeSet<u64>,
    /// Events that the commands lost, or were not run for.
    lost: u64,
    /// The commands that wrote a row, their last one included.
    tools: BTreeSet<String>,
}

/// How many cookies and namespaces are kept apart.
const MOST: usize = 100_000;

impl Seen {
    pub fn see(&mut self, row: &Row) {
        self.rows += 1;
        if let Some(netns) = row.number("netns").filter(|_| self.namespaces.len() < MOST) {
            self.namespaces.insert(netns);
        }
        if !self.tools.contains(row.tool()) {
            self.tools.insert(row.tool().to_owned());
        }
        match (row.tool(), row.event()) {
            (_, "summary") => {
                let keys = ["lost", "skipped", "untracked", "uncounted"];
                self.lost += keys.iter().filter_map(|key| row.number(key)).sum::<u64>();
            }
            ("tcpconnect", "connect") => self.opened += 1,
            ("tcpaccept", "listener") if self.listeners.len() < MOST => {
                self.listeners.extend(row.number("cookie"));
            }
            ("tcplife", "session") => self.ended += 1,
            ("tcpreset", "reset") => self.resets += 1,
            ("tcpretrans", "retransmit") => {
                self.retransmits += row.number("segs").unwrap_or(1);
            }
            ("tcpdrop", "drop") => self.drops += row.number("segs").unwrap_or(1),
            _ => {}
        }
        if row.is("tcpaccept", "listener") {
            self.accepted += row.number("accepts").unwrap_or_default();
        }
        if row.is("tcpstates", "state") {
            self.sockets = self.sockets.max(row.number("now").unwrap_or_default());
        }
    }

    /// For a person.
    pub fn sentence(&self, seconds: f64) -> String {
        let many = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        format!(
            "looked for {seconds:.0} s at {}: {}, {} opened, {} accepted, {} ended, {}, {} sent again, \
             {} dropped here",
            many(self.namespaces.len() as u64, "network namespace"),
            many(self.listeners.len() as u64, "listener"),
            many(self.opened, "connection"),
            self.accepted,
            self.ended,
            many(self.resets, "reset"),
            many(self.retransmits, "segment"),
            self.drops
        )
    }

    /// How many events the commands lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub fn to_json(&self) -> Value {
        json!({
            "rows": self.rows,
            "netns": self.namespaces.len(),
            "listeners": self.listeners.len(),
            "opened": self.opened,
            "accepted": self.accepted,
            "ended": self.ended,
            "resets": self.resets,
            "retrans_segs": self.retransmits,
            "drops": self.drops,
            "lost": self.lost,
            "ran": self.tools,
        })
    }
}
