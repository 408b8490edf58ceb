// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records for logs, of rows and of objects.

use serde_json::{Value as Json, json};

use super::*;
use crate::abi::types::head;
use crate::output::column::columns;
use crate::output::{Column, Row, Rows, Style, golden};

fn columns() -> Vec<Column<u64>> {
    columns! { |row, s: u64|
        "outcome"    ALL => if *s > 0 { "refused" } else { "established" };
        "latency_us" ALL => Value::Micros(*s);
        "ratio"      ALL => Value::Number(0.5);
        "negative"   ALL => -3;
        "huge"       ALL => u64::MAX;
        "again"      ALL => *s > 0;
    }
}

/// A connection to a port, as a record of this format.
fn written(format: Format, host: Option<Host>, head: &head, body: u64) -> Vec<u8> {
    let style = Style {
        format,
        host,
        ..Style::default()
    };
    let mut rows = Rows::new("tcpconnect", style, columns()).unwrap();
    let mut out = Vec::new();
    rows.fix_clock(0, 1_700_000_000_000_000_000);
    rows.row(&mut out, "connect", &Row { head, body: &body });
    rows.summary(
        &mut out,
        &[("events", Some(1)), ("lost", Some(body)), ("skipped", None)],
    );
    out
}

/// The fields of entries, which have no line feed in a value.
fn fields(mut bytes: &[u8]) -> Vec<Vec<(String, String)>> {
    let mut all = Vec::new();
    while let Some((entry, taken)) = framed(bytes) {
        let text = std::str::from_utf8(entry).unwrap();
        let field = |line: &str| {
            line.split_once('=')
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        };
        all.push(text.lines().map(|line| field(line).unwrap()).collect());
        bytes = &bytes[taken..];
    }
    assert!(bytes.is_empty());
    all
}

fn get<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let mut found = fields.iter().filter(|(key, _)| key == name);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

#[test]
fn journal_entries_have_the_row_and_what_journalctl_finds() {
    let entries = fields(&written(Format::Journal, None, &golden::heads()[1], 333));
    let [row, summary] = &entries[..] else {
        panic!("{entries:?}");
    };
    for (name, value) in [
        ("SYSLOG_IDENTIFIER", "tcpconnect"),
        ("PRIORITY", "4"),
        ("OBJECT_PID", "4711"),
        ("OBJECT_COMM", "curl"),
        ("TCPTOOLS_EVENT", "connect"),
        ("TCPTOOLS_TS", "2023-11-14T22:13:21.000000001Z"),
        ("TCPTOOLS_LPORT", "49152"),
        ("TCPTOOLS_RADDR", "192.0.2.2"),
        ("TCPTOOLS_LATENCY_US", "333"),
        ("TCPTOOLS_NEGATIVE", "-3"),
        ("TCPTOOLS_HUGE", "18446744073709551615"),
        ("TCPTOOLS_AGAIN", "true"),
        (
            "MESSAGE",
            "curl (pid 4711) 192.0.2.1:49152 to 192.0.2.2:443: open refused, after 0.333 ms",
        ),
    ] {
        assert_eq!(get(row, name), Some(value), "{name}: {row:?}");
    }
    // What is not known is left out.
    assert_eq!(
        (get(row, "TCPTOOLS_UNIT"), get(row, "TCPTOOLS_HOST")),
        (None, None)
    );
    assert_eq!(
        get(summary, "MESSAGE"),
        Some("end of the run, 1 row, lost 333")
    );
    assert_eq!(get(summary, "PRIORITY"), Some("4"));
    let entries = fields(&written(
        Format::Journal,
        "web1".parse().ok(),
        &head::default(),
        0,
    ));
    assert_eq!(get(&entries[0], "TCPTOOLS_HOST"), Some("web1"));
    assert_eq!(
        get(&entries[0], "MESSAGE"),
        Some("open established, after 0.000 ms")
    );
    assert_eq!(get(&entries[0], "PRIORITY"), Some("6"));
    assert_eq!(get(&entries[0], "OBJECT_PID"), None);
}

/// The attributes of a line's only record, and the record; and those of its host.
fn otlp(line: &str) -> (Json, Json, Json) {
    let message: Json = serde_json::from_str(line).unwrap();
    let flat = |all: &Json| -> Json {
        let all = all.as_array().unwrap().iter();
        let pair = |one: &Json| {
            (
                one["key"].as_str().unwrap().to_owned(),
                one["value"].clone(),
            )
        };
        Json::Object(all.map(pair).collect())
    };
    let of_host = &message["resourceLogs"][0];
    let record = &of_host["scopeLogs"][0]["logRecords"][0];
    (
        flat(&record["attributes"]),
        record.clone(),
        flat(&of_host["resource"]["attributes"]),
    )
}

#[test]
fn otlp_lines_have_typed_attributes() {
    let out = written(Format::Otlp, "web1".parse().ok(), &golden::heads()[2], 5);
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<_> = out.lines().collect();
    let (attributes, record, host) = otlp(lines[0]);
    assert_eq!(host["host.name"], json!({"stringValue": "web1"}));
    assert_eq!(host["service.name"], json!({"stringValue": "tcpconnect"}));
    for (name, value) in [
        ("network.type", json!({"stringValue": "ipv6"})),
        ("network.transport", json!({"stringValue": "tcp"})),
        (
            "network.local.address",
            json!({"stringValue": "2001:db8::1"}),
        ),
        ("network.local.port", json!({"intValue": "80"})),
        ("network.peer.port", json!({"intValue": "65535"})),
        ("process.pid", json!({"intValue": "80"})),
        ("tcptools.event", json!({"stringValue": "connect"})),
        ("tcptools.latency_us", json!({"intValue": "5"})),
        ("tcptools.ratio", json!({"doubleValue": 0.5})),
        ("tcptools.negative", json!({"intValue": "-3"})),
        // No int64.
        (
            "tcptools.huge",
            json!({"stringValue": "18446744073709551615"}),
        ),
        ("tcptools.again", json!({"boolValue": true})),
        ("tcptools.host", json!({"stringValue": "web1"})),
    ] {
        assert_eq!(attributes[name], value, "{name}");
    }
    assert_eq!(record["timeUnixNano"], "1700000002500000000");
    assert_eq!(record["eventName"], "tcpconnect.connect");
    assert_eq!(
        (&record["severityNumber"], &record["severityText"]),
        (&json!(13), &json!("warning"))
    );
    let body = record["body"]["stringValue"].as_str().unwrap();
    assert!(
        body.ends_with(" [2001:db8::1]:80 to [2001:db8::2]:65535: open refused, after 0.005 ms"),
        "{body}"
    );
    let (attributes, record, _) = otlp(lines[1]);
    assert_eq!(attributes["tcptools.lost"], json!({"intValue": "5"}));
    assert!(attributes.get("tcptools.skipped").is_none());
    assert_eq!(record["eventName"], "tcpconnect.summary");
}

#[test]
fn objects_and_arrays_are_nested_or_told_below() {
    let record = json!({
        "tool": "tcptools", "event": "finding", "severity": "critical", "kind": "path_loss",
        "subject": {"comm": "a\nb", "pid": 7}, "notes": ["x", 1, null, {"k": 0.5}], "text": "lost",
        "about": "curl to 192.0.2.1", "a \"key\"": true,
    });
    let record = record.as_object().unwrap();
    let (mut line, mut entry) = (Vec::new(), Vec::new());
    Logs::new(Format::Otlp, "tcptools", None)
        .unwrap()
        .object(&mut line, record);
    let (attributes, written, _) = otlp(std::str::from_utf8(&line).unwrap());
    assert_eq!(attributes["tcptools.subject.pid"], json!({"intValue": "7"}));
    let notes = json!({"arrayValue": {"values": [
        {"stringValue": "x"}, {"intValue": "1"}, {},
        {"kvlistValue": {"values": [{"key": "k", "value": {"doubleValue": 0.5}}]}},
    ]}});
    assert_eq!(attributes["tcptools.notes"], notes);
    assert_eq!(
        attributes[r#"tcptools.a "key""#],
        json!({"boolValue": true})
    );
    assert_eq!(written["severityNumber"], 17);
    assert_eq!(
        written["body"]["stringValue"],
        "path_loss: curl to 192.0.2.1: lost"
    );
    Logs::new(Format::Journal, "tcptools", None)
        .unwrap()
        .object(&mut entry, record);
    let entries = fields(&entry);
    assert_eq!(get(&entries[0], "TCPTOOLS_SUBJECT_COMM"), Some(r"a\x0ab"));
    assert_eq!(get(&entries[0], "TCPTOOLS_A__KEY_"), Some("true"));
    assert_eq!(get(&entries[0], "PRIORITY"), Some("3"));
}

#[test]
fn names_of_hosts_are_names() {
    assert_eq!(
        "web1".parse::<Host>().map(|host| host.name),
        Ok("web1".into())
    );
    let own: Host = "".parse().unwrap();
    assert!(!own.name.is_empty() && own.boot_id.len() == 36, "{own:?}");
    for name in ["a b", "a\nb", "\u{1b}", &"x".repeat(256)] {
        assert!(name.parse::<Host>().is_err(), "{name:?}");
    }
}
