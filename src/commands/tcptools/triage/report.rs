// SPDX-License-Identifier: MIT OR Apache-2.0
//! How findings are printed.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::finding::{Finding, Severity};
use super::seen::Seen;
use crate::commands::tcptools::fit;
use crate::commands::tcptools::written::{Form, Written, name};
use crate::output::{
    escape, print,
    terminal::{self, Tone},
};

/// How many lines of what commands reported are shown.
const NOTES: usize = 5;

/// In which form.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    pub written: &'a Written,
    /// Whether a page has colours.
    pub colour: bool,
}

/// What is coloured.
const WORDS: [(&str, Tone); 2] = [
    (Severity::Critical.name(), Tone::Bad),
    (Severity::Warning.name(), Tone::Odd),
];

/// # Errors
/// When standard output does not take it.
pub fn print(
    findings: &[Finding],
    seen: &Seen,
    seconds: f64,
    notes: &[String],
    how: How<'_>,
) -> Result<()> {
    let written = how.written;
    let form = written.form();
    if form == Form::Table {
        let mut text = page(findings, seen, seconds, notes);
        if how.colour {
            text = terminal::lines(&text, |line| terminal::word_at(line, 0, &WORDS));
        }
        return print::write_all(text.as_bytes());
    }
    let mut records = records(findings, seen, seconds, notes);
    for (n, record) in records.iter_mut().enumerate() {
        name(record, written.host.as_ref());
        if let Some(finding) = findings.get(n).filter(|_| form != Form::Json) {
            record.insert("about".into(), finding.subject.to_string().into());
        }
    }
    print::records(&written.encode(&lines(records)))
}

/// The same as text.
#[cfg(any(test, fuzzing))]
pub fn text(
    findings: &[Finding],
    seen: &Seen,
    seconds: f64,
    notes: &[String],
    json: bool,
) -> String {
    match json {
        true => lines(records(findings, seen, seconds, notes)),
        false => page(findings, seen, seconds, notes),
    }
}

fn records(
    findings: &[Finding],
    seen: &Seen,
    seconds: f64,
    notes: &[String],
) -> Vec<Map<String, Value>> {
    let mut summary = seen.to_json();
    if let Value::Object(summary) = &mut summary {
        summary.insert("tool".into(), "tcptools".into());
        summary.insert("event".into(), "summary".into());
        summary.insert("findings".into(), findings.len().into());
        summary.insert("duration_us".into(), json!((seconds * 1e6) as u64));
        summary.insert("notes".into(), json!(notes));
    }
    let all = findings.iter().map(Finding::to_json).chain([summary]);
    all.filter_map(|record| match record {
        Value::Object(record) => Some(record),
        _ => None,
    })
    .collect()
}

fn lines(records: Vec<Map<String, Value>>) -> String {
    let lines = records.into_iter().map(Value::Object);
    lines.map(|line| format!("{line}\n")).collect()
}

fn page(findings: &[Finding], seen: &Seen, seconds: f64, notes: &[String]) -> String {
    let mut page = String::new();
    for finding in findings {
        let severity = finding.severity.name();
        let _ = writeln!(page, "{severity:<8}  {}", finding.kind.name);
        let sentence = format!("{}: {}.", finding.subject, finding.text);
        let _ = writeln!(page, "          {}", fit(&sentence, "          "));
        let _ = writeln!(page, "          > {}", finding.next);
    }
    if findings.is_empty() {
        page.push_str("Nothing found.\n");
    } else {
        page.push('\n');
    }
    let mut sentence = seen.sentence(seconds);
    sentence[..1].make_ascii_uppercase();
    let _ = writeln!(page, "{}", fit(&format!("{sentence}."), ""));
    if seen.lost() > 0 {
        let _ = writeln!(page, "The commands lost {} events meanwhile.", seen.lost());
    }
    if let Some(first) = findings.first() {
        let _ = writeln!(
            page,
            "tcptools triage --explain {} says more.",
            first.kind.name
        );
    }
    for note in notes.iter().take(NOTES) {
        let _ = writeln!(
            page,
            "{}",
            fit(&format!("note: {}", escape::text(note)), "      ")
        );
    }
    page
}
