// SPDX-License-Identifier: MIT OR Apache-2.0
//! `triage --list` and `--explain`.

use std::fmt::Write;

use anyhow::{Result, bail};
use serde_json::json;

use super::kind::{Kind, Limits};
use super::rules::RULES;
use crate::commands::tcptools::{fit, names};
use crate::error::Usage;
use crate::output::print;

/// # Errors
/// When standard output does not take it.
pub fn list(limits: &Limits, json: bool) -> Result<()> {
    let mut text = String::new();
    for kind in RULES.iter().map(|rule| rule.kind) {
        if json {
            let figures = kind.limits.iter().map(|limit| {
                json!({ "name": limit.name, "value": limits.of(limit), "unit": limit.unit, "why": limit.why })
            });
            let figures: Vec<_> = figures.collect();
            let line = json!({ "tool": "tcptools", "event": "kind", "kind": kind.name, "what": kind.what, "limits": figures });
            let _ = writeln!(text, "{line}");
        } else {
            let _ = writeln!(text, "{}\n  {}", kind.name, fit(kind.what, "  "));
            figures(&mut text, kind, limits);
        }
    }
    print::write_all(text.as_bytes())
}

fn figures(text: &mut String, kind: &Kind, limits: &Limits) {
    for limit in kind.limits {
        let line = format!(
            "{}={} {}. {}",
            limit.name,
            limits.of(limit),
            limit.unit,
            limit.why
        );
        let _ = writeln!(text, "    {}", fit(&line, "      "));
    }
}

/// # Errors
/// A sentence: there is no such kind.
pub fn explain(name: &str, limits: &Limits) -> Result<()> {
    let mut kinds = RULES.iter().map(|rule| rule.kind);
    let Some(kind) = kinds.find(|kind| kind.name == name) else {
        let all = RULES.iter().map(|rule| rule.kind.name);
        bail!(Usage(names::unknown_of("kind of finding", name, all)));
    };
    let mut text = format!("{}\n  {}\n\n", kind.name, fit(kind.what, "  "));
    for paragraph in kind.explain.split('\n') {
        let _ = writeln!(text, "  {}\n", fit(paragraph, "  "));
    }
    if !kind.limits.is_empty() {
        text.push_str("  It is found from these figures on, changed by --set NAME=VALUE:\n");
        figures(&mut text, kind, limits);
    }
    print::write_all(text.as_bytes())
}
