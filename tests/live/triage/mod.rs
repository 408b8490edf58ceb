// SPDX-License-Identifier: MIT OR Apache-2.0
//! Incidents, and what triage finds: the right cause first, and nothing on a healthy host.

mod buffers;
mod endings;
mod guide;
mod listeners;
mod opening;
mod path;
mod waiting;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{net::Netns, tool::Tool, wait::PATIENCE};

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

/// What triage finds in these namespaces while `incident` happens, for which it has this long.
///
/// `triage` looks until the time is over, however soon the incident returns.
fn findings(
    namespaces: &[&Netns],
    time: Duration,
    incident: impl FnOnce() -> Result<()>,
) -> Result<Vec<Value>> {
    look(namespaces, time, &[], incident)
}

/// The same, with more flags.
fn look(
    namespaces: &[&Netns],
    time: Duration,
    flags: &[&str],
    incident: impl FnOnce() -> Result<()>,
) -> Result<Vec<Value>> {
    let inodes: Vec<_> = namespaces.iter().map(|ns| ns.inode.to_string()).collect();
    let netns = inodes.join(",");
    let text = format!("{}ms", time.as_millis());
    let args = ["triage", "--json", "-d", &text, "--netns", &netns];
    let tool = Tool::start("tcptools", &[&args, flags].concat())?;
    incident()?;
    let run = tool.finish(time + PATIENCE)?;
    let rows: Vec<Value> = run
        .lines
        .iter()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let (summary, found) = rows.split_last().context("nothing")?;
    ensure!(
        summary["event"] == "summary" && summary["findings"] == found.len(),
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
    let exit = if found.is_empty() { 0 } else { 10 };
    ensure!(run.status.code() == Some(exit), "{run:?}");
    Ok(found.to_vec())
}

/// That the first one is of this kind, and has these figures at least.
fn first_is<'a>(found: &'a [Value], kind: &str) -> Result<&'a Value> {
    let first = found.first().context("nothing found")?;
    ensure!(first["kind"] == kind, "not {kind}: {found:#?}");
    Ok(first)
}
