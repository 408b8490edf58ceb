// SPDX-License-Identifier: MIT OR Apache-2.0
//! How comparisons are printed.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use super::checks::Tally;
use crate::cli::Colour;
use crate::commands::tcptools::fit;
use crate::output::{
    escape, print,
    terminal::{self, Tone},
};

/// Ends the line of a comparison that failed.
const DIFFERS: &str = "DIFFERS";

/// # Errors
/// When standard output does not take it.
pub(super) fn print(tallies: &[Tally], notes: &[String], json: bool, colour: Colour) -> Result<()> {
    let text = match json {
        true => objects(tallies, notes),
        false if colour.is_wanted() => terminal::lines(&table(tallies, notes), |line| {
            let at = line.len().checked_sub(DIFFERS.len())?;
            terminal::word_at(line, at, &[(DIFFERS, Tone::Bad)])
        }),
        false => table(tallies, notes),
    };
    print::write_all(text.as_bytes())
}

fn count(tallies: &[Tally], verdict: &str) -> usize {
    let these = tallies.iter().filter(|tally| tally.verdict() == verdict);
    these.count()
}

fn objects(tallies: &[Tally], notes: &[String]) -> String {
    let lines = tallies.iter().map(|tally| {
        json!({"tool": "tcptools", "event": "comparison", "command": tally.check.tool,
               "what": tally.check.what, "from": tally.check.from, "expected": tally.right,
               "rows": tally.rows, "verdict": tally.verdict(), "why_not": tally.why_not})
    });
    let summary = json!({"tool": "tcptools", "event": "summary", "equal": count(tallies, "equal"),
                         "differ": count(tallies, "differs"), "not_run": count(tallies, "not_run"),
                         "notes": notes});
    let lines = lines.chain([summary]);
    lines.map(|line| format!("{line}\n")).collect()
}

fn table(tallies: &[Tally], notes: &[String]) -> String {
    let mut table = format!(
        "{:<10} {:<26} {:>8} {:>8}  {}\n",
        "COMMAND", "ITS ROWS ARE", "ROWS", "RIGHT", "RIGHT IS"
    );
    for tally in tallies {
        let check = tally.check;
        if let Some(why_not) = &tally.why_not {
            let said = format!("not run: {}", escape::text(why_not));
            let said = fit(&said, "           ");
            let _ = writeln!(table, "{:<10} {said}", check.tool);
            continue;
        }
        let (gap, mark) = if tally.agrees() {
            ("", "")
        } else {
            ("  ", DIFFERS)
        };
        let _ = writeln!(
            table,
            "{:<10} {:<26} {:>8} {:>8}  {}{gap}{mark}",
            check.tool, check.what, tally.rows, tally.right, check.from
        );
    }
    let (equal, differ) = (count(tallies, "equal"), count(tallies, "differs"));
    let not_run = count(tallies, "not_run");
    let _ = writeln!(
        table,
        "\n{equal} equal, {differ} differ, {not_run} not run."
    );
    for note in notes {
        let note = format!("note: {}", escape::text(note));
        let _ = writeln!(table, "{}", fit(&note, "      "));
    }
    table
}
