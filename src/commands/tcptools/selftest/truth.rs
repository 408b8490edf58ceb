// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened in the namespace, by the kernel's counters and by who made it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::kernel::counters;

/// Names of counters, as nstat(8) has them, and by how much they grew; and what the traffic's maker knows.
#[derive(Debug)]
pub(super) struct Truth {
    counted: BTreeMap<String, u64>,
    /// The process that made it.
    pub(super) pid: u64,
    /// What was written to sockets of sessions, and read at their other ends.
    pub(super) bytes: u64,
    /// Requests that were answered, and on which port.
    pub(super) turns: u64,
    pub(super) port: u64,
    /// Segments that a socket's filter threw away, or why there are none.
    pub(super) filtered: Result<u64, String>,
}

impl Truth {
    /// Of a process that has made nothing yet.
    pub(super) fn of(pid: u32) -> Self {
        Self {
            pid: pid.into(),
            counted: BTreeMap::new(),
            bytes: 0,
            turns: 0,
            port: 0,
            filtered: Ok(0),
        }
    }

    /// Of the kernel's counters: 0 if this kernel has none of this name.
    pub(super) fn counted(&self, name: &str) -> u64 {
        self.counted.get(name).copied().unwrap_or_default()
    }

    /// `before`: counters at the beginning.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub(super) fn count(&mut self, before: &BTreeMap<String, u64>) -> Result<()> {
        for (name, after) in counters::here()? {
            let before = before.get(&name).copied().unwrap_or_default();
            self.counted.insert(name, after.saturating_sub(before));
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        json!({"counted": self.counted, "pid": self.pid, "bytes": self.bytes, "turns": self.turns,
               "port": self.port, "filtered": self.filtered.clone().ok(), "unfiltered": self.filtered.clone().err()})
    }

    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_u64();
        let counted = value["counted"].as_object()?.iter();
        Some(Self {
            counted: counted
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect(),
            pid: number("pid")?,
            bytes: number("bytes")?,
            turns: number("turns")?,
            port: number("port")?,
            filtered: number("filtered")
                .ok_or_else(|| value["unfiltered"].as_str().unwrap_or_default().to_owned()),
        })
    }
}
