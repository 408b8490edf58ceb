// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records that are not made of columns: the end of a run, and those of `tcptools` itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::kinds::Keys;

/// What keys refer to.
pub(super) fn types() -> Map<String, Value> {
    let whole =
        |unit: &str| json!({"type": ["integer", "null"], "minimum": 0, "description": unit});
    let types = [
        (
            "integer",
            json!({"type": ["integer", "null"], "minimum": 0}),
        ),
        ("microseconds", whole("microseconds")),
        ("nanoseconds", whole("nanoseconds")),
        ("bytes", whole("bytes")),
        ("bytes_per_s", whole("bytes per second")),
        ("pages", whole("pages of memory")),
        ("number", json!({"type": ["number", "null"]})),
        (
            "percent",
            json!({"type": ["number", "null"], "minimum": 0, "maximum": 100}),
        ),
        ("string", json!({"type": ["string", "null"]})),
        ("boolean", json!({"type": ["boolean", "null"]})),
        (
            "strings",
            json!({"type": ["array", "null"], "items": {"type": "string"}}),
        ),
        (
            "buckets",
            json!({"type": "array", "items": {
            "type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}}),
        ),
        (
            "ts",
            json!({"type": "string", "format": "date-time", "description": "RFC 3339, UTC, nanoseconds"}),
        ),
    ];
    let types = types.into_iter();
    types.map(|(name, of)| (name.to_owned(), of)).collect()
}

/// The end of a run (docs/json.md).
pub(super) fn summary() -> Keys {
    let keys = [
        "boot_ns",
        "events",
        "lost",
        "untracked",
        "uncounted",
        "skipped",
        "unvisited",
        "statistics_lost",
        "messages_lost",
        "journal_lost",
        "peers_missed",
        "runs",
        "filtered",
        "kernel_ns_avg",
        "table_sockets",
        "table_bytes",
        "table_missed",
        "reader_cpu_us",
    ];
    keys.map(str::to_owned).into()
}

/// A key: `type`, or `type?` where it may be null.
type Key = (&'static str, &'static str);

/// Those of `tcptools`, by their events.
const RECORDS: &[(&str, &[Key])] = &[
    (
        "finding",
        &[
            ("kind", "string"),
            ("severity", "string"),
            ("subject", "object"),
            ("text", "string"),
            ("evidence", "object"),
            ("next", "string"),
            ("host", "string"),
            ("boot_id", "string"),
        ],
    ),
    (
        "kind",
        &[("kind", "string"), ("what", "string"), ("limits", "array")],
    ),
    (
        "command",
        &[
            ("command", "string"),
            ("row", "string?"),
            ("rows_from", "array"),
            ("also_reads", "array"),
            ("installed", "boolean"),
            ("runs", "boolean"),
            ("why_not", "string?"),
            ("missing_tracepoints", "array"),
        ],
    ),
    (
        "check",
        &[
            ("name", "string"),
            ("status", "string"),
            ("detail", "string"),
            ("remedy", "string?"),
        ],
    ),
    (
        "comparison",
        &[
            ("command", "string"),
            ("what", "string"),
            ("from", "string"),
            ("expected", "integer"),
            ("rows", "integer"),
            ("verdict", "string"),
            ("why_not", "string?"),
        ],
    ),
    (
        "recording",
        &[
            ("ts", "string"),
            ("boot_ns", "integer"),
            ("version", "string"),
            ("kernel", "string?"),
            ("boot_id", "string?"),
            ("host", "string?"),
            ("filters", "array"),
            ("sources", "array"),
        ],
    ),
    (
        "recorded",
        &[
            ("ts", "string"),
            ("boot_ns", "integer"),
            ("duration_us", "integer"),
            ("notes", "array"),
            ("host", "string?"),
        ],
    ),
    // Of triage, of follow, of check and of selftest.
    (
        "summary",
        &[
            ("findings", "integer"),
            ("duration_us", "integer"),
            ("notes", "array"),
            ("rows", "integer"),
            ("netns", "integer"),
            ("listeners", "integer"),
            ("opened", "integer"),
            ("accepted", "integer"),
            ("ended", "integer"),
            ("resets", "integer"),
            ("retrans_segs", "integer"),
            ("drops", "integer"),
            ("lost", "integer"),
            ("events", "integer"),
            ("connections", "integer"),
            ("equal", "integer"),
            ("differ", "integer"),
            ("not_run", "integer"),
            ("run", "integer"),
            ("commands", "integer"),
            ("ran", "array"),
            ("host", "string"),
            ("boot_id", "string"),
        ],
    ),
];

/// Records of `tcptools`.
pub(super) fn records() -> BTreeMap<String, Value> {
    let all = RECORDS.iter().map(|(event, keys)| {
        let mut properties = Map::new();
        for (key, of) in *keys {
            let value = match of.strip_suffix('?') {
                Some(of) => json!({"type": [of, "null"]}),
                None => json!({"type": of}),
            };
            properties.insert((*key).to_owned(), value);
        }
        properties.insert("tool".to_owned(), json!({"const": "tcptools"}));
        properties.insert("event".to_owned(), json!({"const": event}));
        let record = json!({
            "type": "object",
            "properties": properties,
            "required": ["tool", "event"],
        });
        (format!("tcptools.{event}"), record)
    });
    all.collect()
}
