// SPDX-License-Identifier: MIT OR Apache-2.0
//! Incidents, and what triage finds: the right cause first, and nothing on a healthy host.

mod buffers;
mod endings;
mod guide;
mod listeners;
mod opening;
mod path;
mod waiting;

use std::{
    fs,
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{net::Netns, scratch::Scratch, tool::Tool, wait::PATIENCE};

pub fn tests() -> Vec<Trial> {
    [
        listeners::tests(),
        opening::tests(),
        path::tests(),
        buffers::tests(),
        waiting::tests(),
        endings::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What was found, the worst first, and the summary, which says how many rows of which command there were.
#[derive(Debug)]
struct Found {
    findings: Vec<Value>,
    summary: Value,
}

impl Deref for Found {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.findings
    }
}

/// What triage finds in these namespaces while `incident` happens.
fn findings(
    namespaces: &[&Netns],
    time: Duration,
    incident: impl FnOnce() -> Result<()>,
) -> Result<Found> {
    look(namespaces, time, &[], incident)
}

/// A command that ends when the file is there, or its parent is not.
const UNTIL: &str = r#"until [ -e "$0" ] || ! kill -0 $PPID; do sleep 0.1; done"#;

/// The same, with more flags. `triage` looks for this long, and longer if the incident is not over: a host may stand
/// still for seconds.
fn look(
    namespaces: &[&Netns],
    time: Duration,
    flags: &[&str],
    incident: impl FnOnce() -> Result<()>,
) -> Result<Found> {
    let inodes: Vec<_> = namespaces.iter().map(|ns| ns.inode.to_string()).collect();
    let netns = inodes.join(",");
    let text = format!("{}ms", time.as_millis());
    let args = ["triage", "--json", "-d", &text, "--netns", &netns];
    let over = Scratch::path("over");
    let until = ["--", "sh", "-c", UNTIL, over.text()];
    let tool = Tool::start("tcptools", &[&args, flags, &until].concat())?;
    let end = Instant::now() + time;
    incident()?;
    thread::sleep(end.saturating_duration_since(Instant::now()));
    fs::write(&*over, "")?;
    let run = tool.finish(PATIENCE)?;
    let mut findings: Vec<Value> = run
        .lines
        .iter()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let summary = findings.pop().context("nothing")?;
    ensure!(
        summary["event"] == "summary" && summary["findings"] == findings.len(),
        "{summary}"
    );
    // Some commands have no backup programs: what they miss is a note, and counted.
    let notes = summary["notes"].as_array().context("no notes")?;
    let missed = |note: &&Value| {
        note.as_str()
            .is_some_and(|note| note.contains("events missed"))
    };
    let missed = notes.iter().filter(missed).count();
    ensure!(missed == notes.len(), "{summary}");
    ensure!(summary["lost"] == 0 || missed > 0, "{summary}");
    let exit = if findings.is_empty() { 0 } else { 10 };
    ensure!(run.status.code() == Some(exit), "{run:?}");
    Ok(Found { findings, summary })
}

fn first_is<'a>(found: &'a Found, kind: &str) -> Result<&'a Value> {
    let first = found
        .first()
        .with_context(|| format!("nothing found: {}", found.summary))?;
    ensure!(first["kind"] == kind, "not {kind}: {found:#?}");
    Ok(first)
}
