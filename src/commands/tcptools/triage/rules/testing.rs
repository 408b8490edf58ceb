// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows for the rules' tests: recorded ones, and ones made of a few values.

use serde_json::{Value, json};

use super::Rule;
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::Finding;
use crate::commands::tcptools::triage::kind::Limits;

/// A row of a command with these values beside `tool`, `event` and `boot_ns`.
pub fn row(tool: &str, event: &str, values: Value) -> Row {
    at(1.0, tool, event, values)
}

/// The same, of this second.
pub fn at(second: f64, tool: &str, event: &str, values: Value) -> Row {
    let boot_ns = (second * 1e9) as u64;
    let mut row = json!({ "tool": tool, "event": event, "boot_ns": boot_ns });
    let object = row.as_object_mut().unwrap();
    object.extend(values.as_object().unwrap().clone());
    Row::parse(row.to_string(), 0).unwrap()
}

/// What the rule finds in these rows of ten seconds, with the default limits.
pub fn find<R: Rule + Default>(rows: &[Row]) -> Vec<Finding> {
    let limits = Limits::default();
    let mut rule = R::default();
    rows.iter().for_each(|row| rule.see(row, &limits));
    rule.find(&limits, 10.0)
}
