// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether what was printed is what its format says.

use serde_json::{Map, Value};

use crate::output::Format;
use crate::output::logs::framed;

/// Panics unless every line is a row of this format.
pub(crate) fn check(text: &[u8], format: Format) {
    if format == Format::Journal {
        return drop(entries(text));
    }
    let text = std::str::from_utf8(text).expect("UTF-8");
    let strange = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(strange), "a control character: {text:?}");
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    match format {
        Format::Json => text.lines().for_each(|line| drop(object(line))),
        Format::Csv => check_csv(text),
        Format::Otlp => text.lines().for_each(|line| drop(attributes(line))),
        Format::Table | Format::Journal => {}
    }
}

/// A row of JSON Lines.
pub(crate) fn object(line: &str) -> Map<String, Value> {
    match serde_json::from_str(line) {
        Ok(Value::Object(row)) => row,
        other => panic!("{other:?}: {line}"),
    }
}

/// The attributes of the only log record of an OTLP/JSON line; each has one value.
pub(crate) fn attributes(line: &str) -> Map<String, Value> {
    let message = object(line);
    let record = &message["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    let all = record["attributes"].as_array().expect("attributes").iter();
    let all: Vec<_> = all
        .map(|attribute| {
            let value = attribute["value"].as_object().expect("a value");
            assert_eq!(value.len(), 1, "{attribute}");
            let key = attribute["key"].as_str().expect("a key").to_owned();
            (key, value.values().next().expect("one").clone())
        })
        .collect();
    let count = all.len();
    let all: Map<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), count, "a key is there twice: {line}");
    all
}

/// The fields of entries of the journal. All are text, but for the name that a process chose.
pub(crate) fn entries(mut bytes: &[u8]) -> Vec<Map<String, Value>> {
    let mut all = Vec::new();
    while let Some((mut entry, taken)) = framed(bytes) {
        let mut fields = Map::new();
        while let Some((key, value, rest)) = first(entry) {
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(key.chars().all(is_name) && key.len() <= 64, "{key}");
            let text = match key {
                "OBJECT_COMM" => String::from_utf8_lossy(value).into_owned(),
                _ => String::from_utf8(value.to_vec()).expect("UTF-8"),
            };
            let shows = !text.contains(char::is_control);
            assert!(shows || key == "OBJECT_COMM", "{key}={text:?}");
            let before = fields.insert(key.to_owned(), text.into());
            assert!(before.is_none(), "{key} is there twice");
            entry = rest;
        }
        assert!(entry.is_empty(), "{entry:?}");
        all.push(fields);
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    all
}

/// The first field of an entry, and what follows it.
fn first(entry: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let at = entry.iter().position(|byte| b"=\n".contains(byte))?;
    let (key, rest) = entry.split_at(at);
    let key = std::str::from_utf8(key).expect("a name");
    let (value, rest) = match rest.strip_prefix(b"=") {
        Some(rest) => rest.split_at(rest.iter().position(|byte| *byte == b'\n')?),
        None => {
            let (size, rest) = rest.get(1..)?.split_first_chunk()?;
            rest.split_at_checked(u64::from_le_bytes(*size) as usize)?
        }
    };
    Some((key, value, rest.strip_prefix(b"\n")?))
}

/// Every line has as many fields as the first one, the header.
fn check_csv(text: &str) {
    let mut lines = text.lines();
    let count = lines.next().map(|header| fields(header).len());
    for line in lines {
        assert_eq!(Some(fields(line).len()), count, "{line}");
    }
}

/// The fields of a record (RFC 4180) without a line's end in it: those that were printed have none.
pub(crate) fn fields(line: &str) -> Vec<String> {
    let (mut all, mut quoted, mut chars) = (vec![String::new()], false, line.chars().peekable());
    while let Some(c) = chars.next() {
        let field = all.last_mut().expect("one");
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(String::new()),
            c => field.push(c),
        }
    }
    assert!(!quoted, "{line}");
    all
}
