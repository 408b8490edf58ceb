// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools check`: the host, and then every command, started for a moment.

use std::fmt::Write;

use crate::cli::Colour;
use crate::commands::tcptools::checks::{self, Check, Status};
use crate::kernel::diagnose::all_missing;
use crate::output::{
    print,
    terminal::{self, Tone},
};
use crate::suite::{TOOLS, Tool};
use anyhow::{Context, Result};
use serde::Serialize;

use super::find;

/// Whether a command runs here, in its own words if not.
#[derive(Serialize)]
struct Trial {
    tool: &'static str,
    event: &'static str,
    command: &'static str,
    runs: bool,
    why_not: Option<String>,
    missing_tracepoints: Vec<&'static str>,
}

#[derive(Serialize)]
struct CheckLine<'a> {
    tool: &'static str,
    event: &'static str,
    #[serde(flatten)]
    check: &'a Check,
}

#[derive(Serialize)]
struct Summary {
    tool: &'static str,
    event: &'static str,
    commands: usize,
    run: usize,
}

/// Really attaches the command for a moment: nothing else tells for sure whether it can.
fn trial(tool: &'static Tool) -> Trial {
    let why_not = start(tool.name).err().map(|e| format!("{e:#}"));
    let all: Vec<_> = tool.rows.iter().chain(tool.also).copied().collect();
    Trial {
        tool: "tcptools",
        event: "command",
        command: tool.name,
        runs: why_not.is_none(),
        why_not,
        missing_tracepoints: all_missing(&all).unwrap_or_default(),
    }
}

fn start(name: &str) -> Result<()> {
    let output = find::child(name)?
        .args(["--duration", "1ms", "--no-scan"])
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default();
    let said = said.trim_start_matches(&format!("{name}: "));
    anyhow::bail!(
        "{}",
        if said.is_empty() {
            "no error message"
        } else {
            said
        }
    )
}

/// What is coloured.
const WORDS: [(&str, Tone); 2] = [("NO", Tone::Bad), ("note", Tone::Odd)];

/// Where these words are in a line.
const STATUS: usize = 18;

/// Prints all, and says whether every command runs.
pub fn run(json: bool, colour: Colour) -> Result<bool> {
    let checks = checks::checks();
    let trials: Vec<_> = TOOLS.iter().map(trial).collect();
    let out = match json {
        true => lines(&checks, &trials)?,
        false if colour.is_wanted() => {
            let table = table(&checks, &trials);
            terminal::lines(&table, |line| terminal::word_at(line, STATUS, &WORDS))
        }
        false => table(&checks, &trials),
    };
    print::write_all(out.as_bytes())?;
    Ok(trials.iter().all(|trial| trial.runs))
}

fn lines(checks: &[Check], trials: &[Trial]) -> Result<String> {
    let mut out = String::new();
    for check in checks {
        let line = CheckLine {
            tool: "tcptools",
            event: "check",
            check,
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    for trial in trials {
        writeln!(out, "{}", serde_json::to_string(trial)?)?;
    }
    let summary = Summary {
        tool: "tcptools",
        event: "summary",
        commands: trials.len(),
        run: trials.iter().filter(|t| t.runs).count(),
    };
    writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    Ok(out)
}

fn line(name: &str, status: &str, said: &str) -> String {
    let indent = " ".repeat(24);
    format!("{name:<17} {status:<4}  {}", super::fit(said, &indent))
}

fn table(checks: &[Check], trials: &[Trial]) -> String {
    let (mut out, mut before) = (String::new(), Vec::<String>::new());
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Fail => "NO",
        };
        let said = match &check.remedy {
            // The reason of a refusal is often a line of its own already.
            Some(remedy) if before.contains(remedy) => format!("{}: as above", check.detail),
            Some(remedy) => format!("{}: {remedy}", check.detail),
            None => check.detail.clone(),
        };
        let _ = writeln!(out, "{}", line(check.name, status, &said));
        before.push(said);
    }
    out.push('\n');
    let names = |of: &dyn Fn(&Trial) -> bool| {
        let names: Vec<_> = trials.iter().filter(|t| of(t)).map(|t| t.command).collect();
        names.join(" ")
    };
    let running = names(&|t| t.runs);
    if !running.is_empty() {
        let _ = writeln!(out, "{}", line("can run", "ok", &running));
    }
    // One line for all that have the same reason.
    let mut reasons: Vec<&String> = vec![];
    for reason in trials.iter().filter_map(|t| t.why_not.as_ref()) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    for reason in reasons {
        let these = names(&|t| t.why_not.as_ref() == Some(reason));
        let said = format!("{these}: {reason}");
        let _ = writeln!(out, "{}", line("cannot run", "NO", &said));
    }
    out
}
