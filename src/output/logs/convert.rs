// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records that are not made of columns, or that others have made: from their JSON.

use chrono::DateTime;
use serde_json::{Map, Value as Json};

use super::cells::value_of;
use super::{Logs, When, otlp};
use crate::kernel::clock;
use crate::output::Format;

impl Logs {
    /// Adds the record that this object of JSON is. One without a time is of now.
    pub fn object(&self, out: &mut Vec<u8>, record: &Map<String, Json>) {
        let text = |key| record.get(key).and_then(Json::as_str).unwrap_or_default();
        let (event, ts) = (text("event"), text("ts"));
        let time = DateTime::parse_from_rfc3339(ts).ok();
        let unix_ns = time.and_then(|time| time.timestamp_nanos_opt());
        let when = When {
            unix_ns: unix_ns.unwrap_or_else(clock::unix_ns),
            ts,
        };
        let start = self.begin(out, event, when);
        for (key, value) in record {
            if !["tool", "event", "ts"].contains(&key.as_str()) {
                self.json(out, key, value);
            }
        }
        let sum = record.contains_key("interval_us") && !record.contains_key("cookie");
        self.end(out, start, event, sum, record);
    }

    /// Objects become the keys below them: `subject.comm`.
    fn json(&self, out: &mut Vec<u8>, key: &str, json: &Json) {
        match json {
            Json::Object(all) => {
                for (below, value) in all {
                    self.json(out, &format!("{key}.{below}"), value);
                }
            }
            Json::Array(_) if self.format == Format::Otlp => {
                let start = out.len();
                Self::before(self.format, key).add(out);
                otlp::nested(out, start, json);
            }
            Json::Array(_) => {
                let text = json.to_string();
                self.add(out, key, &crate::output::Value::Text(&text));
            }
            _ => self.add(out, key, &value_of(json)),
        }
    }
}

/// The same of a line of JSON that `write` adds.
pub fn convert(logs: &Logs, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut line = Vec::new();
    write(&mut line);
    if let Ok(Json::Object(record)) = serde_json::from_slice(&line) {
        logs.object(out, &record);
    }
}
