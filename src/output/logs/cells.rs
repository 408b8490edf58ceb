// SPDX-License-Identifier: MIT OR Apache-2.0
//! The values of a record by their keys, whatever the record is made of.

use std::io::Write;

use serde_json::{Map, Value as Json};

use crate::output::{Value, escape};

/// Values by the keys of JSON.
pub trait Cells {
    /// A number without decimals, if it is known and one; so below.
    fn number(&self, key: &str) -> Option<u64>;
    /// `true` or `false`.
    fn flag(&self, key: &str) -> Option<bool>;
    /// Whether it is this text.
    fn is(&self, key: &str, text: &str) -> bool;
    /// Adds the text; returns whether there is one.
    fn write(&self, key: &str, out: &mut Vec<u8>) -> bool;
    /// Adds the bytes that a process chose as its name; returns whether they are known.
    fn write_name(&self, key: &str, out: &mut Vec<u8>) -> bool;
    /// Adds what is known of the record's own, as `key=value, key=value`; `all`: of what every record has, too.
    fn list(&self, out: &mut Vec<u8>, all: bool);
}

/// What each row has, which is not its own.
const SHARED: &[&str] = &[
    "boot_ns",
    "boot_id",
    "by",
    "cgroup",
    "comm",
    "container",
    "container_name",
    "cookie",
    "elapsed_s",
    "event",
    "family",
    "host",
    "ifindex",
    "ifname",
    "interval_us",
    "laddr",
    "lport",
    "netns",
    "netns_name",
    "pid",
    "pid_source",
    "pod",
    "raddr",
    "rport",
    "runtime",
    "time",
    "tool",
    "ts",
    "uid",
    "unit",
];

/// What no list says, as the record has it anyway.
const SILENT: &[&str] = &[
    "boot_ns",
    "boot_id",
    "by",
    "elapsed_s",
    "event",
    "host",
    "interval_us",
    "time",
    "tool",
    "ts",
];

/// Adds ` key=value` to a list that begins at `start`, if it is to be said.
pub fn listed(
    out: &mut Vec<u8>,
    start: usize,
    all: bool,
    key: &str,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let silent = if all { SILENT } else { SHARED };
    if key.is_empty() || silent.contains(&key) {
        return;
    }
    let before = out.len();
    let comma = if before == start { "" } else { ", " };
    let _ = write!(out, "{comma}{key}=");
    let value = out.len();
    write(out);
    if out.len() == value {
        out.truncate(before);
    }
}

/// A value of JSON as a value of a row; none of an array or an object.
pub fn value_of(json: &Json) -> Value<'_> {
    match json {
        Json::String(text) => Value::Text(text),
        Json::Bool(is) => Value::Bool(*is),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), _, _) => Value::Int(number),
            (_, Some(number), _) => Value::Signed(number),
            (_, _, Some(number)) => Value::Number(number),
            _ => Value::Unknown,
        },
        Json::Null | Json::Array(_) | Json::Object(_) => Value::Unknown,
    }
}

impl Cells for Map<String, Json> {
    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    fn is(&self, key: &str, text: &str) -> bool {
        self.get(key).and_then(Json::as_str) == Some(text)
    }

    fn write(&self, key: &str, out: &mut Vec<u8>) -> bool {
        let text = self.get(key).and_then(Json::as_str);
        text.map(|text| Value::Text(text).bare(out)).is_some()
    }

    fn write_name(&self, key: &str, out: &mut Vec<u8>) -> bool {
        let text = self.get(key).and_then(Json::as_str);
        let names = text.and_then(|text| escape::parse_names(text.as_bytes()).ok());
        let name = names.as_deref().and_then(<[_]>::first);
        name.map(|name| out.extend_from_slice(name)).is_some()
    }

    fn list(&self, out: &mut Vec<u8>, all: bool) {
        let start = out.len();
        for (key, value) in self {
            listed(out, start, all, key, |out| value_of(value).bare(out));
        }
    }
}
