// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether what was printed is what its format says.

use serde_json::{Map, Value};

use crate::output::Format;

/// Panics unless every line is a row of this format.
pub(crate) fn check(text: &[u8], format: Format) {
    let text = std::str::from_utf8(text).expect("UTF-8");
    let strange = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(strange), "a control character: {text:?}");
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    match format {
        Format::Json => text.lines().for_each(|line| drop(object(line))),
        Format::Csv => check_csv(text),
        Format::Table => {}
    }
}

/// A row of JSON Lines.
pub(crate) fn object(line: &str) -> Map<String, Value> {
    match serde_json::from_str(line) {
        Ok(Value::Object(row)) => row,
        other => panic!("{other:?}: {line}"),
    }
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
