// SPDX-License-Identifier: MIT OR Apache-2.0
//! A row of a command, as it printed it, and the values in it.

use std::net::IpAddr;

use serde_json::{Map, Value};

/// Of bytes, microseconds and whatever else is counted: a kernel has no more, and sums of many rows do not overflow.
const MOST: u64 = 1 << 48;

/// A host that has run for 73 years.
const LAST_NS: u64 = 1 << 61;

/// A JSON object of a command.
#[derive(Clone, Debug)]
pub struct Row {
    /// As it was printed, without the newline.
    line: String,
    values: Map<String, Value>,
    /// Which of the sources printed it.
    pub(super) source: usize,
}

impl Row {
    /// `source`: its place in the list of sources.
    ///
    /// `None` if it is not the object of a command.
    pub fn parse(line: String, source: usize) -> Option<Self> {
        let Ok(Value::Object(values)) = serde_json::from_str(&line) else {
            return None;
        };
        let row = Self {
            line,
            values,
            source,
        };
        (!row.tool().is_empty() && !row.event().is_empty()).then_some(row)
    }

    /// As it was printed, without the newline.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Its values by their keys.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The command that printed it.
    pub fn tool(&self) -> &str {
        self.text("tool").unwrap_or_default()
    }

    /// What it is, in the command's words.
    pub fn event(&self) -> &str {
        self.text("event").unwrap_or_default()
    }

    /// Whether it is this row of this command.
    pub fn is(&self, tool: &str, event: &str) -> bool {
        self.tool() == tool && self.event() == event
    }

    /// When it happened; the end of the interval for a row that is about one. Nanoseconds since boot.
    pub fn boot_ns(&self) -> u64 {
        self.number("boot_ns").unwrap_or_default().min(LAST_NS)
    }

    /// `None` if it is null, missing, or of another type; so below.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }

    /// What a recording says that is beyond what a kernel counts is the most that one does.
    pub fn number(&self, key: &str) -> Option<u64> {
        let number = self.values.get(key)?.as_u64()?;
        Some(match key {
            "cookie" | "boot_ns" => number,
            _ => number.min(MOST),
        })
    }

    pub fn float(&self, key: &str) -> Option<f64> {
        self.values.get(key)?.as_f64()
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.values.get(key)?.as_bool()
    }

    pub fn addr(&self, key: &str) -> Option<IpAddr> {
        // A link-local address has its interface with it.
        self.text(key)?.split('%').next()?.parse().ok()
    }

    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by a fuzzer (scripts/fuzz.sh recordings): microseconds became nanoseconds, and overflowed.
    #[test]
    fn numbers_of_a_recording_have_a_limit() {
        let line = r#"{"tool":"t","event":"e","boot_ns":18446744073709551615,"why_us":18446744073709551615,
            "cookie":18446744073709551615,"rto_us":5}"#;
        let row = Row::parse(line.into(), 0).unwrap();
        assert_eq!(
            (row.number("why_us"), row.number("rto_us")),
            (Some(MOST), Some(5))
        );
        assert_eq!(
            (row.boot_ns(), row.number("cookie")),
            (LAST_NS, Some(u64::MAX))
        );
        assert!(row.boot_ns().checked_add(1000 * MOST).is_some());
    }
}
