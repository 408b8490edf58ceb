// SPDX-License-Identifier: MIT OR Apache-2.0
//! OTLP/JSON: a `LogsData` message per line, as the OpenTelemetry Collector's otlpjsonfile receiver takes it
//! (<https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>).

use std::io::Write;

use serde_json::Value as Json;

use super::cells::value_of;
use super::{Cells, Host, Level};
use crate::output::digits::{append, integer};
use crate::output::value::{Value, frames};
use crate::output::{escape, types};

/// The semantic conventions by which attributes are named.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.27.0";

/// Attributes that the conventions have a name for. Others are `tcptools.KEY`.
///
/// `process.executable.name` is, in these conventions, the `Name` of `/proc/PID/status`: that is `comm`.
const NAMES: &[(&str, &str)] = &[
    ("laddr", "network.local.address"),
    ("lport", "network.local.port"),
    ("raddr", "network.peer.address"),
    ("rport", "network.peer.port"),
    ("family", "network.type"),
    ("pid", "process.pid"),
    ("comm", "process.executable.name"),
    ("error", "error.type"),
    ("container", "container.id"),
    ("container_name", "container.name"),
    ("runtime", "container.runtime"),
    ("pod", "k8s.pod.uid"),
];

/// Up to the record itself: which host, which command.
pub fn opening(tool: &str, host: Option<&Host>) -> String {
    let own;
    let host = match host {
        Some(host) => host,
        None => {
            own = Host::own();
            &own
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    let texts = [
        ("service.name", tool),
        ("service.namespace", "tcptools"),
        ("service.version", version),
        ("host.name", &host.name),
        ("os.type", "linux"),
        ("tcptools.boot_id", host.boot_id),
    ];
    let mut out = br#"{"resourceLogs":[{"resource":{"attributes":["#.to_vec();
    for (key, text) in texts {
        let _ = write!(out, r#"{{"key":"{key}","value":{{"stringValue":"#);
        escape::json(&mut out, text);
        out.extend_from_slice(b"}},");
    }
    let _ = write!(
        out,
        r#"{{"key":"tcptools.schema","value":{{"intValue":"{}"}}}}]}},"schemaUrl":"{SCHEMA_URL}","#,
        types::VERSION
    );
    let _ = write!(
        out,
        r#""scopeLogs":[{{"scope":{{"name":"tcptools","version":"{version}"}},"schemaUrl":"{SCHEMA_URL}","logRecords":[{{"#
    );
    String::from_utf8_lossy(&out).into_owned()
}

/// `,{"key":"tcptools.rtt_us","value":` for `rtt_us`. A key of others' may have any byte.
pub fn before(key: &str) -> String {
    let known = NAMES.iter().find(|(ours, _)| *ours == key);
    let name = known.map_or_else(|| format!("tcptools.{key}"), |(_, name)| (*name).to_owned());
    let mut out = br#",{"key":"#.to_vec();
    escape::json(&mut out, &name);
    out.extend_from_slice(br#","value":"#);
    String::from_utf8_lossy(&out).into_owned()
}

/// The times, and the first attribute: others follow it.
pub fn begin(out: &mut Vec<u8>, (tool, event): (&str, &str), unix_ns: i64, now_ns: i64) {
    append::all(out, br#""timeUnixNano":""#);
    integer(out, unix_ns.max(0).unsigned_abs());
    append::all(out, br#"","observedTimeUnixNano":""#);
    integer(out, now_ns.max(0).unsigned_abs());
    append::all(out, br#"","eventName":"#);
    escape::json_of(out, |out| {
        for part in [tool, ".", event] {
            out.extend_from_slice(part.as_bytes());
        }
    });
    append::all(
        out,
        br#","attributes":[{"key":"tcptools.event","value":{"stringValue":"#,
    );
    escape::json(out, event);
    append::all(out, b"}}");
}

/// Adds the value of an attribute that begins at `start`; takes the attribute back if there is none.
pub fn value(out: &mut Vec<u8>, start: usize, key: &str, value: &Value<'_>) {
    let known = match (key, value) {
        ("family", Value::Int(4)) => text(out, |out| append::all(out, br#""ipv4""#)),
        ("family", Value::Int(6)) => text(out, |out| append::all(out, br#""ipv6""#)),
        _ => any(out, value),
    };
    match known {
        true => append::all(out, b"}"),
        false => out.truncate(start),
    }
}

/// An `AnyValue`; none of an unknown one.
fn any(out: &mut Vec<u8>, value: &Value<'_>) -> bool {
    // An int64, which JSON has as a string (ProtoJSON).
    let whole = value.number().and_then(|number| i64::try_from(number).ok());
    match (*value, whole) {
        (_, Some(number)) => {
            append::all(out, br#"{"intValue":""#);
            integer(out, number.unsigned_abs());
            append::all(out, br#""}"#);
        }
        (Value::Signed(number), _) => drop(write!(out, r#"{{"intValue":"{number}"}}"#)),
        (Value::Bool(is), _) => drop(write!(out, r#"{{"boolValue":{is}}}"#)),
        (Value::Percent(number) | Value::Number(number), _) => {
            if !number.is_finite() {
                return false;
            }
            append::all(out, br#"{"doubleValue":"#);
            value.bare(out);
            append::all(out, b"}");
        }
        (Value::Stack(stack), _) => {
            append::all(out, br#"{"arrayValue":{"values":["#);
            frames(stack, |first, frame| {
                out.extend_from_slice(if first { b"" } else { b"," });
                text(out, |out| escape::json(out, frame));
            });
            append::all(out, b"]}}");
        }
        // A number that is no int64.
        _ if value.number().is_some() => {
            text(out, |out| escape::json_of(out, |out| value.bare(out)));
        }
        _ => {
            let start = out.len();
            let mut known = false;
            text(out, |out| {
                escape::json_of(out, |out| {
                    let at = out.len();
                    value.bare(out);
                    known = out.len() > at;
                });
            });
            if !known {
                out.truncate(start);
            }
            return known;
        }
    }
    true
}

fn text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    append::all(out, br#"{"stringValue":"#);
    write(out);
    append::all(out, b"}");
    true
}

/// Adds an array or an object of JSON as the value of an attribute.
pub fn nested(out: &mut Vec<u8>, start: usize, value: &Json) {
    match any_json(out, value) {
        true => append::all(out, b"}"),
        false => out.truncate(start),
    }
}

/// As [`any`]. What is unknown in an array or an object has no value.
fn any_json(out: &mut Vec<u8>, json: &Json) -> bool {
    let or_none = |out: &mut Vec<u8>, json| {
        if !any_json(out, json) {
            append::all(out, b"{}");
        }
    };
    match json {
        Json::Array(all) => {
            append::all(out, br#"{"arrayValue":{"values":["#);
            for (n, one) in all.iter().enumerate() {
                out.extend_from_slice(if n == 0 { b"" } else { b"," });
                or_none(out, one);
            }
            append::all(out, b"]}}");
        }
        Json::Object(all) => {
            append::all(out, br#"{"kvlistValue":{"values":["#);
            for (n, (key, one)) in all.iter().enumerate() {
                out.extend_from_slice(if n == 0 {
                    br#"{"key":"#
                } else {
                    br#",{"key":"#
                });
                escape::json(out, key);
                append::all(out, br#","value":"#);
                or_none(out, one);
                append::all(out, b"}");
            }
            append::all(out, b"]}}");
        }
        Json::String(said) => return text(out, |out| escape::json(out, said)),
        _ => return any(out, &value_of(json)),
    }
    true
}

/// The transport, the severity, and the body.
pub fn end(
    out: &mut Vec<u8>,
    level: Level,
    sum: bool,
    cells: &dyn Cells,
    message: impl FnOnce(&mut Vec<u8>),
) {
    if let Some(name) = transport(cells).filter(|_| !sum) {
        let attribute = r#",{"key":"network.transport","value":{"stringValue":"#;
        let _ = write!(out, r#"{attribute}"{name}"}}}}"#);
    }
    let (severity, name) = (level.severity(), level.name());
    let _ = write!(
        out,
        r#"],"severityNumber":{severity},"severityText":"{name}","body":{{"stringValue":"#
    );
    escape::json_of(out, message);
    append::all(out, b"}}]}]}]}\n");
}

/// Rows are of TCP, but for those that say what they are of.
fn transport(cells: &dyn Cells) -> Option<&'static str> {
    let is = |all: &[&str]| all.iter().any(|name| cells.is("proto", name));
    match () {
        () if is(&["TCP", "TCPv6", "MPTCP", "MPTCPv6"]) => Some("tcp"),
        () if is(&["UDP", "UDPv6"]) => Some("udp"),
        () if cells.write("proto", &mut Vec::new()) => None,
        () => cells.number("lport").map(|_| "tcp"),
    }
}
